//! The results of all tests, and the time of each phase.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// How long CI may take on two cores that do nothing else.
const BUDGET: Duration = Duration::from_secs(15 * 60);
/// How many of the slowest tests the summary lists.
const SLOWEST: usize = 15;

/// The result of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// With the reason.
    Skipped(String),
}

/// The results of all tests, and the time of each phase.
#[derive(Default)]
pub(super) struct Report {
    outcomes: Vec<(String, Outcome)>,
    durations: Vec<(Duration, String)>,
    phases: Vec<Phase>,
}

/// A phase of the run.
struct Phase {
    name: String,
    start: Instant,
    cpu_at_start: Duration,
    /// Wall-clock and CPU time, once it has ended.
    took: Option<(Duration, Duration)>,
}

impl Report {
    /// Ends the current phase and begins the next one.
    pub(super) fn phase(&mut self, name: impl Into<String>) {
        self.end_phase();
        let name = name.into();
        println!("== {name}");
        self.phases.push(Phase {
            name,
            start: Instant::now(),
            cpu_at_start: cpu_time(),
            took: None,
        });
    }

    fn end_phase(&mut self) {
        if let Some(phase) = self.phases.last_mut() {
            let cpu = cpu_time().saturating_sub(phase.cpu_at_start);
            phase.took.get_or_insert((phase.start.elapsed(), cpu));
        }
    }

    pub(super) fn add(&mut self, name: impl Into<String>, outcome: Outcome) {
        self.outcomes.push((name.into(), outcome));
    }

    /// Adds a test that took `duration`.
    pub(super) fn add_timed(&mut self, name: String, outcome: Outcome, duration: Duration) {
        self.durations.push((duration, name.clone()));
        self.add(name, outcome);
    }

    /// Adds a failure that no test reported by itself.
    pub(super) fn fail(&mut self, name: &str, why: &str) {
        println!("test {name} ... FAILED: {why}");
        self.add(name, Outcome::Failed);
    }

    /// Adds a check that could not run.
    pub(super) fn skip(&mut self, name: &str, why: String) {
        println!("test {name} ... skipped: {why}");
        self.add(name, Outcome::Skipped(why));
    }

    /// Adds a check that counts as one test, and prints its result.
    pub(super) fn check(&mut self, name: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => {
                println!("test {name} ... ok");
                self.add(name, Outcome::Passed);
            }
            Err(error) => self.fail(name, &format!("{error:#}")),
        }
    }

    /// Prints the table of times, then skipped and failed tests, then the counts.
    pub(super) fn finish(mut self) -> ExitCode {
        self.end_phase();
        self.print_times();
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for (name, outcome) in &self.outcomes {
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
            println!("failed: no test ran");
        }
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn print_times(&mut self) {
        let row = |name: &str, (wall, cpu): (Duration, Duration)| {
            println!(
                "{:>9.1} {:>9.1}  {name}",
                wall.as_secs_f64(),
                cpu.as_secs_f64()
            );
        };
        println!("\n  seconds       CPU  phase");
        let mut total = (Duration::ZERO, Duration::ZERO);
        for phase in &self.phases {
            let took = phase.took.unwrap_or_default();
            total = (total.0 + took.0, total.1 + took.1);
            row(&phase.name, took);
        }
        row("total", total);
        if total.0 > BUDGET {
            println!("over the budget of {} s", BUDGET.as_secs());
        }
        self.durations.sort_by(|a, b| b.cmp(a));
        if !self.durations.is_empty() {
            println!("\n  seconds  slowest tests");
        }
        for (duration, name) in self.durations.iter().take(SLOWEST) {
            println!("{:>9.1}  {name}", duration.as_secs_f64());
        }
        println!();
    }
}

/// The CPU time of all child processes that have ended.
fn cpu_time() -> Duration {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |usage| {
        let micros = (usage.user_time() + usage.system_time()).num_microseconds();
        Duration::from_micros(micros.try_into().unwrap_or_default())
    })
}
