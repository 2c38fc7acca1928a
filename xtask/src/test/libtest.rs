//! The output of Rust's test programs.

use std::collections::BTreeMap;

use super::report::Outcome;

/// Reads what a test program writes, line by line.
#[derive(Default)]
pub(super) struct Output {
    outcomes: BTreeMap<String, Outcome>,
    /// Names in the list of failures at the end.
    failures: Vec<String>,
    /// The program wrote its own summary, so it came to its end.
    complete: bool,
}

impl Output {
    /// Takes one line, and prints what is worth showing of it.
    pub(super) fn show(&mut self, line: &str, label: &str) {
        if let Some(shown) = self.line(line, label) {
            println!("{shown}");
        }
    }

    /// Takes one line; returns what is worth showing of it, with `label` before a test's name.
    fn line(&mut self, line: &str, label: &str) -> Option<String> {
        if let Some((name, result)) = test_line(line) {
            let shown = match &result {
                // What is skipped here may run elsewhere.
                Outcome::Skipped(_) => None,
                Outcome::Passed => Some(format!("test {label} {name} ... ok")),
                Outcome::Failed => Some(format!("test {label} {name} ... FAILED")),
            };
            self.outcomes.insert(name.to_owned(), result);
            return shown;
        }
        if line.starts_with("test result: ") {
            self.complete = true;
            return None;
        }
        if let Some(name) = line.strip_prefix("    ") {
            self.failures.push(name.to_owned());
        }
        let noise = line.is_empty() || line.starts_with("running ");
        (!noise).then(|| line.to_owned())
    }

    /// What came of each test seen, and of each of `expected`, given the program's success.
    ///
    /// A line may be lost when a process that a test started writes into it: then the program's
    /// own list of failures tells, and a program that did not come to its end has failed.
    pub(super) fn outcomes(
        mut self,
        expected: &[String],
        success: bool,
    ) -> BTreeMap<String, Outcome> {
        for name in expected {
            let failed = !success && (!self.complete || self.failures.contains(name));
            let unseen = if failed {
                Outcome::Failed
            } else {
                Outcome::Passed
            };
            self.outcomes.entry(name.clone()).or_insert(unseen);
        }
        self.outcomes
    }
}

/// The name and result in a line like `test a::b ... ok`.
fn test_line(line: &str) -> Option<(&str, Outcome)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    let outcome = match result {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        other => {
            let reason = other.strip_prefix("ignored")?;
            Outcome::Skipped(
                reason
                    .strip_prefix(", ")
                    .unwrap_or("no reason given")
                    .to_owned(),
            )
        }
    };
    Some((name, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "\
running 4 tests
test a ... ok
test b ... ignored, kernel: needs IPVS
test m::c ... FAILED
test d - should panic ... ok

failures:

---- m::c stdout ----
it broke

failures:
    m::c

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out
";

    fn read(text: &str) -> (Output, Vec<String>) {
        let mut output = Output::default();
        let shown = text
            .lines()
            .filter_map(|line| output.line(line, "crate"))
            .collect();
        (output, shown)
    }

    #[test]
    fn each_test_has_an_outcome() {
        let (output, shown) = read(RUN);
        assert_eq!(
            shown,
            [
                "test crate a ... ok",
                "test crate m::c ... FAILED",
                "test crate d ... ok",
                "failures:",
                "---- m::c stdout ----",
                "it broke",
                "failures:",
                "    m::c",
            ]
        );
        let outcomes = output.outcomes(&[], false);
        assert_eq!(outcomes["a"], Outcome::Passed);
        assert_eq!(
            outcomes["b"],
            Outcome::Skipped("kernel: needs IPVS".to_owned())
        );
        assert_eq!(outcomes["m::c"], Outcome::Failed);
        assert_eq!(outcomes["d"], Outcome::Passed);
    }

    #[test]
    fn program_that_died_has_failed_what_it_did_not_report() {
        let died: String = RUN.lines().take(2).collect::<Vec<_>>().join("\n");
        let expected = ["a".to_owned(), "m::c".to_owned()];
        let outcomes = read(&died).0.outcomes(&expected, false);
        assert_eq!(outcomes["a"], Outcome::Passed);
        assert_eq!(outcomes["m::c"], Outcome::Failed);
    }

    #[test]
    fn garbled_lines_are_made_up_for_by_the_list_of_failures() {
        let garbled = RUN
            .replace("test a ... ok", "test a ... noise")
            .replace("test m::c ... FAILED", "noisetest m::c ... FAILED");
        let expected = ["a".to_owned(), "m::c".to_owned()];
        let outcomes = read(&garbled).0.outcomes(&expected, false);
        assert_eq!(outcomes["a"], Outcome::Passed);
        assert_eq!(outcomes["m::c"], Outcome::Failed);
    }
}
