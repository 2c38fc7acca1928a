//! Why a requirement is missing, and whether its kernel module has a file.

use std::fmt;

use crate::errno::EINVAL;

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

/// Whether a module of the running kernel has a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModuleFile {
    /// It exists, so the module can be loaded unless that is forbidden.
    Present,
    /// It does not exist, or it was built for another kernel.
    Absent,
    /// Unknown: there is no list of modules. A container does not see the node's list.
    Unknown,
}

impl ModuleFile {
    /// Looks a module up in the text of `modules.dep`, as depmod(8) writes it.
    #[cfg(any(feature = "ipvs", feature = "iptables", test))]
    pub(super) fn listed(modules_dep: &str, module: &str) -> Self {
        // A file name may contain dashes or underscores, and may be compressed.
        let dashed = |text: &str| text.replace('_', "-");
        let is_it = |line: &str| {
            let path = line.split(':').next().unwrap_or_default();
            let file = path.rsplit('/').next().unwrap_or_default();
            let name = file.split(".ko").next().unwrap_or_default();
            dashed(name) == dashed(module)
        };
        if modules_dep.lines().any(is_it) {
            Self::Present
        } else {
            Self::Absent
        }
    }

    /// Looks a module of the running kernel up.
    #[cfg(any(feature = "ipvs", feature = "iptables"))]
    pub(super) fn find(module: &str) -> Self {
        let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") else {
            return Self::Unknown;
        };
        let list = format!("/lib/modules/{}/modules.dep", release.trim());
        std::fs::read_to_string(list).map_or(Self::Unknown, |list| Self::listed(&list, module))
    }

    /// A stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Absent => "absent",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ModuleFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
