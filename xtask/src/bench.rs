//! The benchmarks that need a kernel with IPVS.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::vm::{Job, Machine, MachineArgs, Series, quote};
use crate::{apt, cargo, setup};

/// Benchmarks of svcproxy-benches that run in the VM; the others run with `cargo bench`.
const IN_THE_VM: [&str; 3] = ["cold_start", "restart", "ipvs_kernel"];

/// Arguments of `bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Series of the VM's kernel.
    #[arg(long, value_enum, default_value_t)]
    kernel: Series,
}

/// `cargo xtask bench`.
pub(crate) fn run_command(args: &BenchArgs) -> Result<ExitCode> {
    apt::ensure(&setup::TOOLS)?;
    let mut build = vec!["bench", "--no-run", "--package", "svcproxy-benches"];
    build.extend(IN_THE_VM.iter().flat_map(|name| ["--bench", name]));
    let mut script = b"set -e".to_vec();
    for artifact in cargo::artifacts(&build)? {
        script.extend(b"; ");
        script.extend(quote(cargo::text(&artifact, "/executable")?.as_ref()));
    }
    let job = Job::here(vec!["sh".into(), "-c".into(), OsString::from_vec(script)])?;
    let machine = Machine::prepare(&MachineArgs::of(args.kernel))?;
    Ok(machine
        .run(&job, std::io::stdout(), std::io::stderr())?
        .into())
}
