//! A node in a network namespace with svcproxy on it, for the tour and the pictures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use testbed::{POD_CIDR_V4, SERVICE_CIDR_V4, Topology};

use crate::paths;
use crate::running::Running;

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
        let words: Vec<_> = arguments.iter().map(String::as_str).collect();
        let log = self.directory.path().join("log");
        Running::start(self.svcproxy(&words), log, PATIENCE)
    }
}
