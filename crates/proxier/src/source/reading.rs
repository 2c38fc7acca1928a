//! What a source has found.

use super::Diagnostic;
use crate::store::Change;

/// What a source has found since it was asked last, or has told last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reading {
    /// To be applied to the store together.
    pub changes: Vec<Change>,
    /// Everything that is not used as written.
    pub diagnostics: Vec<Diagnostic>,
}

impl Reading {
    /// Whether anything was refused.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.diagnostics.is_empty()
    }
}
