//! Tests by what they need: nothing, network namespaces, a kernel with IPVS.
//!
//! Each tier is a profile in `.config/nextest.toml`. A test that not every machine can run is
//! ignored, with a reason that begins with its tier: `netns: …`, `browser: …` or `kernel: …`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result};

use super::nextest::{Results, Selection, TestName, Tests};
use super::report::{Outcome, Report};
use crate::vm::{MachineArgs, Series};
use crate::{process, setup, tools};

/// A profile of nextest.
#[derive(Clone, Copy)]
enum Tier {
    Host,
    Netns,
    Browser,
    Kernel,
}

pub(super) struct Tiers<'a> {
    pub(super) tests: &'a Tests,
    pub(super) filter: Option<&'a str>,
    pub(super) repeat: u32,
    pub(super) report: &'a mut Report,
}

impl Tiers<'_> {
    fn selection(&self, tier: Tier) -> Selection<'_> {
        let (profile, ignored) = match tier {
            Tier::Host => ("default", false),
            Tier::Netns => ("netns", true),
            Tier::Browser => ("browser", true),
            Tier::Kernel => ("kernel", true),
        };
        Selection {
            profile,
            ignored,
            filter: self.filter,
            repeat: self.repeat,
        }
    }

    /// Tests that run anywhere.
    pub(super) fn host(&mut self) -> Result<()> {
        self.report.phase("tests");
        let selection = self.selection(Tier::Host);
        let expected = self.tests.list(&selection)?;
        let results = self.tests.run_here(&selection);
        self.count("tests", expected, results);
        Ok(())
    }

    /// Tests that need root and network namespaces.
    pub(super) fn netns(&mut self) -> Result<()> {
        self.report.phase("tests in network namespaces");
        let id = process::output(std::process::Command::new("id").arg("--user"))?;
        if id != b"0\n" {
            return self.skip(Tier::Netns, "netns: only root can make network namespaces");
        }
        let selection = self.selection(Tier::Netns);
        let expected = self.tests.list(&selection)?;
        let results = self.tests.run_here(&selection);
        self.count("netns", expected, results);
        Ok(())
    }

    /// Tests that need root and Chromium, which takes half a gigabyte.
    pub(super) fn browser(&mut self) -> Result<()> {
        if !setup::BROWSER.is_installed() {
            let why = "browser: Chromium is not installed (cargo xtask setup --browser)";
            return self.skip(Tier::Browser, why);
        }
        self.report.phase("tests with a browser");
        let selection = self.selection(Tier::Browser);
        let expected = self.tests.list(&selection)?;
        let results = self.tests.run_here(&selection);
        self.count("browser", expected, results);
        Ok(())
    }

    /// Tests that need a kernel with IPVS, all in one boot.
    pub(super) fn kernel(&mut self, series: Series) -> Result<()> {
        let label = format!("kernel {}", series.name());
        self.report.phase(format!("tests in a VM with {label}"));
        let selection = self.selection(Tier::Kernel);
        let expected = self.tests.list(&selection)?;
        // A filter may select no test of this tier.
        let results = if expected.is_empty() {
            Ok(Results::new())
        } else {
            let args = MachineArgs::of(series);
            self.tests.run_in_vm(&selection, &expected, &args)
        };
        self.count(&label, expected, results);
        Ok(())
    }

    /// Counts the tests of the VM as skipped.
    pub(super) fn skip_kernel(&mut self) -> Result<()> {
        self.skip(Tier::Kernel, "kernel: left out by --no-vm")
    }

    /// Fails for each ignored test that no tier runs: it would never run.
    pub(super) fn nothing_left_out(&mut self) -> Result<()> {
        let of = |tier| -> Result<BTreeSet<TestName>> {
            Ok(self
                .tests
                .list(&self.selection(tier))?
                .into_iter()
                .collect())
        };
        let mut in_tiers = of(Tier::Netns)?;
        in_tiers.extend(of(Tier::Browser)?);
        in_tiers.extend(of(Tier::Kernel)?);
        let all = Selection {
            ignored: true,
            ..self.selection(Tier::Host)
        };
        for (binary, test) in self.tests.list(&all)? {
            if !in_tiers.contains(&(binary.clone(), test.clone())) {
                let why = "ignored, but in no profile of .config/nextest.toml";
                self.report.fail(&format!("{binary} {test}"), why);
            }
        }
        Ok(())
    }

    /// The examples in the documentation, which nextest does not run.
    pub(super) fn doc(&mut self) -> Result<()> {
        self.report.phase("documentation examples");
        let mut cargo = tools::cargo();
        cargo.args(["test", "--locked", "--workspace", "--all-features"]);
        cargo.args(["--doc", "--no-fail-fast", "--"]);
        cargo.args(self.filter);
        let mut child = cargo
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start cargo test")?;
        let mut counts = DocCounts::default();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines() {
                let line = line?;
                counts.line(&line);
                println!("{line}");
            }
        }
        let success = child.wait()?.success();
        for _ in 0..counts.passed {
            self.report.add("documentation example", Outcome::Passed);
        }
        for name in &counts.ignored {
            let reason = "marked `ignore` in the documentation".to_owned();
            self.report.add(name, Outcome::Skipped(reason));
        }
        for name in &counts.failed {
            self.report.add(name, Outcome::Failed);
        }
        if !success && counts.failed.is_empty() {
            let why = "cargo test --doc failed";
            self.report.fail("documentation examples", why);
        }
        self.expect_some("documentation examples", counts.passed);
        Ok(())
    }

    /// Adds the result of each test of `expected`; one that did not run has failed.
    fn count(&mut self, label: &str, expected: Vec<TestName>, results: Result<Results>) {
        let results = results.unwrap_or_else(|error| {
            self.report.fail(label, &format!("{error:#}"));
            Results::new()
        });
        self.expect_some(label, expected.len());
        for name in expected {
            let shown = format!("{} {} ({label})", name.0, name.1);
            let Some(runs) = results.get(&name) else {
                self.report.fail(&shown, "it did not run");
                continue;
            };
            let failed = runs.iter().filter(|run| !run.passed).count();
            if failed > 0 && runs.len() > 1 {
                println!("{shown}: failed in {failed} of {} runs", runs.len());
            }
            let outcome = if failed > 0 || runs.len() < self.repeat as usize {
                Outcome::Failed
            } else {
                Outcome::Passed
            };
            let longest = runs.iter().map(|run| run.duration).max();
            self.report
                .add_timed(shown, outcome, longest.unwrap_or_default());
        }
    }

    fn skip(&mut self, tier: Tier, why: &str) -> Result<()> {
        for (binary, test) in self.tests.list(&self.selection(tier))? {
            let outcome = Outcome::Skipped(why.to_owned());
            self.report.add(format!("{binary} {test}"), outcome);
        }
        Ok(())
    }

    /// A tier without tests is a mistake, unless a filter is set.
    fn expect_some(&mut self, tier: &str, count: usize) {
        if count == 0 && self.filter.is_none() {
            self.report.fail(tier, "there was no test to run");
        }
    }
}

/// Counts the results in the output of `cargo test --doc`.
#[derive(Default)]
struct DocCounts {
    passed: usize,
    failed: Vec<String>,
    ignored: Vec<String>,
}

impl DocCounts {
    fn line(&mut self, line: &str) {
        // test crates/a/src/lib.rs - item (line 3) - compile ... ok
        let result = line
            .strip_prefix("test ")
            .and_then(|line| line.rsplit_once(" ... "));
        match result {
            Some((_, "ok")) => self.passed += 1,
            Some((name, "FAILED")) => self.failed.push(name.to_owned()),
            Some((name, "ignored")) => self.ignored.push(name.to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_examples_are_counted() {
        let output = "\
running 4 tests
test src/a.rs - a (line 3) ... ok
test src/a.rs - b (line 9) - compile ... ok
test src/a.rs - c (line 12) ... ignored
test src/a.rs - d (line 20) ... FAILED

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out
";
        let mut counts = DocCounts::default();
        output.lines().for_each(|line| counts.line(line));
        assert_eq!(counts.passed, 2);
        assert_eq!(counts.ignored, ["src/a.rs - c (line 12)"]);
        assert_eq!(counts.failed, ["src/a.rs - d (line 20)"]);
    }
}
