//! The test programs, as cargo builds them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::cargo::{self, artifacts, text};

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

/// Builds the workspace's tests and the program that they run.
pub(super) fn build() -> Result<Tests> {
    let artifacts = artifacts(&["test", "--workspace", "--all-features", "--no-run"])?;
    let (tests, programs): (Vec<_>, Vec<_>) = artifacts
        .iter()
        .partition(|artifact| artifact.pointer("/profile/test") == Some(&Value::Bool(true)));
    let mut binaries = tests.into_iter().map(binary).collect::<Result<Vec<_>>>()?;
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    // Built along if its package has integration tests.
    let built = programs.into_iter().find(|program| {
        program
            .pointer("/target/name")
            .is_some_and(|name| name == "svcproxy")
    });
    let svcproxy = match built {
        Some(program) => text(program, "/executable")?.into(),
        None => cargo::svcproxy()?,
    };
    Ok(Tests { binaries, svcproxy })
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
