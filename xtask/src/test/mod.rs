//! Runs all tests and checks, with one summary.

mod checks;
mod deploy;
mod module_graph;
mod nextest;
mod packages;
mod report;
mod tiers;

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::apt::{self, Tool};
use crate::setup;
use crate::vm::Series;
use nextest::Tests;
use report::Report;
use tiers::Tiers;

/// Arguments of `test`.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Kernel series of the VM: one boot for each.
    #[arg(long = "kernel", value_enum, default_values_t = [Series::default()])]
    kernels: Vec<Series>,
    /// Skip the tests that need the kernel VM.
    #[arg(long)]
    no_vm: bool,
    /// Run each test N times, to find those that fail by chance; skips the other checks.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Keep all cores busy with stress-ng while the tests run; skips the other checks.
    #[arg(long)]
    under_load: bool,
    /// Run only the tests whose name contains this; skips the other checks.
    filter: Option<String>,
}

impl TestArgs {
    /// Whether formatting, lints, deployment and fuzz targets belong to the run.
    fn everything(&self) -> bool {
        self.filter.is_none() && self.repeat == 1 && !self.under_load
    }
}

/// `cargo xtask test`.
pub(crate) fn run_command(args: &TestArgs) -> Result<ExitCode> {
    let mut report = Report::default();
    report.phase("installing what is missing");
    apt::ensure(&setup::TOOLS)?;
    if args.everything() {
        checks::before_the_build(&mut report);
    }
    report.phase("building the tests");
    let tests = match Tests::build() {
        Ok(tests) => tests,
        Err(error) => {
            report.fail("build", &format!("{error:#}"));
            return Ok(report.finish());
        }
    };
    if args.everything() {
        checks::after_the_build(&mut report);
        packages::run(&mut report);
        deploy::run(&tests.svcproxy, &mut report);
    }
    let load = args.under_load.then(Load::start).transpose()?;
    let mut tiers = Tiers {
        tests: &tests,
        filter: args.filter.as_deref(),
        repeat: args.repeat,
        report: &mut report,
    };
    tiers.nothing_left_out()?;
    tiers.host()?;
    if args.repeat == 1 {
        tiers.doc()?;
    }
    tiers.netns()?;
    tiers.browser()?;
    if args.no_vm {
        tiers.skip_kernel()?;
    } else {
        args.kernels
            .iter()
            .try_for_each(|&series| tiers.kernel(series))?;
    }
    drop(load);
    if args.everything() {
        checks::fuzz(&mut report);
    }
    Ok(report.finish())
}

/// A running stress-ng, stopped with all its processes when dropped.
struct Load(Child);

impl Load {
    /// Starts two busy processes for each core and one that fills memory.
    fn start() -> Result<Self> {
        apt::ensure(&[
            Tool::new("stress-ng", "stress-ng"),
            Tool::new("setpriv", "util-linux"),
        ])?;
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // stress-ng must not outlive this process, however it ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "stress-ng", "--quiet"])
            .args(["--cpu", &(2 * cores).to_string()])
            .args(["--vm", "1", "--vm-bytes", "256M"])
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start stress-ng")?;
        Ok(Self(child))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Ok(group) = self.0.id().try_into() {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}
