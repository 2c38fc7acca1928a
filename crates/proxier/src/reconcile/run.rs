//! The loop around a [`Proxier`]: it executes the actions of the schedule, and waits between them.

#[cfg(test)]
mod tests;

use std::hash::BuildHasher;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;

use crate::Proxier;
use crate::desired::Config;
use crate::mode::NodeError;
use crate::mode::{DataPlane, Item, PlanSteps};
use crate::reconcile::SyncReport;
use crate::reconcile::proxier::Attempt;
use crate::reconcile::schedule::{Action, ActionResult, Failed, Intervals, Schedule};
use crate::store::Change;

/// An input of the loop.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Changes that belong together.
    Changes(Vec<Change>),
    /// New settings.
    Settings(Settings),
    /// Another program changed svcproxy's state on the node: audit soon.
    Drift,
    /// Call the observer with [`Observed::Inspect`].
    Inspect,
    /// End the loop. The data plane stays in effect.
    Stop,
}

/// The settings that can change while the loop runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Settings of the proxier.
    pub config: Arc<Config>,
    /// Intervals of the loop.
    pub intervals: Intervals,
}

impl Settings {
    /// Combines the settings.
    pub const fn new(config: Arc<Config>, intervals: Intervals) -> Self {
        Self { config, intervals }
    }
}

/// An event for the loop's observer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Observed<'a, P> {
    /// A sync was tried.
    Round(Round<'a, P>),
    /// [`Event::Inspect`].
    Inspect,
    /// Time to check what drains beside the data plane ([`Proxier::set_draining_beside`]).
    Drain,
}

/// A sync, successful or not.
#[derive(Debug)]
#[non_exhaustive]
pub struct Round<'a, P> {
    /// Its cause.
    pub cause: Cause,
    /// Its result.
    pub result: Result<&'a SyncReport<P>, &'a NodeError>,
    /// When it began. It includes all changes sent before.
    pub started: Instant,
    /// Its duration; for the last slice of an audit, that of all slices.
    pub took: Duration,
}

impl<P: PlanSteps> Round<'_, P> {
    /// Whether everything it tried is in effect.
    pub fn is_success(&self) -> bool {
        self.result.is_ok_and(SyncReport::is_success)
    }

    /// What failed: the sync as a whole, or single steps of it. The loop tries them again.
    pub fn errors(&self) -> impl Iterator<Item = &NodeError> {
        let failures = self
            .result
            .iter()
            .flat_map(|report| &report.applied.failures);
        let failures = failures.map(|failure| &failure.error);
        self.result.err().into_iter().chain(failures)
    }
}

/// Why the loop syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Changes arrived.
    Changes,
    /// Settings changed.
    Settings,
    /// An earlier failure is retried.
    Retry,
    /// An audit was due.
    Audit,
    /// Draining real servers were checked.
    Drain,
}

/// Processes events until [`Event::Stop`], until all senders are gone, or until `observe` breaks.
///
/// [`Event::Settings`] changes `intervals`. `observe` is called after every sync. The loop sleeps
/// while nothing is due.
///
/// Errors do not end the loop: failed objects are tried again with back-off, and `observe` gets them
/// in [`Round::errors`]. Returns `Break` if `observe` ended the loop, `Continue` otherwise.
pub fn run<B: DataPlane>(
    proxier: &mut Proxier<B>,
    events: &Receiver<Event>,
    intervals: &mut Intervals,
    mut observe: impl FnMut(&mut Proxier<B>, Observed<'_, B::Plan>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut driver = Driver::new(proxier, *intervals, Instant::now());
    while let Some(received) = receive(events, &driver) {
        let turn = driver.turn(proxier, received, Instant::now, &mut observe);
        *intervals = driver.intervals;
        turn?;
    }
    ControlFlow::Continue(())
}

/// The loop without waiting and without a clock of its own: for a program with an event loop, and for
/// simulations. [`run`] waits for events until the [deadline](Self::deadline), and takes a
/// [turn](Self::turn). After a turn that broke off, it is done: make another one.
#[derive(Debug)]
pub struct Driver {
    schedule: Schedule<Item>,
    intervals: Intervals,
    /// Why the next sync happens.
    cause: Cause,
    /// The duration of the audit under way.
    audited: Duration,
}

impl Driver {
    /// A loop that begins now.
    pub fn new<B: DataPlane>(proxier: &Proxier<B>, intervals: Intervals, now: Instant) -> Self {
        let node_name = &proxier.desired().config().node_name;
        let seed = FixedState::default().hash_one(node_name);
        let mut schedule = Schedule::new(now, intervals, seed);
        if proxier.is_draining() {
            schedule.drains(now);
        }
        Self {
            schedule,
            intervals,
            cause: Cause::Changes,
            audited: Duration::ZERO,
        }
    }

    /// When the next turn is due if no event arrives before. It may be in the past.
    pub fn deadline(&self, now: Instant) -> Instant {
        self.schedule.deadline(now)
    }

    /// How long changes pile up before the next turn is worthwhile; `None` if each event is worth a
    /// turn.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        self.schedule.pause(now)
    }

    /// Takes the events since the last turn, and executes at most one action: the one that is due.
    /// `clock` is asked for the time before and after it. [`Event::Stop`] has no effect here.
    ///
    /// Returns `Break` if `observe` did.
    pub fn turn<B: DataPlane>(
        &mut self,
        proxier: &mut Proxier<B>,
        events: impl IntoIterator<Item = Event>,
        clock: impl Fn() -> Instant,
        mut observe: impl FnMut(&mut Proxier<B>, Observed<'_, B::Plan>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let started = clock();
        let received = Received::from_iter(events);
        if let Some(settings) = received.settings {
            proxier.reconfigure(settings.config);
            self.schedule.configured(started, settings.intervals);
            self.intervals = settings.intervals;
            self.cause = Cause::Settings;
        }
        if let Some(changes) = received.changes {
            proxier.enqueue(changes);
            self.schedule.changed(started, received.readings);
            self.cause = Cause::Changes;
        }
        if received.drift {
            self.schedule.drifted(started);
        }
        if let Some(action) = self.schedule.next(started) {
            self.act(proxier, &action, started, clock, &mut observe)?;
        }
        if received.inspect {
            observe(proxier, Observed::Inspect)?;
        }
        ControlFlow::Continue(())
    }

    fn act<B: DataPlane>(
        &mut self,
        proxier: &mut Proxier<B>,
        action: &Action<Item>,
        started: Instant,
        clock: impl Fn() -> Instant,
        mut observe: impl FnMut(&mut Proxier<B>, Observed<'_, B::Plan>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let cause = match action {
            Action::Sync => self.cause,
            Action::Retry(_) => Cause::Retry,
            Action::Drain => Cause::Drain,
            Action::Audit => Cause::Audit,
        };
        let result = carry_out(action, proxier, started);
        let mut took = clock().saturating_duration_since(started);
        if *action == Action::Audit {
            self.audited += took;
            took = self.audited;
        }
        if !proxier.is_auditing() {
            self.audited = Duration::ZERO;
        }
        if *action == Action::Drain && proxier.is_draining_beside() {
            observe(proxier, Observed::Drain)?;
        }
        let outcome = outcome(proxier, action, result.is_err());
        self.schedule.finished(clock(), action, outcome);
        if let Some(result) = result.as_ref().map(Option::as_ref).transpose() {
            let round = Round {
                cause,
                result,
                started,
                took,
            };
            observe(proxier, Observed::Round(round))?;
            if proxier.is_draining() {
                self.schedule.drains(clock());
            }
        }
        ControlFlow::Continue(())
    }
}

fn carry_out<B: DataPlane>(
    action: &Action<Item>,
    proxier: &mut Proxier<B>,
    now: Instant,
) -> Result<Option<SyncReport<B::Plan>>, NodeError> {
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
) -> ActionResult<Item> {
    let Attempt { tried, mut failed } = proxier.take_attempt();
    if is_error {
        failed.extend(match action {
            _ if !proxier.is_known() => Some(Failed::Node),
            // No retry: the next check is due soon anyway.
            Action::Drain => None,
            _ => Some(Failed::Audit),
        });
    }
    ActionResult {
        tried,
        failed,
        is_auditing: proxier.is_auditing(),
        is_draining: proxier.is_draining(),
    }
}

/// The events that were queued.
#[derive(Default)]
struct Received {
    changes: Option<Vec<Change>>,
    /// How many readings they came in.
    readings: usize,
    /// The latest settings.
    settings: Option<Settings>,
    drift: bool,
    inspect: bool,
}

impl FromIterator<Event> for Received {
    fn from_iter<I: IntoIterator<Item = Event>>(events: I) -> Self {
        let mut received = Self::default();
        for event in events {
            match event {
                Event::Changes(more) => {
                    received.changes.get_or_insert_default().extend(more);
                    received.readings += 1;
                }
                Event::Settings(settings) => received.settings = Some(settings),
                Event::Drift => received.drift = true,
                Event::Inspect => received.inspect = true,
                Event::Stop => {}
            }
        }
        received
    }
}

/// Waits for events until something is due, and takes all queued ones, so that one sync applies
/// their changes. While changes pile up, other events wait too, for at most a
/// [pause](Schedule::pause). `None` ends the loop.
fn receive(events: &Receiver<Event>, driver: &Driver) -> Option<Vec<Event>> {
    let now = Instant::now();
    let mut next = if let Some(pause) = driver.pause(now) {
        // Waking up for each change would cost more than the change.
        thread::sleep(pause);
        match events.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => return None,
        }
    } else {
        let wait = driver.deadline(now).saturating_duration_since(now);
        match events.recv_timeout(wait) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    };
    let mut received = Vec::new();
    while let Some(event) = next {
        if matches!(event, Event::Stop) {
            return None;
        }
        received.push(event);
        next = events.try_recv().ok();
    }
    Some(received)
}
