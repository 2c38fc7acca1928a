//! Why a requirement is missing.

use std::fmt;

use super::ModuleFile;

/// Why a [`Requirement`](super::Requirement) is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// The kind of reason.
    pub reason: Reason,
    /// The kernel's errno, if the kernel returned one.
    pub errno: Option<i32>,
    /// What was tried, and the result.
    pub message: String,
}

/// The kind of reason why a requirement is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The kernel does not have it, or has not loaded it.
    NoModule {
        /// The kernel module that provides it.
        module: Box<str>,
        /// Whether the module's file exists.
        file: ModuleFile,
    },
    /// The process lacks the permission.
    Permission,
    /// It can be read but not written.
    ReadOnly,
    /// A program is not installed.
    NotInstalled,
    /// The kernel could not answer: it was out of memory or buffers, interrupted or busy. So the
    /// result is unknown.
    Busy,
    /// It was rejected for another reason.
    Refused,
    /// It depends on something else that is missing.
    NotTried,
}

impl Reason {
    /// A stable name.
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
    /// Whether the node lacks it, so that a fallback is right. A kernel that does not know a part
    /// of a request answers EINVAL. Forbidden, busy or broken requirements do not show what the
    /// node has.
    pub fn is_absent(&self) -> bool {
        const EINVAL: i32 = 22;
        match self.reason {
            Reason::NoModule { .. } | Reason::NotInstalled => true,
            Reason::Refused => self.errno == Some(EINVAL),
            Reason::Permission | Reason::ReadOnly | Reason::Busy | Reason::NotTried => false,
        }
    }

    /// A reason without an errno.
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
