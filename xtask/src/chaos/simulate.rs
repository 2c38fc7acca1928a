//! The simulation of `crates/proxier/tests/simulation/`, for as long as wanted.

use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;

use crate::{paths, process};

/// Arguments of `chaos simulate`.
#[derive(Args)]
pub(crate) struct SimulateArgs {
    /// Number of things that happen.
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// Make every call of each mode fail with every errno instead.
    #[arg(long, conflicts_with = "steps")]
    every_call: bool,
}

/// `seed` is that of the first life; the next ones follow. Without it, the current time is.
pub(super) fn run(args: &SimulateArgs, seed: Option<u64>) -> Result<ExitCode> {
    let seed = match seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let test = match args.every_call {
        true => "every_call",
        false => "lives_of_a_cluster",
    };
    println!("seed {seed}");
    let mut command = Command::new("cargo");
    command
        .args(["test", "--locked", "--package", "svcproxy-proxier"])
        .args(["--all-features", "--test", "simulation", "--"])
        .args(["--nocapture", test])
        .env("SVCPROXY_SIMULATION_SEED", seed.to_string())
        .env("SVCPROXY_SIMULATION_STEPS", args.steps.to_string())
        .env("RUST_BACKTRACE", "0")
        .current_dir(paths::workspace());
    if args.every_call {
        command.env("SVCPROXY_EVERY_ERRNO", "1");
    }
    process::run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}
