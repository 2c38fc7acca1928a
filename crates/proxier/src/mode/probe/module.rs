//! Whether a kernel module's file is there.

use std::fmt;

/// Whether there is a file of a module of the kernel that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModuleFile {
    /// There is one: it can be loaded, unless someone forbids it.
    Present,
    /// There is none, or it was built for another kernel.
    Absent,
    /// No list of modules was found: a container does not see the node's.
    Unknown,
}

impl ModuleFile {
    /// Looks a module up in the text of `modules.dep`, as depmod(8) writes it.
    #[cfg(any(feature = "ipvs", feature = "iptables", test))]
    pub(super) fn listed(modules_dep: &str, module: &str) -> Self {
        // A file's name may have either, and may be compressed.
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

    /// A name that stays as it is.
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
