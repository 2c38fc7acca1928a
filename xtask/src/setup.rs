//! What a fresh machine lacks.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::apt::{self, Tool};
use crate::vm::{Machine, MachineArgs, Series};
use crate::{paths, process};

/// Programs that the tests and the demo run, here or in the VM.
pub(crate) const TOOLS: [Tool; 8] = [
    Tool::new("cc", "gcc"),
    Tool::new("c++", "g++"),
    Tool::new("ip", "iproute2"),
    Tool::new("nsenter", "util-linux"),
    Tool::new("nft", "nftables"),
    Tool::new("iptables-restore", "iptables"),
    Tool::new("ipvsadm", "ipvsadm"),
    Tool::new("strace", "strace"),
];

/// Parts of cargo that the tests use.
const CARGO_TOOLS: [&str; 2] = ["deny", "fuzz"];

/// `cargo xtask setup`.
pub(crate) fn run_command() -> Result<ExitCode> {
    apt::ensure(&TOOLS)?;
    CARGO_TOOLS.iter().try_for_each(|name| cargo_tool(name))?;
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

/// Installs the program behind `cargo NAME`, unless it is there.
pub(crate) fn cargo_tool(name: &str) -> Result<()> {
    if process::output(Command::new("cargo").args([name, "--version"])).is_ok() {
        return Ok(());
    }
    let package = format!("cargo-{name}");
    eprintln!("installing {package}");
    process::run(Command::new("cargo").args(["install", "--locked", "--quiet", &package]))
        .with_context(|| format!("cannot install {package}"))
}
