//! All that is tested, in one run with one summary.

mod binaries;
mod checks;
mod deploy;
mod libtest;
mod report;
mod runs;
mod tiers;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::vm::Series;
use crate::{apt, setup};
use report::Report;
use tiers::Tiers;

/// Arguments of `test`.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Kernel series to boot, one after the other.
    #[arg(long = "kernel", value_enum, default_values_t = [Series::default()])]
    kernels: Vec<Series>,
    /// Leave out the tests that need the kernel VM.
    #[arg(long)]
    no_vm: bool,
    /// Only tests whose name contains this; formatting, lints and the like are left out.
    filter: Option<String>,
}

/// `cargo xtask test`.
pub(crate) fn run_command(args: &TestArgs) -> Result<ExitCode> {
    apt::ensure(&setup::TOOLS)?;
    let mut report = Report::default();
    if args.filter.is_none() {
        checks::run(&mut report);
    }
    report::phase("building the tests");
    let tests = match binaries::build() {
        Ok(tests) => tests,
        Err(error) => {
            report.fail("build", &format!("{error:#}"));
            return Ok(report.finish());
        }
    };
    if args.filter.is_none() {
        deploy::run(&tests.svcproxy, &mut report);
    }
    let mut tiers = Tiers::new(&tests, args.filter.as_deref(), &mut report);
    tiers.host()?;
    tiers.doc()?;
    tiers.netns()?;
    if args.no_vm {
        tiers.skip_kernel();
    } else {
        args.kernels
            .iter()
            .try_for_each(|&series| tiers.kernel(series))?;
    }
    tiers.skip_the_rest();
    if args.filter.is_none() {
        checks::fuzz(&mut report);
    }
    Ok(report.finish())
}
