//! The long forms of the tests in `crates/cli/tests/chaos/` and `crates/proxier/tests/simulation/`.

mod simulate;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};

use crate::vm::{Job, Machine, MachineArgs};
use crate::{apt, cargo, paths, process, setup, tools};

/// Arguments of `chaos`.
#[derive(Args)]
pub(crate) struct ChaosArgs {
    #[command(subcommand)]
    which: Which,
    #[command(flatten)]
    machine: MachineArgs,
    /// Mode of svcproxy; ipvs runs in the VM, the others on this machine, as root.
    #[arg(long, value_enum, default_value_t, global = true)]
    mode: Mode,
    /// Run in the VM in the other modes, too.
    #[arg(long, global = true)]
    vm: bool,
    /// Seed of the random numbers, to repeat a run [default: a new one, which is printed].
    #[arg(long, global = true)]
    seed: Option<u64>,
}

#[derive(Subcommand)]
enum Which {
    /// Kill svcproxy at random points of each phase, with traffic, and compare the node after a
    /// restart with one where svcproxy was never killed.
    Kill {
        /// Number of points, over all phases.
        #[arg(long, default_value_t = 200)]
        points: u32,
        /// Only the point with this number, to see it again.
        #[arg(long)]
        point: Option<u32>,
    },
    /// Undo and change what svcproxy made, under load, and print how long each repair takes.
    Drift {
        /// How long.
        #[arg(long, default_value_t = 10)]
        minutes: u32,
    },
    /// Run 1,000 Services with 20 changes a second and 50 connections at load, while the API server
    /// restarts; print what svcproxy uses.
    Soak {
        /// How long.
        #[arg(long, default_value_t = 60)]
        minutes: u32,
    },
    /// Replace another version of svcproxy and be replaced by it.
    Upgrade {
        /// The other version's program.
        #[arg(long, value_name = "FILE", conflicts_with = "revision")]
        program: Option<PathBuf>,
        /// Build the other version from this commit, branch or tag.
        #[arg(long, value_name = "REVISION", default_value = "v0.1.0")]
        revision: String,
    },
    /// Live through a cluster's life on nodes in memory, with a simulated clock and faults. Needs no
    /// privileges; `--mode` does not matter.
    Simulate(simulate::SimulateArgs),
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// In the VM, whose kernel has IPVS.
    Ipvs,
    Iptables,
    #[default]
    Nftables,
    Userspace,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Ipvs => "ipvs",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Userspace => "userspace",
        }
    }
}

/// `cargo xtask chaos`.
pub(crate) fn run_command(args: &ChaosArgs) -> Result<ExitCode> {
    let mut variables: Vec<(&str, OsString)> = Vec::new();
    let mut set = |name, value: OsString| variables.push((name, value));
    if let Some(seed) = args.seed {
        set("SVCPROXY_CHAOS_SEED", seed.to_string().into());
    }
    let name = match &args.which {
        Which::Kill { points, point } => {
            set("SVCPROXY_CHAOS_POINTS", points.to_string().into());
            if let Some(point) = point {
                set("SVCPROXY_CHAOS_POINT", point.to_string().into());
            }
            "kill"
        }
        Which::Drift { minutes } => {
            set("SVCPROXY_CHAOS_MINUTES", minutes.to_string().into());
            "drift"
        }
        Which::Soak { minutes } => {
            set("SVCPROXY_CHAOS_MINUTES", minutes.to_string().into());
            "soak"
        }
        Which::Upgrade { program, revision } => {
            let program = match program {
                Some(program) => program
                    .canonicalize()
                    .with_context(|| format!("cannot find {}", program.display()))?,
                None => build(revision)?,
            };
            set("SVCPROXY_CHAOS_OTHER", program.into());
            "upgrade"
        }
        Which::Simulate(simulated) => return simulate::run(simulated, args.seed),
    };
    apt::ensure(&setup::TOOLS)?;
    let tier = match args.mode {
        Mode::Ipvs => "kernel",
        _ => "netns",
    };
    let test = format!("{name}::{tier}_{}", args.mode.name());
    let build = [
        "test",
        "--no-run",
        "--package",
        "svcproxy",
        "--test",
        "chaos",
    ];
    let artifacts = cargo::artifacts(&build)?;
    let artifact = artifacts.first().context("cargo built no test")?;
    let program = cargo::text(artifact, "/executable")?;
    let words = [program, "--exact", &test, "--ignored", "--nocapture"];
    if args.vm || args.mode == Mode::Ipvs {
        let mut job = Job::here(words.map(OsString::from).into())?;
        for (name, value) in &variables {
            job.set(name, value);
        }
        let machine = Machine::prepare(&args.machine)?;
        let status = machine.run(&job, std::io::stdout(), std::io::stderr())?;
        return Ok(status.into());
    }
    let mut command = Command::new(program);
    process::run(command.args(&words[1..]).envs(variables))?;
    Ok(ExitCode::SUCCESS)
}

/// Builds another version in a clone; a second call with the same revision builds nothing.
fn build(revision: &str) -> Result<PathBuf> {
    let directory = paths::workspace().join("target/chaos");
    let clone = directory.join("clone");
    if !clone.exists() {
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let mut git = Command::new("git");
        git.args(["clone", "--quiet", "--shared", "--no-checkout"]);
        process::run(git.arg(paths::workspace()).arg(&clone))?;
    }
    // The clone shares this repository's objects.
    let commit = format!("{revision}^{{commit}}");
    let mut git = Command::new("git");
    git.arg("-C").arg(paths::workspace());
    let commit = process::output(git.args(["rev-parse", "--verify", &commit]))?;
    let commit = String::from_utf8_lossy(&commit);
    let mut git = Command::new("git");
    git.arg("-C").arg(&clone);
    process::run(git.args(["checkout", "--quiet", "--detach", "--force", commit.trim()]))?;
    let target = directory.join("target");
    build_in(&clone, &target)?;
    Ok(target.join("debug/svcproxy"))
}

fn build_in(clone: &Path, target: &Path) -> Result<()> {
    let mut cargo = tools::cargo();
    let build = ["build", "--locked", "--package", "svcproxy", "--bins"];
    process::run(
        cargo
            .args(build)
            .current_dir(clone)
            .env("CARGO_TARGET_DIR", target),
    )
}
