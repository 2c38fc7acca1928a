//! What `deploy/` holds, seen with the tools of those who will use it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::report::{Report, phase};
use crate::{paths, process};

pub(super) fn run(svcproxy: &Path, report: &mut Report) {
    phase("deployment");
    with_tool("systemd-analyze", systemd_analyze(), report, |program| {
        verify_unit(program, svcproxy)
    });
}

/// A check with a tool; it is skipped if the tool cannot be had.
fn with_tool(
    name: &str,
    tool: Result<PathBuf>,
    report: &mut Report,
    check: impl FnOnce(&Path) -> Result<()>,
) {
    match tool {
        Ok(tool) => report.check(name, check(&tool)),
        Err(error) => report.skip(name, format!("{error:#}")),
    }
}

fn systemd_analyze() -> Result<PathBuf> {
    let program = PathBuf::from("systemd-analyze");
    process::output(Command::new(&program).arg("--version"))?;
    Ok(program)
}

/// systemd wants the program to be there, and takes an unknown setting for no error.
fn verify_unit(systemd_analyze: &Path, svcproxy: &Path) -> Result<()> {
    let unit = fs::read_to_string(paths::workspace().join("deploy/systemd/svcproxy.service"))?;
    let scratch = tempfile::tempdir()?;
    let copy = scratch.path().join("svcproxy.service");
    let svcproxy = svcproxy.to_str().context("a path that is not text")?;
    fs::write(&copy, unit.replace("/usr/local/bin/svcproxy", svcproxy))?;
    let mut verify = Command::new(systemd_analyze);
    let verify = verify.args(["verify", "--man=no"]).arg(&copy).output()?;
    let said = String::from_utf8_lossy(&verify.stderr);
    let is_ours = |line: &str| line.contains("svcproxy.service");
    let is_fine = verify.status.success() && !said.lines().any(is_ours);
    ensure!(is_fine, "{}: {said}", verify.status);
    Ok(())
}
