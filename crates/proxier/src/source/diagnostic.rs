//! Findings of a source about its input.

use std::fmt;
use std::path::PathBuf;

use crate::escaped::Escaped;

/// Maximum length of a message or field: values in a file may have megabytes.
const MAX_TEXT: usize = 400;

/// A part of the input that is not used as written, and its place.
///
/// Shown as `web.yaml: document 2 (line 14): Service default/web: spec.ports[0].port: 70000 is
/// not a port (1 to 65535)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The consequence for the object.
    pub severity: Severity,
    /// Place in the input, for input that comes from files.
    pub location: Option<Location>,
    /// Kind and name of the object, as far as they could be read: `Service default/web`.
    pub object: Option<String>,
    /// Path of the field: `spec.ports[0].port`.
    pub field: Option<String>,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl Diagnostic {
    /// An error, its text cut to a readable length.
    pub fn error(message: impl fmt::Display) -> Self {
        Self::new(Severity::Error, message)
    }

    /// A warning, its text cut to a readable length.
    pub fn warning(message: impl fmt::Display) -> Self {
        Self::new(Severity::Warning, message)
    }

    /// A note, its text cut to a readable length.
    pub fn note(message: impl fmt::Display) -> Self {
        Self::new(Severity::Note, message)
    }

    fn new(severity: Severity, message: impl fmt::Display) -> Self {
        Self {
            severity,
            location: None,
            object: None,
            field: None,
            message: cut(message),
        }
    }

    /// Sets the field.
    pub fn with_field(mut self, field: impl fmt::Display) -> Self {
        self.field = Some(cut(field));
        self
    }

    /// Sets the object.
    pub fn with_object(mut self, object: impl fmt::Display) -> Self {
        self.object = Some(cut(object));
        self
    }

    /// Sets the location.
    pub fn at(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    /// Replaces the message, cut to a readable length.
    #[cfg(feature = "manifest")]
    pub(super) fn set_message(&mut self, message: impl fmt::Display) {
        self.message = cut(message);
    }

    /// Whether the input is wrong, not only left out on purpose.
    pub fn is_error(&self) -> bool {
        self.severity != Severity::Note
    }
}

/// The consequence of a [`Diagnostic`] for the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// The object is not used; its last good version, if there was one, stays in effect.
    Error,
    /// A port, address or range is not used; the rest of the object is.
    Warning,
    /// Left out on purpose, such as a kind that a service proxy does not use.
    Note,
}

/// A place in a manifest file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Location {
    /// The file, or the directory that could not be read.
    pub file: PathBuf,
    /// Document within the file, from 1; none for the whole file. Empty documents, such as a
    /// comment at the head of a file, do not count.
    pub document: Option<usize>,
    /// Item, if the document is a list: `items[3]`.
    pub item: Option<String>,
    /// Line within the file, from 1, if known.
    pub line: Option<usize>,
}

impl Location {
    /// A whole file or directory.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            document: None,
            item: None,
            line: None,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.file.to_string_lossy()))?;
        if let Some(document) = self.document {
            write!(f, ": document {document}")?;
        }
        if let Some(item) = &self.item {
            write!(f, ", {item}")?;
        }
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
            write!(f, "{}: ", Escaped(object))?;
        }
        if let Some(field) = &self.field {
            write!(f, "{}: ", Escaped(field))?;
        }
        write!(f, "{}", Escaped(&self.message))
    }
}

fn cut(text: impl fmt::Display) -> String {
    let mut text = text.to_string();
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
        text.shrink_to_fit();
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_escaped_and_quotes_are_not() {
        let shown = Diagnostic::error("\"a\" is not b\u{202e}\r")
            .with_object("Service default/x\n\u{1b}[31m")
            .with_field("spec")
            .to_string();
        assert_eq!(
            shown,
            "Service default/x\\n\\u{1b}[31m: spec: \"a\" is not b\\u{202e}\\r"
        );
    }

    #[test]
    fn long_text_is_cut() {
        let message = Diagnostic::error("ä".repeat(1_000_000)).message;
        assert_eq!(message.chars().count(), MAX_TEXT + 1);
    }
}
