//! Finds files of kernel modules.

use std::fmt;

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
