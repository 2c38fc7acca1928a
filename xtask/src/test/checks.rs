//! Checks other than tests: formatting, lints, documentation, dependencies, fuzz targets.

use std::process::Command;

use super::module_graph;
use super::report::Report;
use crate::{paths, process, tools};

/// Name, subcommand of cargo that may have to be installed, arguments of cargo.
type Check = (&'static str, Option<&'static str>, &'static str);

/// Each counts as one test.
const BEFORE_THE_BUILD: [Check; 6] = [
    ("rustfmt", None, "fmt --all --check"),
    (
        "rustfmt of fuzz",
        None,
        "fmt --manifest-path fuzz/Cargo.toml --check",
    ),
    // Not the advisories: they need a database from the network.
    (
        "cargo deny",
        Some("deny"),
        "deny --locked check licenses bans sources",
    ),
    (
        "clippy",
        None,
        "clippy --locked --workspace --all-targets --all-features -- --deny warnings",
    ),
    (
        "clippy of each feature alone",
        Some("hack"),
        "hack clippy --locked --package svcproxy-ipvs --package svcproxy-proxier \
         --each-feature --exclude-all-features -- --deny warnings",
    ),
    (
        "rustdoc",
        None,
        "doc --locked --workspace --all-features --no-deps",
    ),
];

/// Checks that share the build of the tests: same features, same profile.
const AFTER_THE_BUILD: [Check; 1] = [(
    "benches compile",
    None,
    "bench --locked --workspace --all-features --bench * --no-run --profile dev",
)];

pub(super) fn before_the_build(report: &mut Report) {
    run(&BEFORE_THE_BUILD, report);
    report.phase("module graph");
    let result = module_graph::check(paths::workspace());
    report.check("module graph without cycles", result);
}

pub(super) fn after_the_build(report: &mut Report) {
    run(&AFTER_THE_BUILD, report);
}

fn run(checks: &[Check], report: &mut Report) {
    for &(name, tool, arguments) in checks {
        report.phase(name);
        let installed = tool.map_or(Ok(()), tools::ensure);
        let mut cargo = cargo(arguments);
        let result =
            installed.and_then(|()| process::run(cargo.env("RUSTDOCFLAGS", "--deny warnings")));
        report.check(name, result);
    }
}

/// Runs each fuzz target for a short time, to show that it works and finds nothing quickly.
pub(super) fn fuzz(report: &mut Report) {
    report.phase("fuzz targets: build");
    let built = tools::ensure("fuzz")
        // Sanitizers need a nightly compiler.
        .and_then(|()| process::run(&mut cargo("fuzz build --sanitizer none")))
        .and_then(|()| process::output(&mut cargo("fuzz list")));
    let targets = match built {
        Ok(targets) => String::from_utf8_lossy(&targets).into_owned(),
        Err(error) => return report.fail("fuzz", &format!("{error:#}")),
    };
    report.phase("fuzz targets");
    for target in targets.lines() {
        let run = format!("fuzz run --sanitizer none {target} -- -runs=5000 -max_total_time=15");
        // The output is long, and interesting only if the target finds something.
        let found = process::output(&mut cargo(&run)).map(drop);
        report.check(&format!("fuzz {target}"), found);
    }
}

fn cargo(arguments: &str) -> Command {
    let mut cargo = tools::cargo();
    cargo.args(arguments.split_whitespace());
    cargo
}
