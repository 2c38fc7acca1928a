//! The parsed content of a file.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::{Diagnostic, Location};
use super::object::{Key, Object};

/// Maximum number of errors, and of notes, that are reported per file.
const MAX_REPORTED: usize = 1000;

/// The objects of documents without diagnostics, by a keyed hash of their text.
pub(super) type Documents = HashMap<u64, Box<[Known]>>;

/// A valid object of a document.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) key: Key,
    pub(super) item: Option<String>,
    pub(super) object: Arc<Object>,
}

/// The result for an object in a document.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Good(Arc<Object>),
    /// The object exists, but needs nothing on a node.
    LeftOut,
    Refused,
}

/// An object that a document defines.
#[derive(Debug, Clone)]
pub(super) struct Definition {
    pub(super) key: Key,
    pub(super) location: Location,
    pub(super) outcome: Outcome,
}

impl Definition {
    /// The part that can be reused when the same document is read again.
    pub(super) fn known(&self) -> Option<Known> {
        let Outcome::Good(object) = &self.outcome else {
            return None;
        };
        Some(Known {
            key: self.key.clone(),
            item: self.location.item.clone(),
            object: object.clone(),
        })
    }
}

/// The content of a file.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) definitions: Vec<Definition>,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// A part of the file is so broken that its object cannot be identified.
    pub(super) unattributed: bool,
    /// A part of the file could not be read as an object.
    pub(super) unread: bool,
    /// The number of errors without the limit.
    pub(super) errors: usize,
    pub(super) notes: usize,
}

impl Parsed {
    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        let count = if diagnostic.is_error() {
            &mut self.errors
        } else {
            &mut self.notes
        };
        *count += 1;
        if *count <= MAX_REPORTED {
            self.diagnostics.push(diagnostic);
        } else if *count == MAX_REPORTED + 1 {
            self.diagnostics.push(Diagnostic {
                object: None,
                field: None,
                message: "more like this in the rest of the file".to_owned(),
                ..diagnostic
            });
        }
    }

    /// The diagnostics after the first `before` ones.
    pub(super) fn since(&mut self, before: usize) -> &mut [Diagnostic] {
        self.diagnostics.get_mut(before..).unwrap_or_default()
    }
}
