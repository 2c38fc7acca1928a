//! One life of svcproxy, from its start until it is killed: the loop with a simulated clock.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use proxier::Proxier;
use proxier::mode::{DataPlane, PlanSteps};
use proxier::reconcile::{Driver, Event, Intervals, Observed};

/// What a turn of the loop did.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) steps: Vec<String>,
    pub(crate) errors: Vec<String>,
    /// The steps that failed; none if the turn failed as a whole.
    pub(crate) failed: Vec<String>,
}

pub(crate) trait Life {
    fn deadline(&self, now: Instant) -> Instant;
    fn pause(&self, now: Instant) -> Option<Duration>;
    /// Takes a turn that lasts for a while.
    fn turn(&mut self, events: Vec<Event>, now: Instant, lasts: Duration) -> Option<Turn>;
    fn is_ready(&self) -> bool;
}

pub(crate) struct Loop<D: DataPlane> {
    proxier: Proxier<D>,
    driver: Driver,
}

impl<D: DataPlane> Loop<D> {
    pub(crate) fn new(proxier: Proxier<D>, now: Instant) -> Self {
        let driver = Driver::new(&proxier, Intervals::default(), now);
        Self { proxier, driver }
    }
}

impl<D: DataPlane> Life for Loop<D> {
    fn deadline(&self, now: Instant) -> Instant {
        self.driver.deadline(now)
    }

    fn pause(&self, now: Instant) -> Option<Duration> {
        self.driver.pause(now)
    }

    fn turn(&mut self, events: Vec<Event>, now: Instant, lasts: Duration) -> Option<Turn> {
        // The second time is asked for when the action has ended.
        let asked = Cell::new(false);
        let clock = || match asked.replace(true) {
            false => now,
            true => now + lasts,
        };
        let mut done = None;
        let flow = self
            .driver
            .turn(&mut self.proxier, events, clock, |_, observed| {
                if let Observed::Round(round) = observed {
                    let failed = round.result.map(|report| {
                        let failures = report.applied.failures.iter();
                        let failed = failures.filter_map(|failure| report.plan.step(failure.step));
                        failed.collect()
                    });
                    let steps = round.result.map(|report| {
                        let steps = report.plan.steps().iter();
                        steps.map(ToString::to_string).collect()
                    });
                    done = Some(Turn {
                        steps: steps.unwrap_or_default(),
                        errors: round.errors().map(ToString::to_string).collect(),
                        failed: failed.unwrap_or_default(),
                    });
                }
                ControlFlow::Continue(())
            });
        assert!(flow.is_continue());
        done
    }

    fn is_ready(&self) -> bool {
        self.proxier.store().is_ready()
    }
}
