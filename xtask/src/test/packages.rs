//! The libraries as others get them: packed, unpacked, and built outside the workspace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::report::Report;
use crate::{paths, process, tools};

/// In the order in which they depend on each other.
const PACKAGES: [&str; 3] = ["svcproxy-netlink", "svcproxy-ipvs", "svcproxy-proxier"];
/// Files that each of them has, beside its sources.
const FILES: [&str; 3] = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// A program that uses the libraries as anyone would. The patches stand for the registry.
const OUTSIDE: &str = r#"
[package]
name = "outside"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
serde = { version = "1", features = ["derive"] }
serde_json = "1"
svcproxy-ipvs = "VERSION"
svcproxy-proxier = "VERSION"

[patch.crates-io]
svcproxy-ipvs = { path = "../svcproxy-ipvs-VERSION" }
svcproxy-netlink = { path = "../svcproxy-netlink-VERSION" }
svcproxy-proxier = { path = "../svcproxy-proxier-VERSION" }
"#;

pub(super) fn run(report: &mut Report) {
    report.phase("packages outside the workspace");
    report.check("packages outside the workspace", outside());
    report.phase("minimum Rust version");
    minimum_rust(report);
}

fn outside() -> Result<()> {
    let packed = paths::workspace().join("target/package");
    let directory = paths::workspace().join("target/outside");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    let mut pack = tools::cargo();
    pack.args([
        "package",
        "--locked",
        "--quiet",
        "--no-verify",
        "--allow-dirty",
    ]);
    pack.args(PACKAGES.map(|name| format!("--package={name}")));
    // It names each test that is left out.
    process::output(&mut pack)?;
    let version = env!("CARGO_PKG_VERSION");
    for name in PACKAGES {
        let unpacked = unpack(&packed, &directory, &format!("{name}-{version}"))?;
        for file in FILES {
            let file = unpacked.join(file);
            fs::metadata(&file).with_context(|| format!("no {}", file.display()))?;
        }
    }
    let program = directory.join("outside");
    fs::create_dir_all(program.join("src"))?;
    let manifest = OUTSIDE.replace("VERSION", version);
    fs::write(program.join("Cargo.toml"), manifest)?;
    let proxier = directory.join(format!("svcproxy-proxier-{version}"));
    fs::copy(
        proxier.join("examples/json_registry.rs"),
        program.join("src/main.rs"),
    )?;
    // The same versions of all else, so that little is built and nothing is fetched.
    fs::copy(
        paths::workspace().join("Cargo.lock"),
        program.join("Cargo.lock"),
    )?;
    let mut check = tools::cargo();
    check.current_dir(&program);
    check.args(["check", "--offline", "--quiet", "--target-dir"]);
    check.arg(paths::workspace().join("target"));
    process::run(&mut check)
}

fn unpack(packed: &Path, directory: &Path, package: &str) -> Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let archive = packed.join(format!("{package}.crate"));
    let mut tar = Command::new("tar");
    process::run(tar.arg("-xzf").arg(archive).arg("-C").arg(directory))?;
    Ok(directory.join(package))
}

/// Checks the libraries with the oldest compiler that they promise to work with, if it is there.
fn minimum_rust(report: &mut Report) {
    const NAME: &str = "minimum Rust version";
    let version = env!("CARGO_PKG_RUST_VERSION");
    let mut rustup = Command::new("rustup");
    let installed = process::output(rustup.args(["toolchain", "list"])).unwrap_or_default();
    let installed = String::from_utf8_lossy(&installed).into_owned();
    if !installed.lines().any(|line| line.starts_with(version)) {
        return report.skip(NAME, format!("no toolchain {version} is installed"));
    }
    let mut check = Command::new("cargo");
    check.current_dir(paths::workspace());
    check.arg(format!("+{version}"));
    check.args(["check", "--locked", "--all-features"]);
    check.args(["--target-dir", "target/minimum-rust"]);
    check.args(PACKAGES.map(|name| format!("--package={name}")));
    report.check(NAME, process::run(&mut check));
}
