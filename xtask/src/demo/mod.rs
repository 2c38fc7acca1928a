//! The demo: Services from manifests, with real traffic.

mod cluster;
mod story;
mod traffic;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::vm::{self, Job, Machine, MachineArgs, Series};
use crate::{apt, cargo, setup};

/// The path of the svcproxy to show; it is built if this is unset.
const SVCPROXY_BIN: &str = "SVCPROXY_BIN";

/// Arguments of `demo`.
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Use a VM with this kernel even if this machine's own has IPVS.
    #[arg(long, value_enum)]
    kernel: Option<Series>,
}

/// `cargo xtask demo`.
pub(crate) fn run_command(args: &DemoArgs) -> Result<ExitCode> {
    let inside = env::var_os(vm::INSIDE).is_some();
    let svcproxy = match env::var_os(SVCPROXY_BIN) {
        Some(path) => PathBuf::from(path),
        None => {
            apt::ensure(&setup::TOOLS)?;
            println!("Building svcproxy ...");
            cargo::svcproxy()?
        }
    };
    if inside || (args.kernel.is_none() && has_ipvs()) {
        if !has_ipvs() {
            bail!("the VM's kernel has no IPVS");
        }
        return story::run(&svcproxy);
    }
    in_the_vm(&svcproxy, args.kernel.unwrap_or_default())
}

/// Runs the demo in a VM.
fn in_the_vm(svcproxy: &Path, series: Series) -> Result<ExitCode> {
    println!(
        "Booting an emulated machine with Debian's kernel {}, which has IPVS{} ...",
        series.name(),
        if has_ipvs() {
            ""
        } else {
            "; this machine's has none"
        }
    );
    let machine = Machine::prepare(&MachineArgs::of(series))?;
    let itself = env::current_exe().context("cannot find this program")?;
    let mut job = Job::here(vec![itself.into(), "demo".into()])?;
    job.set(SVCPROXY_BIN, svcproxy.as_os_str());
    Ok(machine
        .run(&job, std::io::stdout(), std::io::stderr())?
        .into())
}

/// Whether this kernel has IPVS, loaded or as a module.
fn has_ipvs() -> bool {
    let loaded = || fs::exists("/proc/net/ip_vs").unwrap_or(false);
    // If it fails, there is no such module, and the file stays missing.
    let load = || Command::new("modprobe").args(["--quiet", "ip_vs"]).status();
    loaded() || (load().is_ok() && loaded())
}
