//! Installs everything that a fresh machine lacks.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::apt::{self, Tool};
use crate::vm::{Machine, MachineArgs, Series};
use crate::{process, tools};

/// Programs that the tests and the demo run, here or in the VM.
pub(crate) const TOOLS: [Tool; 12] = [
    Tool::new("cc", "gcc"),
    Tool::new("c++", "g++"),
    Tool::new("ip", "iproute2"),
    Tool::new("nsenter", "util-linux"),
    Tool::new("nft", "nftables"),
    Tool::new("iptables-restore", "iptables"),
    Tool::new("ipvsadm", "ipvsadm"),
    Tool::new("strace", "strace"),
    Tool::new("ipset", "ipset"),
    Tool::new("dig", "bind9-dnsutils"),
    Tool::new("curl", "curl"),
    Tool::new("python3", "python3"),
];

/// Opens the page in tests, and takes its pictures.
pub(crate) const BROWSER: Tool = Tool::new("chromium", "chromium");

/// Arguments of `setup`.
#[derive(Args)]
pub(crate) struct SetupArgs {
    /// Install Chromium, too, for the tests of the page and its pictures: half a gigabyte.
    #[arg(long)]
    browser: bool,
}

/// `cargo xtask setup`.
pub(crate) fn run_command(args: &SetupArgs) -> Result<ExitCode> {
    apt::ensure(&TOOLS)?;
    if args.browser {
        apt::ensure(&[BROWSER])?;
    }
    tools::NAMES
        .iter()
        .try_for_each(|name| tools::ensure(name))?;
    for &series in Series::value_variants() {
        Machine::prepare(&MachineArgs::of(series))?;
    }
    process::run(tools::cargo().args(["fetch", "--locked"]))?;
    Ok(ExitCode::SUCCESS)
}
