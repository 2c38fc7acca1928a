//! The test programs, as cargo builds them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::paths;

/// One test program.
#[derive(Debug)]
pub(super) struct Binary {
    /// The package and, but for unit tests, the file: `svcproxy-ipvs::kernel`.
    pub(super) name: String,
    pub(super) executable: PathBuf,
    /// The package's directory, in which its tests expect to run.
    pub(super) directory: PathBuf,
}

/// All of the workspace.
pub(super) struct Tests {
    pub(super) binaries: Vec<Binary>,
    /// The program `svcproxy`.
    pub(super) svcproxy: PathBuf,
}

/// Builds the workspace's tests and programs.
pub(super) fn build() -> Result<Tests> {
    let mut binaries = artifacts(&["test", "--no-run"])?
        .iter()
        .filter(|artifact| artifact.pointer("/profile/test") == Some(&Value::Bool(true)))
        .map(binary)
        .collect::<Result<Vec<_>>>()?;
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    let svcproxy = artifacts(&["build", "--bins"])?
        .iter()
        .find(|artifact| text(artifact, "/target/name").is_ok_and(|name| name == "svcproxy"))
        .context("cargo built no program svcproxy")
        .and_then(|artifact| text(artifact, "/executable"))?
        .into();
    Ok(Tests { binaries, svcproxy })
}

/// What cargo says of everything that can be run.
fn artifacts(arguments: &[&str]) -> Result<Vec<Value>> {
    let output = Command::new("cargo")
        .args(arguments)
        .args([
            "--locked",
            "--workspace",
            "--message-format=json-render-diagnostics",
        ])
        .current_dir(paths::workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    let messages = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let messages = messages
        .collect::<Result<Vec<_>, _>>()
        .context("cannot read cargo's output")?;
    Ok(messages
        .into_iter()
        .filter(|message| message["executable"].is_string())
        .collect())
}

fn binary(artifact: &Value) -> Result<Binary> {
    let manifest = Path::new(text(artifact, "/manifest_path")?);
    let directory = manifest.parent().unwrap_or(manifest).to_owned();
    let package = text(artifact, "/package_id")?;
    // path+file:///directory/of/package#name@0.1.0, the name left out if it is the directory's
    let (path, id) = package.split_once('#').unwrap_or((package, package));
    let package = match id.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    };
    let target = text(artifact, "/target/name")?;
    let integration = artifact
        .pointer("/target/kind/0")
        .is_some_and(|kind| kind == "test");
    Ok(Binary {
        name: if integration {
            format!("{package}::{target}")
        } else {
            package.to_owned()
        },
        executable: text(artifact, "/executable")?.into(),
        directory,
    })
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("cargo's output lacks {pointer}"))
}
