//! What a fresh machine lacks.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::apt::{self, Tool};
use crate::vm::{Machine, MachineArgs, Series};
use crate::{paths, process};

/// Programs that the tests and the demo run, here or in the VM.
pub(crate) const TOOLS: [Tool; 6] = [
    Tool::new("cc", "gcc"),
    Tool::new("ip", "iproute2"),
    Tool::new("nsenter", "util-linux"),
    Tool::new("nft", "nftables"),
    Tool::new("iptables-restore", "iptables"),
    Tool::new("ipvsadm", "ipvsadm"),
];

/// `cargo xtask setup`.
pub(crate) fn run_command() -> Result<ExitCode> {
    apt::ensure(&TOOLS)?;
    cargo_deny()?;
    for &series in Series::value_variants() {
        Machine::prepare(&MachineArgs::of(series))?;
    }
    process::run(
        Command::new("cargo")
            .args(["fetch", "--locked"])
            .current_dir(paths::workspace()),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Installs cargo-deny, unless it is there.
pub(crate) fn cargo_deny() -> Result<()> {
    if process::output(Command::new("cargo").args(["deny", "--version"])).is_ok() {
        return Ok(());
    }
    process::run(Command::new("cargo").args(["install", "--locked", "--quiet", "cargo-deny"]))
        .context("cannot install cargo-deny")
}
