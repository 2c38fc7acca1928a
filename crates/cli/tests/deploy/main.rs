//! Checks that `deploy/` is valid, complete and consistent with the program.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod chart;
mod kustomize;
mod monitoring;
mod objects;
mod rbac;
mod unit;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn deploy() -> PathBuf {
    workspace().join("deploy")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

#[test]
fn image_has_the_versions_of_the_program() {
    let containerfile = read(deploy().join("Containerfile"));
    let label = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(containerfile.contains(&label), "{label}");
    let toolchain = read(workspace().join("rust-toolchain.toml"));
    let (_, channel) = toolchain.split_once("channel = \"").unwrap();
    let (minor, _) = channel.split_once(".0\"").unwrap();
    let from = format!("FROM rust:{minor}-");
    assert!(containerfile.contains(&from), "{from}");
}
