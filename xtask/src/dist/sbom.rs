//! The list of everything that the program is built from, in CycloneDX's JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Arch, VERSION};
use crate::{paths, process, tools};

/// Writes `svcproxy-VERSION-linux-ARCH.cdx.json` into `out`.
pub(super) fn write(target: &str, arch: Arch, out: &Path) -> Result<()> {
    tools::ensure("cyclonedx")?;
    let name = format!("svcproxy-{VERSION}-linux-{}.cdx", arch.name());
    let mut cyclonedx = tools::cargo();
    cyclonedx
        .args(["cyclonedx", "--format", "json", "--spec-version", "1.5"])
        .args(["--manifest-path", "crates/cli/Cargo.toml"])
        .args(["--no-build-deps", "--target", target])
        .args(["--override-filename", &name]);
    process::output(&mut cyclonedx)?;
    let file = format!("{name}.json");
    // It writes one list for each member of the workspace, beside its manifest.
    let crates = paths::workspace().join("crates");
    for entry in fs::read_dir(&crates)?.chain(fs::read_dir(paths::workspace())?) {
        let written = entry?.path().join(&file);
        if written.parent() == Some(crates.join("cli").as_path()) {
            let list = fs::read_to_string(&written).context("cargo cyclonedx wrote no list")?;
            // The place of this clone is no part of a release.
            let here = format!("path+file://{}/", paths::workspace().display());
            fs::write(
                out.join(&file),
                list.replace(&here, "path+file:///svcproxy/"),
            )?;
        }
        if written.exists() {
            fs::remove_file(&written)?;
        }
    }
    check(&out.join(&file))
}

/// Whether the list has the libraries that are surely linked in, each with a version and an address.
fn check(file: &Path) -> Result<()> {
    let list: Value = serde_json::from_slice(&fs::read(file)?)?;
    let components = list.get("components").and_then(Value::as_array);
    let components = components.context("the SBOM has no components")?;
    for name in ["tokio", "rustls", "svcproxy-ipvs"] {
        let is_it = |component: &&Value| component["name"] == name;
        let component = components.iter().find(is_it);
        let component = component.with_context(|| format!("the SBOM lacks {name}"))?;
        ensure!(
            component["version"].is_string() && component["purl"].is_string(),
            "{component}"
        );
    }
    let here = paths::workspace().display().to_string();
    ensure!(!list.to_string().contains(&here), "the SBOM names {here}");
    Ok(())
}
