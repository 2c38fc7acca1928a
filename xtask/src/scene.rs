//! A node in a network namespace with svcproxy on it, for the tour and the pictures.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use testbed::{POD_CIDR_V4, SERVICE_CIDR_V4, Topology, eventually};

use crate::paths;

/// Reading 10,000 Services takes long in a build without optimisation.
const PATIENCE: Duration = Duration::from_secs(300);

/// The node, and a directory with `examples/` in which its commands run.
pub(crate) struct Scene {
    pub(crate) topology: Topology,
    directory: TempDir,
    svcproxy: PathBuf,
}

impl Scene {
    /// Two nodes with pods of these numbers.
    pub(crate) fn new(name: &str, svcproxy: &Path, pods: &[Vec<u8>]) -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let examples = paths::workspace().join("examples");
        std::os::unix::fs::symlink(examples, directory.path().join("examples"))
            .context("cannot link the examples")?;
        Ok(Self {
            topology: Topology::with_pods(name, pods)?,
            directory,
            svcproxy: svcproxy.to_owned(),
        })
    }

    /// Writes a file atomically, below a directory that is created.
    pub(crate) fn write(&self, directory: &str, name: &str, text: &str) -> Result<()> {
        let directory = self.directory.path().join(directory);
        fs::create_dir_all(&directory)?;
        let hidden = directory.join(format!(".{name}"));
        fs::write(&hidden, text)?;
        fs::rename(hidden, directory.join(name)).with_context(|| format!("cannot write {name}"))
    }

    /// `svcproxy ARGUMENTS` on the node.
    pub(crate) fn svcproxy(&self, arguments: &[&str]) -> Command {
        let mut command = self.topology.node().host.command(&self.svcproxy);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("NO_COLOR", "1")
            .env_remove("SVCPROXY_LOG")
            .stdin(Stdio::null());
        command
    }

    /// A text without the directory's name, which is another one each time.
    pub(crate) fn without_directory(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.directory.path().display()), "")
    }

    /// The arguments by which svcproxy runs on these manifests.
    pub(crate) fn settings(mode: &str, manifests: &str) -> [String; 5] {
        [
            format!("--mode={mode}"),
            format!("--manifests={manifests}"),
            "--node-name=node-a".to_owned(),
            format!("--cluster-cidr={POD_CIDR_V4}"),
            format!("--service-cidr={SERVICE_CIDR_V4}"),
        ]
    }

    /// Starts svcproxy and waits until it has synced.
    pub(crate) fn start(&self, arguments: &[String]) -> Result<Running> {
        let path = self.directory.path().join("log");
        let log = File::create(&path).context("cannot write a log")?;
        let words: Vec<_> = arguments.iter().map(String::as_str).collect();
        let child = self
            .svcproxy(&words)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start svcproxy")?;
        let mut running = Running { child, log: path };
        eventually(PATIENCE, || {
            let log = running.log();
            match running.child.try_wait() {
                _ if log.contains("synced") => Ok(Ok(())),
                Ok(Some(status)) => Ok(Err(anyhow!("svcproxy ended with {status}:\n{log}"))),
                _ => Err(anyhow!("svcproxy has not synced in time:\n{log}")),
            }
        })??;
        Ok(running)
    }
}

/// A running svcproxy, killed when dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
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
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
