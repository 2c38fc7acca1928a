//! Why something is not there.

use std::fmt;

use super::ModuleFile;

/// Why a [`Requirement`](super::Requirement) is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// In a word.
    pub reason: Reason,
    /// The kernel's errno, if it is the kernel that said no.
    pub errno: Option<i32>,
    /// What was tried, and what came of it.
    pub message: String,
}

/// Why something is not there, in a word.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The kernel has it not, or not loaded.
    NoModule {
        /// The kernel's module that brings it.
        module: Box<str>,
        /// Whether there is a file of that module.
        file: ModuleFile,
    },
    /// The process may not.
    Permission,
    /// It can be read and not written.
    ReadOnly,
    /// A program is not installed.
    NotInstalled,
    /// The kernel could not answer: it was out of memory or buffers, interrupted or busy. Nothing
    /// is known of what was looked for.
    Busy,
    /// It was refused for another reason.
    Refused,
    /// Something else has to be there first.
    NotTried,
}

impl Reason {
    /// A name that stays as it is.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoModule { .. } => "no-module",
            Self::Permission => "permission",
            Self::ReadOnly => "read-only",
            Self::NotInstalled => "not-installed",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::NotTried => "not-tried",
        }
    }
}

impl Missing {
    /// Something that is not there, without an errno.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            errno: None,
            message: message.into(),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
