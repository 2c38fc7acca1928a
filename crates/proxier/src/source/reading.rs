//! Changes and findings of a source.

use super::Diagnostic;
use crate::store::Change;

/// Everything that a source found since the previous reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reading {
    /// The changes, which the store must apply together.
    pub changes: Vec<Change>,
    /// Every part of the input that is not used as written.
    pub diagnostics: Vec<Diagnostic>,
    /// The versions of objects that changed individually, if they have versions.
    pub causes: Vec<Cause>,
}

/// An object that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cause {
    /// Its kind: `EndpointSlice`.
    pub kind: &'static str,
    /// Its name, with its namespace if it has one: `default/web-1`.
    pub object: String,
    /// Its `resourceVersion`.
    pub version: String,
}

impl Cause {
    /// A change to this version.
    pub fn new(kind: &'static str, object: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            kind,
            object: object.into(),
            version: version.into(),
        }
    }
}

impl Reading {
    /// Whether an object, or a part of one, is invalid and not used.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Whether nothing changed and nothing was found.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.diagnostics.is_empty()
    }
}
