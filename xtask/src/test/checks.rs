//! What is checked without running the project's code.

use std::process::Command;

use super::report::{Report, phase};
use crate::{paths, process, setup};

/// Each is a test of its own: its name and the arguments of cargo.
const CHECKS: [(&str, &str); 7] = [
    ("rustfmt", "fmt --all --check"),
    (
        "rustfmt of fuzz",
        "fmt --manifest-path fuzz/Cargo.toml --check",
    ),
    (
        "clippy",
        "clippy --locked --workspace --all-targets --all-features -- --deny warnings",
    ),
    (
        "clippy ipvs without features",
        "clippy --locked --package svcproxy-ipvs --no-default-features -- --deny warnings",
    ),
    (
        "clippy proxier without features",
        "clippy --locked --package svcproxy-proxier --no-default-features -- --deny warnings",
    ),
    (
        "rustdoc",
        "doc --locked --workspace --all-features --no-deps",
    ),
    // The bench profile would build all dependencies once more.
    (
        "benches compile",
        "bench --locked --workspace --bench * --no-run --profile dev",
    ),
];

pub(super) fn run(report: &mut Report) {
    for (name, arguments) in CHECKS {
        phase(name);
        let mut cargo = cargo(arguments);
        report.check(
            name,
            process::run(cargo.env("RUSTDOCFLAGS", "--deny warnings")),
        );
    }
    // Its check of advisories needs a database from outside: left to who can fetch it.
    phase("cargo deny: licenses, bans, sources");
    let deny = setup::cargo_tool("deny")
        .and_then(|()| process::run(&mut cargo("deny --locked check licenses bans sources")));
    report.check("cargo deny", deny);
}

/// Lets each fuzz target try some inputs: enough to show that it works and finds nothing soon.
pub(super) fn fuzz(report: &mut Report) {
    phase("fuzz targets");
    let targets = setup::cargo_tool("fuzz").and_then(|()| process::output(&mut cargo("fuzz list")));
    let targets = match targets {
        Ok(targets) => String::from_utf8_lossy(&targets).into_owned(),
        Err(error) => return report.fail("fuzz", &format!("{error:#}")),
    };
    for target in targets.lines() {
        // Sanitizers need a nightly compiler.
        let run = format!("fuzz run --sanitizer none {target} -- -runs=20000 -max_total_time=60");
        // Its output is long, and of interest only if it finds something.
        let found = process::output(&mut cargo(&run)).map(drop);
        report.check(&format!("fuzz {target}"), found);
    }
}

fn cargo(arguments: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::workspace())
        .args(arguments.split(' '));
    cargo
}
