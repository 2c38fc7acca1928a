//! Converts [API objects](super::api) to the [`model`](crate::model), with the API server's checks
//! of the used fields.
//!
//! The conversion does not depend on the source, so every source rejects the same objects with the
//! same messages. An invalid port, address or range is left out, and the rest of the object is
//! used. Any other error rejects the object, and so does an object of which no port or no address
//! is left. All errors of an object are reported.

mod address;
mod endpoint_slice;
mod endpoints;
mod field;
mod names;
mod node;
mod selection;
mod service;

use std::fmt;

use ipnet::IpNet;

use super::{Diagnostic, Severity, api};
use crate::model::Unusable;
use crate::notice::Reason;

pub use endpoint_slice::endpoint_slice;
pub use endpoints::endpoints;
#[cfg(feature = "manifest")]
pub(super) use endpoints::is_mirrored;
pub use node::node;
pub use selection::{pod, selection};
pub use service::service;

/// Maximum number of reported findings per object: a hostile object may have an error every few
/// bytes.
const MAX_FINDINGS: usize = 100;
/// Maximum number of unusable fields that the model keeps per object.
const MAX_UNUSABLE: usize = 4;

/// The result of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Converted<T> {
    /// The object; none if it is rejected or left out on purpose.
    pub object: Option<T>,
    /// Findings in the order of the object's fields, without object or location.
    pub diagnostics: Vec<Diagnostic>,
}

impl<T> Converted<T> {
    /// Whether the object is rejected as a whole.
    pub fn is_refused(&self) -> bool {
        let mut severities = self.diagnostics.iter().map(|found| found.severity);
        severities.any(|severity| severity == Severity::Error)
    }
}

/// What a source makes of an object that it read.
#[cfg(any(feature = "kube", feature = "manifest"))]
#[derive(Debug, Clone)]
pub(super) enum Ingested<T> {
    Good(T),
    /// The object exists, but needs nothing on a node.
    LeftOut,
    /// The object is rejected; its last good version stays in effect.
    Refused,
}

/// Collects the findings of one object.
#[derive(Debug, Default)]
struct Findings {
    diagnostics: Vec<Diagnostic>,
    refused: bool,
}

impl Findings {
    /// Rejects the object.
    fn error(&mut self, field: fmt::Arguments<'_>, message: impl fmt::Display) {
        // The first error is always kept: it explains why the object is rejected.
        if self.diagnostics.len() < MAX_FINDINGS || !self.refused {
            let error = Diagnostic::error(message).with_field(field);
            self.diagnostics.push(error);
        }
        self.refused = true;
    }

    /// Leaves out the part of the object at `field`, such as a port or an address.
    fn left_out(&mut self, field: fmt::Arguments<'_>, message: impl fmt::Display) {
        self.push(Diagnostic::warning(message).with_field(field));
    }

    fn note(&mut self, field: fmt::Arguments<'_>, message: impl fmt::Display) {
        self.push(Diagnostic::note(message).with_field(field));
    }

    fn push(&mut self, diagnostic: Diagnostic) {
        if self.diagnostics.len() < MAX_FINDINGS {
            self.diagnostics.push(diagnostic);
        }
    }

    /// Whether a part of the object was left out after the first `before` findings.
    fn left_out_since(&self, before: usize) -> bool {
        let mut found = self.diagnostics.iter().skip(before);
        found.any(|found| found.severity == Severity::Warning)
    }

    /// Rejects the object because all parts of one kind are left out; their own findings say why.
    fn nothing_left(&mut self) {
        self.refused = true;
    }

    /// The findings after the first `before` ones, as the model keeps them.
    fn unusable_since(&self, before: usize, reason: Reason) -> Box<[Unusable]> {
        let found = self.diagnostics.iter().skip(before).take(MAX_UNUSABLE);
        let kept = found.map(|diagnostic| {
            let field = diagnostic.field.clone().unwrap_or_default();
            Unusable::new(field, reason, diagnostic.message.clone())
        });
        kept.collect()
    }

    fn converted<T>(self, object: Option<T>) -> Converted<T> {
        let Self {
            mut diagnostics,
            refused,
        } = self;
        if refused {
            // In a rejected object, left-out parts are errors like the others.
            for diagnostic in &mut diagnostics {
                if diagnostic.severity == Severity::Warning {
                    diagnostic.severity = Severity::Error;
                }
            }
        }
        Converted {
            object: object.filter(|_| !refused),
            diagnostics,
        }
    }
}

/// Converts the networks of a ServiceCIDR. One that is being deleted still counts, because it
/// exists until no Service has an address in it.
pub fn service_cidr(object: &api::ServiceCidr) -> Converted<Vec<IpNet>> {
    let mut findings = Findings::default();
    let cidrs = object.spec.cidrs.iter().enumerate();
    let networks = cidrs
        .filter_map(|(index, text)| findings.network(text, format_args!("spec.cidrs[{index}]")));
    let networks = networks.collect();
    findings.converted(Some(networks))
}
