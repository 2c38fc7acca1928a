//! What is checked without running the project's code.

use std::process::Command;

use super::report::{Report, phase};
use crate::{paths, process, setup};

/// Each is a test of its own: its name and the arguments of cargo.
const CHECKS: [(&str, &str); 6] = [
    ("rustfmt", "fmt --all --check"),
    (
        "clippy",
        "clippy --locked --workspace --all-targets -- --deny warnings",
    ),
    (
        "clippy ipvs without features",
        "clippy --locked --package svcproxy-ipvs --no-default-features -- --deny warnings",
    ),
    (
        "clippy proxier without features",
        "clippy --locked --package svcproxy-proxier --no-default-features -- --deny warnings",
    ),
    ("rustdoc", "doc --locked --workspace --no-deps"),
    // The bench profile would build all dependencies once more.
    (
        "benches compile",
        "bench --locked --workspace --no-run --profile dev",
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
    let deny = setup::cargo_deny()
        .and_then(|()| process::run(&mut cargo("deny --locked check licenses bans sources")));
    report.check("cargo deny", deny);
}

fn cargo(arguments: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::workspace())
        .args(arguments.split(' '));
    cargo
}
