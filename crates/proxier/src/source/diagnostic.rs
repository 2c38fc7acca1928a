//! What a source has to say of its input.

use std::fmt;
use std::path::PathBuf;

/// Something in the input that is not used as written, and where it stands.
///
/// Shown as `web.yaml: document 2 (line 14): Service default/web: spec.ports[0].port: 70000 is
/// not a port (1 to 65535)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// Where it stands, for input that comes from files.
    pub location: Option<Location>,
    /// Kind and name of the object, as far as they could be read: `Service default/web`.
    pub object: Option<String>,
    /// Path of the field: `spec.ports[0].port`.
    pub field: Option<String>,
    /// What is wrong and what may stand there.
    pub message: String,
}

/// How much a [`Diagnostic`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// The object is not used; its last good version, if there was one, stays in force.
    Error,
    /// Left out on purpose, such as a kind that a service proxy has no use for.
    Note,
}

/// A place in a manifest file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Location {
    /// The file.
    pub file: PathBuf,
    /// Document within the file, from 1.
    pub document: usize,
    /// Line within the file, from 1, where known.
    pub line: Option<usize>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}", self.file.display(), self.document)?;
        match self.line {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if let Some(object) = &self.object {
            // Input is shown escaped: a name may hold line breaks or terminal controls.
            write!(f, "{}: ", object.escape_debug())?;
        }
        if let Some(field) = &self.field {
            write!(f, "{}: ", field.escape_debug())?;
        }
        write!(f, "{}", self.message.escape_debug())
    }
}
