//! Credentials from a program: a kubeconfig's `exec` (client-go `plugin/pkg/client/auth/exec`).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{env, fs};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::{AccessError, Material, or_default};
use crate::program;

/// Maximum output of a plugin. Credentials are a token and a chain of certificates.
const LONGEST_OUTPUT: usize = 1 << 20;
/// Maximum length of a plugin's error output in an error.
const LONGEST_COMPLAINT: usize = 300;
/// How long to wait for a killed plugin.
const DEATH: Duration = Duration::from_secs(1);

/// A kubeconfig's `exec`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Config {
    #[serde(deserialize_with = "or_default")]
    command: String,
    #[serde(deserialize_with = "or_default")]
    args: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    env: Vec<Variable>,
    #[serde(deserialize_with = "or_default")]
    api_version: String,
    #[serde(deserialize_with = "or_default")]
    install_hint: String,
    #[serde(deserialize_with = "or_default")]
    provide_cluster_info: bool,
    #[serde(deserialize_with = "or_default")]
    interactive_mode: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Variable {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    value: String,
}

/// A program that prints credentials.
#[derive(Debug)]
pub(in super::super) struct Plugin {
    config: Config,
    /// The path or name of the program.
    command: PathBuf,
    cluster: Option<Value>,
}

/// The credentials that a plugin printed.
#[derive(Debug)]
pub(in super::super) struct Credential {
    pub(in super::super) token: Option<String>,
    /// A client certificate and its key.
    pub(in super::super) identity: Option<(Material, Material)>,
    pub(in super::super) expires: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Status {
    #[serde(deserialize_with = "or_default")]
    token: String,
    #[serde(deserialize_with = "or_default")]
    client_certificate_data: String,
    #[serde(deserialize_with = "or_default")]
    client_key_data: String,
    expiration_timestamp: Option<Timestamp>,
}

impl Plugin {
    /// # Errors
    ///
    /// The problem, as the end of a sentence whose subject is the plugin.
    pub(super) fn new(config: Config, directory: &Path, cluster: Value) -> Result<Self, String> {
        if config.command.is_empty() {
            return Err("has no command".to_owned());
        }
        match &*config.api_version {
            "client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1" => {}
            other => {
                return Err(format!(
                    "has apiVersion {other:?}; use client.authentication.k8s.io/v1 or v1beta1, and \
                     a version of {:?} that has it",
                    config.command
                ));
            }
        }
        match &*config.interactive_mode {
            "" if config.api_version.ends_with("/v1") => {
                return Err("has no interactiveMode; set it to Never or IfAvailable".to_owned());
            }
            "" | "Never" | "IfAvailable" => {}
            "Always" => {
                return Err(
                    "has interactiveMode Always, and svcproxy has no terminal for it; \
                     use credentials that need nobody to answer"
                        .to_owned(),
                );
            }
            other => {
                return Err(format!(
                    "has interactiveMode {other:?}; set it to Never or IfAvailable"
                ));
            }
        }
        // A command that contains a slash is relative to the kubeconfig.
        let command = if config.command.contains('/') {
            directory.join(&config.command)
        } else {
            PathBuf::from(&config.command)
        };
        Ok(Self {
            cluster: config.provide_cluster_info.then_some(cluster),
            config,
            command,
        })
    }

    fn failed(&self, problem: impl Into<String>) -> AccessError {
        AccessError::Plugin {
            command: self.config.command.clone(),
            problem: problem.into(),
        }
    }

    fn missing(&self) -> AccessError {
        let hint: Vec<_> = self.config.install_hint.split_whitespace().collect();
        let hint = hint.join(" ");
        let place = if self.config.command.contains('/') {
            ""
        } else {
            " in PATH"
        };
        self.failed(if hint.is_empty() {
            format!("not found{place}; install it where svcproxy runs")
        } else {
            format!("not found{place}; {hint}")
        })
    }

    /// Checks that the program exists.
    ///
    /// # Errors
    ///
    /// [`AccessError::Plugin`] if not, with a hint how to install it.
    pub(in super::super) fn check(&self) -> Result<(), AccessError> {
        let is_program = |path: &Path| {
            fs::metadata(path)
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        let is_there = if self.config.command.contains('/') {
            is_program(&self.command)
        } else {
            let path = env::var_os("PATH").unwrap_or_default();
            env::split_paths(&path).any(|directory| is_program(&directory.join(&self.command)))
        };
        if is_there {
            Ok(())
        } else {
            Err(self.missing())
        }
    }

    /// Runs the plugin. Kills it with its process group at the time limit, or when the future is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`AccessError::Plugin`] if it prints no credentials in time.
    pub(in super::super) async fn run(&self, limit: Duration) -> Result<Credential, AccessError> {
        let mut info = json!({
            "apiVersion": self.config.api_version,
            "kind": "ExecCredential",
            "spec": {"interactive": false},
        });
        if let Some(cluster) = &self.cluster
            && let Some(Value::Object(spec)) = info.get_mut("spec")
        {
            spec.insert("cluster".to_owned(), cluster.clone());
        }
        let variables = self.config.env.iter().map(|v| (&v.name, &v.value));
        let child = Command::new(&self.command)
            .args(&self.config.args)
            .envs(variables)
            .env("KUBERNETES_EXEC_INFO", info.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn();
        let child = child.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.missing(),
            _ => self.failed(format!("cannot be run: {error}")),
        })?;
        let group = child.id().map(program::Group::of).transpose();
        let group = group.map_err(|error| self.failed(format!("cannot be run: {error}")))?;
        let mut child = Running { child, group };
        let ended = tokio::time::timeout(limit, child.output()).await;
        let Ok(ended) = ended else {
            child.kill();
            let _ = tokio::time::timeout(DEATH, child.child.wait()).await;
            return Err(self.failed(format!("killed: not finished after {limit:?}")));
        };
        let (status, output, complaint) =
            ended.map_err(|error| self.failed(format!("cannot be read from: {error}")))?;
        if !status.success() {
            return Err(self.failed(describe(status, &complaint)));
        }
        self.credential(&output)
    }

    fn credential(&self, output: &[u8]) -> Result<Credential, AccessError> {
        if output.len() > LONGEST_OUTPUT {
            return Err(self.failed(format!("prints more than {LONGEST_OUTPUT} bytes")));
        }
        let output: Output = serde_json::from_slice(output)
            .map_err(|error| self.failed(format!("does not print an ExecCredential: {error}")))?;
        if output.kind != "ExecCredential" {
            return Err(self.failed(format!("prints a {:?}, not an ExecCredential", output.kind)));
        }
        if output.api_version != self.config.api_version {
            return Err(self.failed(format!(
                "prints apiVersion {:?} where the kubeconfig says {:?}; set the kubeconfig to what \
                 it prints",
                output.api_version, self.config.api_version
            )));
        }
        let status = output.status.unwrap_or_default();
        let material = |what, text: String| Material {
            what,
            origin: format!("the output of exec plugin {:?}", self.config.command),
            text: text.into_bytes(),
        };
        let identity = match (status.client_certificate_data, status.client_key_data) {
            (certificate, key) if certificate.is_empty() && key.is_empty() => None,
            (certificate, key) if !certificate.is_empty() && !key.is_empty() => Some((
                material("client certificate", certificate),
                material("client key", key),
            )),
            _ => return Err(self.failed("prints one of clientCertificateData and clientKeyData")),
        };
        let token = Some(status.token).filter(|token| !token.is_empty());
        if token.is_none() && identity.is_none() {
            return Err(self.failed("prints neither a token nor a client certificate"));
        }
        Ok(Credential {
            token,
            identity,
            expires: status.expiration_timestamp,
        })
    }
}

/// Describes the failure of a program, in one line.
fn describe(status: ExitStatus, complaint: &[u8]) -> String {
    let complaint = String::from_utf8_lossy(complaint);
    let lines = complaint
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let complaint = lines.collect::<Vec<_>>().join(" ");
    let status = match status.code() {
        Some(code) => format!("failed with exit code {code}"),
        None => format!("ended by {status}"),
    };
    if complaint.is_empty() {
        return status;
    }
    let cut = complaint
        .char_indices()
        .nth(LONGEST_COMPLAINT)
        .map(|(at, _)| at);
    match cut.and_then(|at| complaint.get(..at)) {
        Some(beginning) => format!("{status}: {beginning}…"),
        None => format!("{status}: {complaint}"),
    }
}

/// A running plugin, which leads a process group. Dropping this kills the group.
struct Running {
    child: Child,
    /// Among those that end with this process.
    group: Option<program::Group>,
}

impl Running {
    async fn output(&mut self) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let (output, complaint, status) =
            futures_util::future::join3(read_all(stdout), read_all(stderr), self.child.wait())
                .await;
        Ok((status?, output?, complaint?))
    }

    fn kill(&self) {
        // After the wait, the PID may belong to another process.
        let is_running = self.child.id().is_some();
        if let Some(group) = self.group.as_ref().filter(|_| is_running) {
            group.kill();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads the output, a little more than the limit at most. The rest is discarded, so that the
/// plugin does not block on a full pipe.
async fn read_all(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let Some(mut pipe) = pipe else {
        return Ok(Vec::new());
    };
    let mut text = Vec::new();
    let most = u64::try_from(LONGEST_OUTPUT + 1).unwrap_or(u64::MAX);
    (&mut pipe).take(most).read_to_end(&mut text).await?;
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok(text)
}
