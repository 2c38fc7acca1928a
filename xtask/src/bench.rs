//! The benchmarks that need a kernel with IPVS, or other programs, and the table of all counted figures.

mod dns;
mod figures;
mod growth;
mod plot;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::apt::Tool;
use crate::vm::{Job, Machine, MachineArgs, Series};
use crate::{apt, cargo, process, setup, tools};

/// Arguments of `bench`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    /// Series of the VM's kernel.
    #[arg(long, value_enum, default_value_t, global = true)]
    kernel: Series,
    #[command(flatten)]
    growth: growth::GrowthArgs,
    #[command(subcommand)]
    which: Option<Which>,
}

#[derive(Subcommand)]
enum Which {
    /// Count the instructions that a connection, a TCP and a UDP request cost, with and without
    /// svcproxy's rules.
    DataPath(DataPathArgs),
    /// Compare the library for IPVS with raw netlink, in the VM.
    Netlink,
    /// Compare the DNS server's queries a second with unbound's, on this machine.
    Dns(dns::DnsArgs),
    /// Compare mode userspace with HAProxy, on this machine: connections and bytes a second. Needs root.
    Userspace,
}

#[derive(Args)]
struct DataPathArgs {
    /// Measure a few rows only.
    #[arg(long)]
    quick: bool,
    /// Measure 10,000 and 50,000 Services too.
    #[arg(long)]
    large: bool,
    /// Measure only what each chain of modes `ipvs` and `nftables` costs, by taking one away at a time.
    #[arg(long)]
    without_each: bool,
    /// Measure only rows whose name contains this.
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    /// Measure node ports, external IPs and session affinity instead, beside the least that the kernel
    /// needs for each.
    #[arg(long, conflicts_with_all = ["quick", "large", "without_each", "only", "patch", "dump"])]
    paths: bool,
    /// Measure mode `ipvs` with 10 Services after `nft -f FILE` too, to try a change of its rules.
    #[arg(long, value_name = "FILE")]
    patch: Vec<PathBuf>,
    /// Measure the rules in a file, as `nft list ruleset` prints them, too; they must send
    /// 10.100.0.1:80 (TCP and UDP) to port 8080 of 10.244.1.2.
    #[arg(long, value_name = "FILE")]
    dump: Vec<PathBuf>,
}

/// `cargo xtask bench`.
pub(crate) fn run_command(args: &BenchArgs) -> Result<ExitCode> {
    let mut machine = MachineArgs::of(args.kernel);
    match &args.which {
        None => growth::run(&args.growth, args.kernel),
        Some(Which::Dns(args)) => dns::run(args),
        Some(Which::Userspace) => beside_haproxy(),
        Some(Which::Netlink) => in_the_vm(&machine, beside_raw_netlink),
        Some(Which::DataPath(args)) => {
            machine.icount = true;
            in_the_vm(&machine, || data_path(args))
        }
    }
}

fn in_the_vm(machine: &MachineArgs, job: impl FnOnce() -> Result<Job>) -> Result<ExitCode> {
    apt::ensure(&setup::TOOLS)?;
    let job = job()?;
    let machine = Machine::prepare(machine)?;
    Ok(machine
        .run(&job, std::io::stdout(), std::io::stderr())?
        .into())
}

/// Runs on this machine: the emulated one would measure its emulation.
fn beside_haproxy() -> Result<ExitCode> {
    apt::ensure(&[Tool::new("haproxy", "haproxy")])?;
    let bench = [
        "bench",
        "--package",
        "svcproxy-benches",
        "--bench",
        "userspace",
    ];
    process::run(tools::cargo().args(bench))?;
    Ok(ExitCode::SUCCESS)
}

fn beside_raw_netlink() -> Result<Job> {
    let build = [
        "bench",
        "--no-run",
        "--package",
        "svcproxy-benches",
        "--bench",
        "ipvs_kernel",
    ];
    Job::here(vec![cargo::executable(&build)?.into()])
}

/// Without optimization: nearly all measured instructions are the kernel's.
fn data_path(args: &DataPathArgs) -> Result<Job> {
    let build = [
        "build",
        "--package",
        "svcproxy-benches",
        "--bench",
        "data_path",
    ];
    let mut command = vec![cargo::executable(&build)?.into()];
    command.extend(args.quick.then(|| "--quick".into()));
    command.extend(args.large.then(|| "--large".into()));
    command.extend(args.paths.then(|| "--paths".into()));
    command.extend(args.without_each.then(|| "--without-each".into()));
    if let Some(part) = &args.only {
        command.extend(["--only".into(), part.into()]);
    }
    let patches = args.patch.iter().map(|path| ("--patch", path));
    let dumps = args.dump.iter().map(|path| ("--dump", path));
    for (flag, path) in patches.chain(dumps) {
        let file = path.canonicalize();
        let file = file.with_context(|| format!("cannot find {}", path.display()))?;
        command.extend([flag.into(), file.into_os_string()]);
    }
    Job::here(command)
}
