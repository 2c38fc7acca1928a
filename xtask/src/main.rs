//! Set-up, demo, tests and the kernel VM of svcproxy: `cargo xtask --help`.

#![forbid(unsafe_code)]
// A command line tool speaks through its standard streams.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod apt;
mod bench;
mod cargo;
mod demo;
mod man;
mod paths;
mod process;
mod setup;
mod test;
mod tools;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install everything that the other commands need, so that they work offline.
    Setup,
    /// Run the demo: Services from examples/ with real traffic.
    Demo(demo::DemoArgs),
    /// Write svcproxy's man pages, generated from its flags.
    Man(man::ManArgs),
    /// Run everything that CI runs: checks, tests, network namespaces, kernel VM, fuzz targets.
    Test(test::TestArgs),
    /// Run the benchmarks that need a kernel with IPVS in the VM, or compare with other programs.
    Bench(bench::BenchArgs),
    /// Use a QEMU machine whose kernel has IPVS.
    #[command(subcommand)]
    Vm(VmTask),
}

#[derive(Subcommand)]
enum VmTask {
    /// Run a command in the VM. It sees this machine's files; its changes are lost.
    Run(vm::RunArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Setup => setup::run_command(),
        Task::Demo(args) => demo::run_command(&args),
        Task::Man(args) => man::run_command(&args),
        Task::Test(args) => test::run_command(&args),
        Task::Bench(args) => bench::run_command(&args),
        Task::Vm(VmTask::Run(args)) => vm::run_command(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
