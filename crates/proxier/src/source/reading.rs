//! Changes and findings of a source.

use super::Diagnostic;
use crate::store::Change;

/// What a source found since the reading before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reading {
    /// Apply them to the store together.
    pub changes: Vec<Change>,
    /// Everything that is not used as written.
    pub diagnostics: Vec<Diagnostic>,
}

impl Reading {
    /// Whether anything is wrong: an object, or a part of one, is not used.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Whether nothing changed and nothing was found.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.diagnostics.is_empty()
    }
}
