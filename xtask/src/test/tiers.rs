//! Tests by what they need: nothing, network namespaces, an IPVS kernel.
//!
//! A test says so by the reason for which it is ignored: `netns: …` or `kernel: …`.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::Result;

use super::binaries::{Binary, Tests};
use super::libtest::Output;
use super::report::{Outcome, Report, phase};
use super::runs::{Place, Run, by_line, execute};
use crate::vm::{MachineArgs, Series};
use crate::{paths, process};

const NETNS: &str = "netns:";
const KERNEL: &str = "kernel:";

pub(super) struct Tiers<'a> {
    tests: &'a Tests,
    filter: Option<&'a str>,
    report: &'a mut Report,
    /// The ignored tests of each program, and the reasons.
    ignored: Vec<(&'a Binary, BTreeMap<String, String>)>,
}

impl<'a> Tiers<'a> {
    pub(super) fn new(tests: &'a Tests, filter: Option<&'a str>, report: &'a mut Report) -> Self {
        Self {
            tests,
            filter,
            report,
            ignored: Vec::new(),
        }
    }

    /// Tests that run anywhere. Comes first: it finds out what the others are.
    pub(super) fn host(&mut self) -> Result<()> {
        phase("tests");
        let tests = self.tests;
        let filter: Vec<_> = self.filter.into_iter().collect();
        let mut runs = Vec::new();
        for binary in &tests.binaries {
            let ignored = list(binary, &[&["--ignored"], &filter[..]].concat())?;
            let mut expected = list(binary, &filter)?;
            expected.retain(|name| !ignored.contains(name));
            let lost = || "its reason was lost in the output".to_owned();
            self.ignored.push((
                binary,
                ignored.into_iter().map(|name| (name, lost())).collect(),
            ));
            runs.push(Run {
                binary,
                arguments: filter.clone(),
                expected,
            });
        }
        let results = execute(&runs, &tests.svcproxy, &Place::Here);
        let mut ran = 0;
        for ((run, outcomes), (_, ignored)) in runs.iter().zip(results?).zip(&mut self.ignored) {
            for (name, outcome) in outcomes {
                if let Outcome::Skipped(reason) = outcome {
                    ignored.insert(name, reason);
                } else {
                    ran += 1;
                    self.report
                        .add(format!("{} {name}", run.binary.name), outcome);
                }
            }
        }
        self.expect_some("tests", ran);
        Ok(())
    }

    /// The examples in the documentation.
    pub(super) fn doc(&mut self) -> Result<()> {
        phase("documentation examples");
        let mut cargo = Command::new("cargo");
        cargo
            .args([
                "test",
                "--locked",
                "--workspace",
                "--all-features",
                "--doc",
                "--no-fail-fast",
                "--",
            ])
            .args(self.filter)
            .current_dir(paths::workspace());
        let mut output = Output::default();
        let success = by_line(&mut cargo, |line| output.show(line, "doc"))?;
        let outcomes = output.outcomes(&[], success);
        self.expect_some("documentation examples", outcomes.len());
        if !success && !outcomes.values().any(|outcome| *outcome == Outcome::Failed) {
            self.report
                .fail("documentation examples", "cargo test --doc failed");
        }
        for (name, outcome) in outcomes {
            self.report.add(format!("doc {name}"), outcome);
        }
        Ok(())
    }

    /// Tests that need root and network namespaces.
    pub(super) fn netns(&mut self) -> Result<()> {
        phase("tests in network namespaces");
        let id = process::output(Command::new("id").arg("--user"))?;
        if id != b"0\n" {
            self.skip(NETNS, "only root can make network namespaces");
            return Ok(());
        }
        self.run_ignored(NETNS, "netns", &Place::Here)
    }

    /// Tests that need an IPVS kernel, all in one machine.
    pub(super) fn kernel(&mut self, series: Series) -> Result<()> {
        phase(&format!("tests in a VM with kernel {}", series.name()));
        let label = format!("kernel {}", series.name());
        self.run_ignored(KERNEL, &label, &Place::Machine(MachineArgs::of(series)))
    }

    /// Counts the tests of the VM as skipped.
    pub(super) fn skip_kernel(&mut self) {
        self.skip(KERNEL, "left out by --no-vm");
    }

    /// Counts the ignored tests that are of no tier as skipped.
    pub(super) fn skip_the_rest(&mut self) {
        for (binary, ignored) in &self.ignored {
            for (name, reason) in ignored {
                if ![NETNS, KERNEL].iter().any(|tier| reason.starts_with(tier)) {
                    let outcome = Outcome::Skipped(reason.clone());
                    self.report.add(format!("{} {name}", binary.name), outcome);
                }
            }
        }
    }

    /// Runs the ignored tests whose reason starts with `tier`.
    fn run_ignored(&mut self, tier: &str, label: &str, place: &Place) -> Result<()> {
        let runs: Vec<_> = self
            .ignored
            .iter()
            .filter_map(|(binary, ignored)| {
                let names: Vec<_> = of_tier(ignored, tier).cloned().collect();
                let arguments = ["--ignored", "--exact"]
                    .into_iter()
                    .chain(of_tier(ignored, tier).map(String::as_str))
                    .collect();
                (!names.is_empty()).then_some(Run {
                    binary,
                    arguments,
                    expected: names,
                })
            })
            .collect();
        let count = runs.iter().map(|run| run.expected.len()).sum();
        let results = execute(&runs, &self.tests.svcproxy, place)?;
        for (run, outcomes) in runs.iter().zip(results) {
            for (name, outcome) in outcomes {
                self.report
                    .add(format!("{} {name} ({label})", run.binary.name), outcome);
            }
        }
        self.expect_some(label, count);
        Ok(())
    }

    fn skip(&mut self, tier: &str, why: &str) {
        for (binary, ignored) in &self.ignored {
            for name in of_tier(ignored, tier) {
                let outcome = Outcome::Skipped(format!("{tier} {why}"));
                self.report.add(format!("{} {name}", binary.name), outcome);
            }
        }
    }

    /// A tier without tests is a mistake somewhere, unless few were asked for.
    fn expect_some(&mut self, tier: &str, count: usize) {
        if count == 0 && self.filter.is_none() {
            self.report.fail(tier, "there was no test to run");
        }
    }
}

fn of_tier<'a>(
    ignored: &'a BTreeMap<String, String>,
    tier: &'a str,
) -> impl Iterator<Item = &'a String> {
    ignored
        .iter()
        .filter(move |(_, reason)| reason.starts_with(tier))
        .map(|(name, _)| name)
}

/// The names of the tests that `binary` would run with `arguments`.
fn list(binary: &Binary, arguments: &[&str]) -> Result<Vec<String>> {
    let output = process::output(
        Command::new(&binary.executable)
            .args(["--list", "--format=terse"])
            .args(arguments)
            .current_dir(&binary.directory),
    )?;
    let output = String::from_utf8_lossy(&output);
    Ok(output
        .lines()
        .filter_map(|line| Some(line.strip_suffix(": test")?.to_owned()))
        .collect())
}
