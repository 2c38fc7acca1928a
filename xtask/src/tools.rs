//! Subcommands of cargo that this machine may lack.

use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::apt::{self, Tool};
use crate::{paths, process};

/// The pinned versions: one pip requirement per line. A requirement without a hash has no wheel.
const REQUIREMENTS: &str = include_str!("../tools.txt");

/// The tools of the tests: programs `cargo-NAME`.
pub(crate) const NAMES: [&str; 4] = ["nextest", "deny", "fuzz", "hack"];

/// The tools that only a release needs.
const FOR_RELEASES: [&str; 1] = ["cyclonedx"];

/// `cargo` in the workspace's directory, with the tools that [`ensure`] installed in its path.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::workspace())
        .env("PATH", path())
        // A progress bar is noise in a log.
        .env("CARGO_TERM_PROGRESS_WHEN", "never");
    cargo
}

/// `PATH`, with the directories of [`ensure`] at the end.
pub(crate) fn path() -> OsString {
    let current = env::var_os("PATH").unwrap_or_default();
    let names = NAMES.into_iter().chain(FOR_RELEASES);
    let installed = names.map(|name| directory(name).join("bin"));
    env::join_paths(env::split_paths(&current).chain(installed)).unwrap_or(current)
}

/// Installs `cargo-NAME` below `target/`, unless the machine has it.
pub(crate) fn ensure(name: &str) -> Result<()> {
    let program = format!("cargo-{name}");
    if env::split_paths(&path()).any(|directory| directory.join(&program).is_file()) {
        return Ok(());
    }
    eprintln!("installing {program}");
    let requirement = requirement(name)?;
    let wheel = if requirement.contains("--hash=") {
        install_wheel(name, requirement)
            .inspect_err(|error| eprintln!("no prebuilt {program}, building it: {error:#}"))
    } else {
        Err(anyhow!("it has no wheel"))
    };
    wheel
        .or_else(|_| build(name, requirement))
        .with_context(|| format!("cannot install {program}"))
}

fn directory(name: &str) -> PathBuf {
    paths::workspace().join("target/tools").join(name)
}

/// The line of [`REQUIREMENTS`] that pins `name`.
fn requirement(name: &str) -> Result<&'static str> {
    let package = format!("cargo-{name}==");
    REQUIREMENTS
        .lines()
        .find(|line| line.contains(&package))
        .with_context(|| format!("xtask/tools.txt has no line for cargo-{name}"))
}

fn install_wheel(name: &str, requirement: &str) -> Result<()> {
    apt::ensure(&[
        Tool::new("python3", "python3"),
        Tool::new("pip3", "python3-pip"),
    ])?;
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(requirement.as_bytes())?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps"])
        .args(["--only-binary=:all:", "--require-hashes", "--target"])
        .arg(directory(name))
        .arg("--requirement")
        .arg(file.path());
    process::output(&mut pip).map(drop)
}

fn build(name: &str, requirement: &str) -> Result<()> {
    let version = requirement
        .split_once("==")
        .and_then(|(_, rest)| rest.split(' ').next())
        .with_context(|| format!("no version in `{requirement}`"))?;
    process::run(
        Command::new("cargo")
            // Building with optimisation would take longer than the program runs.
            .args(["install", "--locked", "--quiet", "--debug", "--root"])
            .arg(directory(name))
            .arg(format!("cargo-{name}@{version}")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_pinned() {
        for name in NAMES.into_iter().chain(FOR_RELEASES) {
            let line = requirement(name).unwrap();
            assert!(line.contains("=="), "{line}");
        }
    }
}
