//! The licences of what is linked into the program, whose texts must go with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{cargo, paths, process};

/// How names of files with licences begin, in capitals.
const NAMES: [&str; 6] = [
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];

/// One text with the licences of all packages that are linked in for `target`.
pub(super) fn collect(target: &str) -> Result<String> {
    let linked = linked(target)?;
    let metadata = metadata(target)?;
    let packages = metadata.get("packages").and_then(Value::as_array);
    let packages = packages.context("cargo named no packages")?;
    let mut list = String::new();
    // Many packages have the same text.
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for package in packages {
        let name = cargo::text(package, "/name")?;
        let title = format!("{name} v{}", cargo::text(package, "/version")?);
        if !linked.contains(&title) || package["source"].is_null() {
            continue;
        }
        let licence = package["license"].as_str().unwrap_or("see its text");
        writeln!(list, "{title}: {licence}")?;
        found.insert(title.clone());
        let manifest = Path::new(cargo::text(package, "/manifest_path")?);
        for text in texts_in(manifest.parent().context("no directory")?)? {
            texts.entry(text).or_default().push(title.clone());
        }
    }
    ensure!(found.len() > 50, "only {} packages found", found.len());
    let mut all = format!(
        "svcproxy contains Rust's standard library (MIT OR Apache-2.0), musl (MIT), and the \
         packages below. Their texts follow.\n\n{list}"
    );
    for (text, packages) in texts {
        writeln!(
            all,
            "\n{}\n{}\n\n{text}",
            "=".repeat(72),
            packages.join(", ")
        )?;
    }
    Ok(all)
}

/// The packages that the program is linked from, as `NAME vVERSION`.
fn linked(target: &str) -> Result<BTreeSet<String>> {
    let mut tree = Command::new("cargo");
    tree.current_dir(paths::workspace())
        .args(["tree", "--locked", "--package", "svcproxy"])
        .args(["--edges", "normal,no-proc-macro", "--prefix", "none"])
        .args(["--format", "{p}", "--target", target]);
    let text = process::output(&mut tree)?;
    let lines = String::from_utf8_lossy(&text).into_owned();
    let package = |line: &str| Some(line.split(' ').take(2).collect::<Vec<_>>().join(" "));
    Ok(lines.lines().filter_map(package).collect())
}

fn metadata(target: &str) -> Result<Value> {
    let mut metadata = Command::new("cargo");
    metadata
        .current_dir(paths::workspace())
        .args(["metadata", "--locked", "--format-version=1"])
        .args(["--filter-platform", target]);
    serde_json::from_slice(&process::output(&mut metadata)?).context("cannot read cargo's output")
}

fn texts_in(directory: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if entry.file_type()?.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
            texts.push(fs::read_to_string(entry.path())?.trim().to_owned());
        }
    }
    Ok(texts)
}
