//! A svcproxy that runs beside this program.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testbed::eventually;

/// A running svcproxy, killed when dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts svcproxy with its log in a file, and waits until it has synced.
    pub(crate) fn start(mut command: Command, log: PathBuf, patience: Duration) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).context("cannot write a log")?)
            .spawn()
            .context("cannot start svcproxy")?;
        let mut running = Self { child, log };
        eventually(patience, || {
            let log = running.log();
            match running.child.try_wait() {
                _ if log.contains("synced") => Ok(Ok(())),
                Ok(Some(status)) => Ok(Err(anyhow!("svcproxy ended with {status}:\n{log}"))),
                _ => Err(anyhow!("svcproxy has not synced in time:\n{log}")),
            }
        })??;
        Ok(running)
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it as systemd does.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("svcproxy ended with {status}:\n{}", self.log());
        }
        Ok(())
    }

    /// Kills it with SIGKILL, as the kernel does when memory runs out.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
