//! Debian packages, installed or only unpacked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result, bail};

use crate::process::{output, run};

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

impl Tool {
    pub(crate) const fn new(program: &'static str, package: &'static str) -> Self {
        Self { program, package }
    }

    pub(crate) fn is_installed(&self) -> bool {
        // Root's directories are often not in an ordinary user's PATH.
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|directory| directory.join(self.program).is_file())
    }
}

/// Installs the packages of those `tools` that this machine lacks.
pub(crate) fn ensure(tools: &[Tool]) -> Result<()> {
    let mut missing: Vec<_> = tools
        .iter()
        .filter(|tool| !tool.is_installed())
        .map(|tool| tool.package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    eprintln!("installing {packages}");
    update()
        .and_then(|()| {
            run(Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "--yes", "--quiet=2", "--no-install-recommends"])
                .args(&missing))
        })
        .with_context(|| format!("missing Debian packages; as root: apt-get install {packages}"))
}

/// Unpacks a package into `directory`: the first candidate of `choose` that apt can download.
///
/// `choose` gets the known names with `prefix`, and returns candidates, the best first.
pub(crate) fn unpack(
    prefix: &str,
    choose: impl Fn(&str) -> Vec<String>,
    directory: &Path,
) -> Result<()> {
    let known = || -> Result<Vec<String>> {
        let names = output(Command::new("apt-cache").args(["pkgnames", prefix]))?;
        Ok(choose(&String::from_utf8_lossy(&names)))
    };
    let mut candidates = known()?;
    if candidates.is_empty() {
        update()?;
        candidates = known()?;
    }
    let mut failure = None;
    // The lists may contain names of removed packages; then the next candidate is good enough.
    for package in candidates.iter().take(3) {
        match download(package).and_then(|deb| extract(&deb.path, directory)) {
            Ok(()) => return Ok(()),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => bail!("apt knows no suitable package {prefix}*; are its sources set up?"),
    }
}

/// A downloaded package, which is deleted with this.
struct Deb {
    path: PathBuf,
    _scratch: tempfile::TempDir,
}

fn download(package: &str) -> Result<Deb> {
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let fetch = || {
        eprintln!("downloading {package}");
        output(
            Command::new("apt-get")
                .args(["download", "--quiet=2", package])
                .current_dir(scratch.path()),
        )
    };
    if fetch().is_err() {
        // The lists may be older than the mirror.
        update()?;
        fetch()?;
    }
    let path = std::fs::read_dir(scratch.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get download {package} left no file"))?;
    Ok(Deb {
        path,
        _scratch: scratch,
    })
}

fn extract(deb: &Path, directory: &Path) -> Result<()> {
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .arg(deb)
        .arg(directory))
}

/// Unpacks a package and all that it depends on into `directory`, without running their scripts.
/// Their control files go to `var/lib/dpkg/status.d`, where scanners of images look for them.
pub(crate) fn unpack_with_dependencies(package: &str, directory: &Path) -> Result<()> {
    let closure = || {
        output(
            Command::new("apt-get")
                .args(["install", "--simulate", "--quiet=2"])
                .args(["--no-install-recommends"])
                // As if nothing were installed.
                .args(["--option", "Dir::State::status=/dev/null"])
                .arg(package),
        )
    };
    let plan = closure().or_else(|_| {
        update()?;
        closure()
    })?;
    let plan = String::from_utf8_lossy(&plan).into_owned();
    let names = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
    let status = directory.join("var/lib/dpkg/status.d");
    std::fs::create_dir_all(&status)?;
    for name in names.filter_map(|line| line.split(' ').next()) {
        let deb = download(name)?;
        extract(&deb.path, directory)?;
        let control = output(Command::new("dpkg-deb").arg("--field").arg(&deb.path))?;
        std::fs::write(status.join(name), control)?;
    }
    Ok(())
}

/// Brings the package lists up to date, once a run.
fn update() -> Result<()> {
    static DONE: Once = Once::new();
    let mut result = Ok(());
    DONE.call_once(|| {
        result = run(Command::new("apt-get").args(["update", "--quiet=2"]));
    });
    result
}
