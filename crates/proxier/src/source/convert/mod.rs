//! From the API's own types to the [`model`](crate::model), with the checks the API server makes
//! of what is used.
//!
//! Each function takes an object as k8s-openapi has it and knows nothing of where it came from,
//! so that every source refuses the same objects in the same words. An object with one error is
//! refused whole, as the API server does, and all its errors are told.

mod address;
mod endpoint_slice;
mod endpoints;
mod field;
mod names;
mod node;
mod pod;
mod selection;
mod service;
mod service_cidr;

use std::fmt;

pub use endpoint_slice::endpoint_slice;
pub use endpoints::endpoints;
pub use node::node;
pub use pod::pod;
pub use selection::selection;
pub use service::service;
pub use service_cidr::service_cidr;

use super::Diagnostic;
use crate::model::Unusable;
use crate::notice::Reason;

/// Most that is told of one object: a hostile one may have an error every few bytes.
const MAX_FINDINGS: usize = 100;
/// Most that is kept of what cannot be used in one object.
const MAX_UNUSABLE: usize = 4;

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Converted<T> {
    /// The object; none if it has an error or is left out on purpose.
    pub object: Option<T>,
    /// What was found, in the order of the object's fields, without object or location.
    pub diagnostics: Vec<Diagnostic>,
}

impl<T> Converted<T> {
    /// Whether the object has an error.
    pub fn is_refused(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Collects what is found in one object.
#[derive(Debug, Default)]
struct Findings(Vec<Diagnostic>);

impl Findings {
    fn error(&mut self, field: fmt::Arguments<'_>, message: impl fmt::Display) {
        if self.0.len() < MAX_FINDINGS || !self.refused() {
            self.0.push(Diagnostic::error(message).with_field(field));
        }
    }

    fn note(&mut self, field: fmt::Arguments<'_>, message: impl fmt::Display) {
        if self.0.len() < MAX_FINDINGS {
            self.0.push(Diagnostic::note(message).with_field(field));
        }
    }

    /// What was found since there were so many findings, as the model keeps it.
    fn unusable_since(&self, before: usize, reason: Reason) -> Box<[Unusable]> {
        let found = self.0.iter().skip(before).take(MAX_UNUSABLE);
        let kept = found.map(|diagnostic| {
            let field = diagnostic.field.clone().unwrap_or_default();
            Unusable::new(field, reason, diagnostic.message.clone())
        });
        kept.collect()
    }

    fn refused(&self) -> bool {
        self.0.iter().any(Diagnostic::is_error)
    }

    fn converted<T>(self, object: Option<T>) -> Converted<T> {
        let refused = self.refused();
        Converted {
            object: object.filter(|_| !refused),
            diagnostics: self.0,
        }
    }
}
