//! Debian kernels, unpacked from their packages instead of installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{apt, paths, process};

/// A kernel series that Debian packages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Series {
    /// The oldest kernel that svcproxy is tested with.
    #[default]
    #[value(name = "6.1")]
    V6_1,
    /// A newer long-term kernel.
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// As `uname -r` prints it.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// The directory that is `/lib/modules` inside the machine.
    pub(crate) modules: PathBuf,
    /// Where everything of this kernel lies.
    pub(crate) directory: PathBuf,
}

impl Kernel {
    /// Downloads and unpacks the newest kernel of `series`, unless that was done before.
    pub(crate) fn prepare(series: Series) -> Result<Self> {
        let directory = paths::vm().join(format!("kernel-{}", series.name()));
        if !directory.is_dir() {
            let scratch = tempfile::tempdir_in(paths::vm())?;
            let prefix = format!("linux-image-{}", series.name());
            apt::unpack(&prefix, |names| candidates(names, series), scratch.path())
                .with_context(|| format!("cannot get a kernel {}", series.name()))?;
            let kernel = Self::open(scratch.path())?;
            // The package leaves this to its installation script.
            process::run(
                Command::new("depmod")
                    .arg("--basedir")
                    .arg(kernel.modules.ancestors().nth(2).unwrap_or(scratch.path()))
                    .arg(&kernel.release),
            )?;
            std::fs::rename(scratch.keep(), &directory)?;
        }
        Self::open(&directory)
    }

    fn open(directory: &Path) -> Result<Self> {
        let boot = directory.join("boot");
        let release = std::fs::read_dir(&boot)
            .with_context(|| format!("cannot read {}", boot.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()))
            .with_context(|| format!("no kernel in {}", boot.display()))?;
        let modules = ["lib/modules", "usr/lib/modules"]
            .map(|path| directory.join(path))
            .into_iter()
            .find(|path| path.is_dir())
            .with_context(|| format!("no modules in {}", directory.display()))?;
        Ok(Self {
            image: boot.join(format!("vmlinuz-{release}")),
            release,
            modules,
            directory: directory.to_owned(),
        })
    }
}

/// The packages of `series` among `names`, newest first.
///
/// The `cloud` kernels lack 9p; a package without signature serves as well as one with.
fn candidates(names: &str, series: Series) -> Vec<String> {
    let version = |name: &str| -> Option<Vec<u32>> {
        let rest = name.strip_prefix("linux-image-")?;
        let rest = rest
            .strip_suffix("-unsigned")
            .unwrap_or(rest)
            .strip_suffix("-amd64")?;
        let other_flavour = rest.contains("cloud") || rest.contains("-rt");
        // With the dot: 6.1 is not 6.12, nor the metapackage of the series.
        let in_series = rest.strip_prefix(series.name())?.starts_with('.');
        (in_series && !other_flavour).then(|| {
            rest.split(|c: char| !c.is_ascii_digit())
                .filter_map(|n| n.parse().ok())
                .collect()
        })
    };
    let mut found: Vec<_> = names
        .lines()
        .filter_map(|name| Some((version(name)?, name.to_owned())))
        .collect();
    // Of one version the signed package, whose name is shorter, comes first.
    found.sort_by(|(a, a_name), (b, b_name)| b.cmp(a).then(a_name.len().cmp(&b_name.len())));
    found.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_plain_kernel_of_the_series_comes_first() {
        let names = "linux-image-6.1.0-9-amd64\nlinux-image-6.1.0-56-amd64-unsigned\n\
            linux-image-6.1.0-56-amd64\nlinux-image-6.1.0-57-cloud-amd64\n\
            linux-image-6.1.0-58-rt-amd64\nlinux-image-6.1.0-59-amd64-dbg\n\
            linux-image-6.12.9+deb12-amd64\nlinux-image-6.12-amd64\n";
        assert_eq!(
            candidates(names, Series::V6_1),
            [
                "linux-image-6.1.0-56-amd64",
                "linux-image-6.1.0-56-amd64-unsigned",
                "linux-image-6.1.0-9-amd64"
            ]
        );
        assert_eq!(
            candidates(names, Series::V6_12),
            ["linux-image-6.12.9+deb12-amd64"]
        );
    }
}
