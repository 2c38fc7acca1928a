//! What came of each test.

use std::process::ExitCode;

/// What came of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// With the reason.
    Skipped(String),
}

/// What came of all tests, by name.
#[derive(Default)]
pub(super) struct Report(Vec<(String, Outcome)>);

/// Announces what comes next.
pub(super) fn phase(what: &str) {
    println!("== {what}");
}

impl Report {
    pub(super) fn add(&mut self, name: impl Into<String>, outcome: Outcome) {
        self.0.push((name.into(), outcome));
    }

    /// Adds a failure that no test has reported by itself.
    pub(super) fn fail(&mut self, name: &str, why: &str) {
        println!("test {name} ... FAILED: {why}");
        self.add(name, Outcome::Failed);
    }

    /// Adds a check that could not be made.
    pub(super) fn skip(&mut self, name: &str, why: String) {
        println!("test {name} ... skipped: {why}");
        self.add(name, Outcome::Skipped(why));
    }

    /// Adds one check that is a test of its own, and says so.
    pub(super) fn check(&mut self, name: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => {
                println!("test {name} ... ok");
                self.add(name, Outcome::Passed);
            }
            Err(error) => self.fail(name, &format!("{error:#}")),
        }
    }

    /// Lists what did not pass, and counts.
    pub(super) fn finish(&self) -> ExitCode {
        println!();
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for (name, outcome) in &self.0 {
            match outcome {
                Outcome::Passed => passed += 1,
                Outcome::Failed => {
                    failed += 1;
                    println!("failed: {name}");
                }
                Outcome::Skipped(reason) => {
                    skipped += 1;
                    println!("skipped: {name}: {reason}");
                }
            }
        }
        if passed + failed == 0 {
            failed = 1;
            println!("failed: no test was run");
        }
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
