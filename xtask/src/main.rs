//! Set-up, demo, tests, releases and the kernel VM of svcproxy: `cargo xtask --help`.

#![forbid(unsafe_code)]
// A command line tool speaks through its standard streams.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod apt;
mod bench;
mod cargo;
mod chaos;
mod demo;
mod dist;
mod man;
mod paths;
mod process;
mod running;
mod scene;
mod screenshots;
mod setup;
mod test;
mod tools;
mod tour;
mod vm;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::{env, io};

use clap::{Parser, Subcommand};

/// Starts this program again without the variables that `cargo run` sets for it.
///
/// The build script of ring runs again whenever one of them changes, so a cargo that this program
/// starts would compile ring and everything above it again, and so would the next one without them.
fn forget_cargo() -> io::Result<()> {
    let of_cargo_run =
        |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    let names: Vec<_> = env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| of_cargo_run(name))
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut again = Command::new(env::current_exe()?);
    again.args(env::args_os().skip(1));
    names.iter().for_each(|name| {
        again.env_remove(name);
    });
    Err(again.exec())
}

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install everything that the other commands need, so that they work offline.
    Setup(setup::SetupArgs),
    /// Run the demo: Services from examples/ with real traffic.
    Demo(demo::DemoArgs),
    /// Make the files of a release: static binary, Debian package, image, chart, SBOM, checksums.
    Dist(dist::DistArgs),
    /// Run each command of svcproxy on the examples and at 10,000 Services, and write what it prints
    /// into docs/tour.md.
    Tour(tour::TourArgs),
    /// Take the pictures of the page in docs/images, with Chromium.
    Screenshots,
    /// Write svcproxy's man pages, generated from its flags.
    Man(man::ManArgs),
    /// Run everything that CI runs: checks, tests, network namespaces, kernel VM, fuzz targets.
    Test(test::TestArgs),
    /// Run the benchmarks that need a kernel with IPVS in the VM, or compare with other programs.
    Bench(bench::BenchArgs),
    /// Kill svcproxy, undo what it made, run it for long, exchange it with another version: with
    /// traffic, and with figures.
    Chaos(chaos::ChaosArgs),
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
    if let Err(error) = forget_cargo() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let result = match Cli::parse().command {
        Task::Setup(args) => setup::run_command(&args),
        Task::Demo(args) => demo::run_command(&args),
        Task::Dist(args) => dist::run_command(&args),
        Task::Tour(args) => tour::run_command(&args),
        Task::Screenshots => screenshots::run_command(),
        Task::Man(args) => man::run_command(&args),
        Task::Test(args) => test::run_command(&args),
        Task::Bench(args) => bench::run_command(&args),
        Task::Chaos(args) => chaos::run_command(&args),
        Task::Vm(VmTask::Run(args)) => vm::run_command(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
