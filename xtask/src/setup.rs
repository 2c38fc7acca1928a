//! Installs everything that a fresh machine lacks.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::apt::{self, Tool};
use crate::vm::{Machine, MachineArgs, Series};
use crate::{process, tools};

/// Programs that the tests and the demo run, here or in the VM.
pub(crate) const TOOLS: [Tool; 10] = [
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
];

/// `cargo xtask setup`.
pub(crate) fn run_command() -> Result<ExitCode> {
    apt::ensure(&TOOLS)?;
    tools::NAMES
        .iter()
        .try_for_each(|name| tools::ensure(name))?;
    for &series in Series::value_variants() {
        Machine::prepare(&MachineArgs::of(series))?;
    }
    process::run(tools::cargo().args(["fetch", "--locked"]))?;
    Ok(ExitCode::SUCCESS)
}
