//! A QEMU machine with a Debian kernel that has IPVS, and this machine's files.
//!
//! The root file system is this machine's, read-only over 9p under a tmpfs overlay: programs built
//! here run there as they are. All changes are lost, except files in [`out_dir`].

mod guest;
mod initramfs;
mod kernel;
mod qemu;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

pub(crate) use guest::{Job, quote};
pub(crate) use kernel::Series;

use crate::apt::{self, Tool};
use crate::paths;

/// Programs that the VM needs: QEMU and kmod here, the rest inside.
const TOOLS: [Tool; 5] = [
    Tool::new("qemu-system-x86_64", "qemu-system-x86"),
    Tool::new("depmod", "kmod"),
    Tool::new("xz", "xz-utils"),
    Tool::new("setpriv", "util-linux"),
    Tool::new("ip", "iproute2"),
];

/// Set in the environment of what runs inside the VM, to the kernel's release.
pub(crate) const INSIDE: &str = "SVCPROXY_VM";

/// Arguments of `vm run`.
#[derive(Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Open an interactive shell in the machine.
    #[arg(long, conflicts_with = "command")]
    shell: bool,
    /// The command and its arguments, run in the current directory with this environment.
    #[arg(last = true, required_unless_present = "shell")]
    command: Vec<OsString>,
}

/// In seconds: several times what all tests need on a machine that does nothing else.
const TIMEOUT: u64 = 3600;

/// Settings of the machine.
#[derive(Args, Clone)]
pub(crate) struct MachineArgs {
    /// Series of the Debian kernel.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) kernel: Series,
    /// Stop the machine after this many seconds; 0 for never.
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT)]
    pub(crate) timeout: u64,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    pub(crate) memory: u32,
    /// Use hardware virtualization; it must work here.
    #[arg(long)]
    pub(crate) kvm: bool,
    /// Emulate one CPU whose clock counts instructions: 1 ns each, whatever the host does.
    #[arg(long, conflicts_with = "kvm")]
    pub(crate) icount: bool,
}

impl MachineArgs {
    /// The defaults of `vm run`, with another kernel.
    pub(crate) fn of(kernel: Series) -> Self {
        Self {
            kernel,
            timeout: TIMEOUT,
            memory: 4096,
            kvm: false,
            icount: false,
        }
    }
}

/// `cargo xtask vm run`.
pub(crate) fn run_command(args: &RunArgs) -> Result<ExitCode> {
    let words = if args.shell {
        vec!["bash".into()]
    } else {
        args.command.clone()
    };
    let job = Job::here(words)?;
    let status = if args.shell {
        Machine::prepare(&args.machine)?.shell(&job)?
    } else {
        Machine::prepare(&args.machine)?.run(&job, std::io::stdout(), std::io::stderr())?
    };
    Ok(ExitCode::from(status))
}

/// The directory in which a command in the VM can leave files; it has the same path inside and
/// outside.
pub(crate) fn out_dir() -> PathBuf {
    paths::vm().join("out")
}

/// A machine that is ready to boot.
pub(crate) struct Machine {
    kernel: kernel::Kernel,
    initramfs: PathBuf,
    args: MachineArgs,
}

impl Machine {
    /// Installs, downloads and builds what is missing.
    pub(crate) fn prepare(args: &MachineArgs) -> Result<Self> {
        if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
            bail!("the kernel VM needs a Linux machine of architecture x86_64");
        }
        apt::ensure(&TOOLS)?;
        std::fs::create_dir_all(out_dir())
            .with_context(|| format!("cannot create {}", out_dir().display()))?;
        let _one_at_a_time = lock()?;
        let kernel = kernel::Kernel::prepare(args.kernel)?;
        let initramfs = initramfs::prepare(&kernel)?;
        Ok(Self {
            kernel,
            initramfs,
            args: args.clone(),
        })
    }

    /// Boots, runs `job`, copies its output as it comes, and returns its exit code.
    pub(crate) fn run(
        &self,
        job: &Job,
        stdout: impl Write + Send,
        stderr: impl Write + Send,
    ) -> Result<u8> {
        qemu::Run::new(self)?.piped(job, stdout, stderr)
    }

    /// Boots and connects `job` with this terminal.
    fn shell(&self, job: &Job) -> Result<u8> {
        qemu::Run::new(self)?.interactive(job)
    }

    fn timeout(&self) -> Option<Duration> {
        (self.args.timeout > 0).then(|| Duration::from_secs(self.args.timeout))
    }
}

/// Keeps two processes from preparing the same files.
fn lock() -> Result<std::fs::File> {
    let path = paths::vm().join("lock");
    let file = std::fs::File::create(&path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
