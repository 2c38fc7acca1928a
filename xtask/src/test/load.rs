//! Load on the machine during the tests.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::apt::{self, Tool};

/// A running stress-ng, stopped with all its processes when dropped.
pub(super) struct Load(Child);

impl Load {
    /// Starts two busy processes for each core and one that fills memory.
    pub(super) fn start() -> Result<Self> {
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
