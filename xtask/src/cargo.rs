//! Building with cargo.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{paths, process};

/// Builds the program `svcproxy` and returns its path.
pub(crate) fn svcproxy() -> Result<PathBuf> {
    executable(&["build", "--package", "svcproxy", "--bins"])
}

/// Builds what these arguments name, and returns the path of the first executable.
pub(crate) fn executable(arguments: &[&str]) -> Result<PathBuf> {
    let artifacts = artifacts(arguments)?;
    let first = artifacts.first();
    let first =
        first.with_context(|| format!("cargo {} built no executable", arguments.join(" ")))?;
    Ok(text(first, "/executable")?.into())
}

/// Cargo's messages about the executables that it built.
pub(crate) fn artifacts(arguments: &[&str]) -> Result<Vec<Value>> {
    let output = Command::new("cargo")
        .args(arguments)
        .args(["--locked", "--message-format=json-render-diagnostics"])
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

/// Where cargo builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let mut metadata = Command::new("cargo");
    metadata.current_dir(paths::workspace());
    metadata.args(["metadata", "--no-deps", "--format-version=1"]);
    let metadata: Value = serde_json::from_slice(&process::output(&mut metadata)?)?;
    Ok(text(&metadata, "/target_directory")?.into())
}

pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("cargo's output lacks {pointer}"))
}
