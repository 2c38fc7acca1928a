//! The loop around a [`Proxier`]: it carries out what the schedule says, and waits.

#[cfg(test)]
mod tests;

use std::hash::BuildHasher;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;

use crate::Proxier;
use crate::desired::Config;
use crate::mode::BackendError;
use crate::mode::{DataPlane, Item, PlanSteps};
use crate::reconcile::SyncReport;
use crate::reconcile::proxier::Attempt;
use crate::reconcile::schedule::{Action, Failed, Intervals, Outcome, Schedule};
use crate::store::Change;

/// What the loop is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Changes that belong together.
    Changes(Vec<Change>),
    /// Settings, to be in force from now on.
    Settings(Settings),
    /// Somebody else changed what svcproxy keeps on the node: audit it soon.
    Drift,
    /// Have the observer look at the proxier.
    Inspect,
    /// End the loop. The data plane stays as it is.
    Stop,
}

/// What can be set while the loop runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// The proxier's.
    pub config: Arc<Config>,
    /// The loop's.
    pub intervals: Intervals,
}

impl Settings {
    /// These settings.
    pub const fn new(config: Arc<Config>, intervals: Intervals) -> Self {
        Self { config, intervals }
    }
}

/// What the loop's observer is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Observed<'a, P> {
    /// There was a sync.
    Round(Round<'a, P>),
    /// [`Event::Inspect`].
    Inspect,
}

/// A sync, done or tried.
#[derive(Debug)]
#[non_exhaustive]
pub struct Round<'a, P> {
    /// Why it was done.
    pub cause: Cause,
    /// What it did.
    pub result: Result<&'a SyncReport<P>, &'a BackendError>,
    /// When it began. All changes sent before are in it.
    pub started: Instant,
    /// How long it took; the last slice of an audit, how long all of them did.
    pub took: Duration,
}

impl<P: PlanSteps> Round<'_, P> {
    /// Whether all that it tried is in effect.
    pub fn is_success(&self) -> bool {
        self.result.is_ok_and(SyncReport::is_success)
    }
}

/// Why the loop has the proxier sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Changes came.
    Changes,
    /// Settings changed.
    Settings,
    /// Something failed before.
    Retry,
    /// It was time to look whether the node is still as it was left.
    Audit,
    /// Real servers had drained.
    Drain,
}

/// Follows events until [`Event::Stop`], until their sender is gone, or until `observe` breaks.
///
/// `intervals` are changed by [`Event::Settings`]. `observe` hears of every sync. When nothing is
/// due the loop sleeps.
pub fn run<B: DataPlane>(
    proxier: &mut Proxier<B>,
    events: &Receiver<Event>,
    intervals: &mut Intervals,
    mut observe: impl FnMut(&mut Proxier<B>, Observed<'_, B::Plan>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let node_name = &proxier.desired().config().node_name;
    let seed = FixedState::default().hash_one(node_name);
    let mut schedule = Schedule::new(Instant::now(), *intervals, seed);
    if proxier.is_draining() {
        schedule.drains(Instant::now());
    }
    let mut cause = Cause::Changes;
    let mut audited = Duration::ZERO;
    loop {
        let Some(received) = receive(events, &schedule) else {
            return ControlFlow::Continue(());
        };
        let started = Instant::now();
        if let Some(settings) = received.settings {
            proxier.reconfigure(settings.config);
            schedule.configured(started, settings.intervals);
            *intervals = settings.intervals;
            cause = Cause::Settings;
        }
        if let Some(changes) = received.changes {
            proxier.enqueue(changes);
            schedule.changed();
            cause = Cause::Changes;
        }
        if received.drift {
            schedule.drifted(started);
        }
        if let Some(action) = schedule.next(started) {
            let cause = match &action {
                Action::Sync => cause,
                Action::Retry(_) => Cause::Retry,
                Action::Drain => Cause::Drain,
                Action::Audit => Cause::Audit,
            };
            let result = carry_out(&action, proxier, started);
            let mut took = started.elapsed();
            if action == Action::Audit {
                audited += took;
                took = audited;
            }
            if !proxier.is_auditing() {
                audited = Duration::ZERO;
            }
            let outcome = outcome(proxier, &action, result.is_err());
            schedule.finished(Instant::now(), &action, outcome);
            if let Some(result) = result.as_ref().map(Option::as_ref).transpose() {
                let round = Round {
                    cause,
                    result,
                    started,
                    took,
                };
                observe(proxier, Observed::Round(round))?;
            }
        }
        if received.inspect {
            observe(proxier, Observed::Inspect)?;
        }
    }
}

fn carry_out<B: DataPlane>(
    action: &Action<Item>,
    proxier: &mut Proxier<B>,
    now: Instant,
) -> Result<Option<SyncReport<B::Plan>>, BackendError> {
    match action {
        Action::Sync => proxier.handle([]),
        Action::Retry(failed) => proxier.retry(failed),
        Action::Drain => proxier.drain(now),
        Action::Audit => proxier.audit(),
    }
}

fn outcome<B: DataPlane>(
    proxier: &mut Proxier<B>,
    action: &Action<Item>,
    is_error: bool,
) -> Outcome<Item> {
    let Attempt { tried, mut failed } = proxier.take_attempt();
    if is_error {
        failed.extend(match action {
            _ if !proxier.is_known() => Some(Failed::Node),
            // The next look is due soon anyway.
            Action::Drain => None,
            _ => Some(Failed::Audit),
        });
    }
    Outcome {
        tried,
        failed,
        is_auditing: proxier.is_auditing(),
        is_draining: proxier.is_draining(),
    }
}

/// Events that were waiting.
#[derive(Default)]
struct Received {
    changes: Option<Vec<Change>>,
    /// The last that came.
    settings: Option<Settings>,
    drift: bool,
    inspect: bool,
}

/// Waits for events until something is due, and takes those that have piled up, so that their
/// changes go out in one sync. `None` is the end.
fn receive(events: &Receiver<Event>, schedule: &Schedule<Item>) -> Option<Received> {
    let now = Instant::now();
    let wait = schedule.deadline(now).saturating_duration_since(now);
    let mut received = Received::default();
    let mut next = match events.recv_timeout(wait) {
        Ok(event) => Some(event),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => return None,
    };
    while let Some(event) = next {
        match event {
            Event::Changes(more) => received.changes.get_or_insert_default().extend(more),
            Event::Settings(settings) => received.settings = Some(settings),
            Event::Drift => received.drift = true,
            Event::Inspect => received.inspect = true,
            Event::Stop => return None,
        }
        next = events.try_recv().ok();
    }
    Some(received)
}
