//! The man pages.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::{cargo, paths, process};

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Directory for the pages [default: target/man]
    directory: Option<PathBuf>,
}

/// `cargo xtask man`: writes svcproxy's man pages, from the flags.
pub(crate) fn run_command(args: &ManArgs) -> Result<ExitCode> {
    let default = || paths::workspace().join("target/man");
    let directory = args.directory.clone().unwrap_or_else(default);
    process::run(Command::new(cargo::svcproxy()?).arg("man").arg(&directory))?;
    println!("{}", directory.display());
    Ok(ExitCode::SUCCESS)
}
