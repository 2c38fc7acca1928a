//! A loop around a [`Proxier`]: changes as they come, retries, and an audit now and then.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::Proxier;
use crate::desired::Config;
use crate::mode::BackendError;
use crate::mode::{DataPlane, PlanSteps};
use crate::reconcile::SyncReport;
use crate::store::Change;

/// What the loop is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Changes that belong together.
    Changes(Vec<Change>),
    /// Settings, to be in force from now on.
    Settings(Settings),
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
    /// Whether the node is now in line with all that was known.
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
    /// The last sync failed.
    Retry,
    /// It was time to look whether the node is still as it was left.
    Audit,
    /// Real servers had drained.
    Drain,
}

/// How often the loop acts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Intervals {
    /// Between audits, which find what others changed behind our back.
    pub audit: Duration,
    /// Before the first retry after a failure; it doubles with each further failure.
    pub first_retry: Duration,
    /// The most it grows to.
    pub last_retry: Duration,
    /// Between looks at connections while real servers drain.
    pub drain: Duration,
    /// Between syncs for changes, at least, once `burst` of them went at once; zero for no limit.
    pub min_sync: Duration,
    /// Syncs for changes that go at once, in spite of `min_sync`.
    pub burst: u32,
}

impl Default for Intervals {
    /// An audit a minute, retries after 1 to 30 seconds, a look a second while draining, and no
    /// limit on syncs. The burst is kube-proxy's (`burstSyncs`).
    fn default() -> Self {
        Self {
            audit: Duration::from_secs(60),
            first_retry: Duration::from_secs(1),
            last_retry: Duration::from_secs(30),
            drain: Duration::from_secs(1),
            min_sync: Duration::ZERO,
            burst: 2,
        }
    }
}

/// Follows events until [`Event::Stop`], until their sender is gone, or until `observe` breaks.
///
/// `intervals` are changed by [`Event::Settings`]. `observe` is told of every sync. Between events, retries and audits the loop sleeps.
pub fn run<B: DataPlane>(
    proxier: &mut Proxier<B>,
    events: &Receiver<Event>,
    intervals: &mut Intervals,
    mut observe: impl FnMut(&mut Proxier<B>, Observed<'_, B::Plan>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut retry = None;
    let mut wake = Instant::now() + intervals.audit;
    let mut drain = None;
    let mut audited = Duration::ZERO;
    loop {
        // After a failure the retry looks at everything.
        let drains = retry.is_none() && proxier.is_draining();
        drain = drains.then(|| drain.unwrap_or_else(|| Instant::now() + intervals.drain));
        let until = drain.map_or(wake, |drain| drain.min(wake));
        let Some(received) = receive(events, until) else {
            return ControlFlow::Continue(());
        };
        let Received {
            changes,
            settings,
            inspect,
        } = received;
        let started = Instant::now();
        let is_set_anew = settings.is_some();
        if let Some(settings) = settings {
            proxier.reconfigure(settings.config);
            let waits = retry.is_none() && !proxier.is_auditing();
            if intervals.audit != settings.intervals.audit && waits {
                wake = started + settings.intervals.audit;
            }
            *intervals = settings.intervals;
        }
        let cause = match &changes {
            Some(_) => Cause::Changes,
            None if is_set_anew => Cause::Settings,
            None if inspect => {
                observe(proxier, Observed::Inspect)?;
                continue;
            }
            None if until < wake => Cause::Drain,
            None if retry.is_some() => Cause::Retry,
            None => Cause::Audit,
        };
        let result = match cause {
            Cause::Drain => {
                drain = None;
                proxier.drain(started)
            }
            Cause::Retry | Cause::Audit => proxier.audit(),
            Cause::Changes | Cause::Settings => proxier.handle(changes.unwrap_or_default()),
        };
        let mut took = started.elapsed();
        if matches!(cause, Cause::Audit | Cause::Retry) {
            audited += took;
            took = audited;
        }
        if !proxier.is_auditing() {
            audited = Duration::ZERO;
        }
        let failed = match &result {
            Ok(Some(report)) => !report.is_success(),
            Ok(None) => false,
            Err(_) => true,
        };
        if failed {
            let pause = next_retry(retry, *intervals);
            wake = Instant::now() + pause;
            retry = Some(pause);
        } else {
            // Changes alone put no audit off. The next slice of one is due at once, behind what came
            // meanwhile.
            let is_over = (cause == Cause::Audit) | retry.take().is_some();
            if is_over && !proxier.is_auditing() {
                wake = Instant::now() + intervals.audit;
            }
        }
        if let Some(result) = result.as_ref().map(Option::as_ref).transpose() {
            let round = Round {
                cause,
                result,
                started,
                took,
            };
            observe(proxier, Observed::Round(round))?;
        }
        if inspect {
            observe(proxier, Observed::Inspect)?;
        }
    }
}

/// What came until a moment.
#[derive(Default)]
struct Received {
    changes: Option<Vec<Change>>,
    /// The last that came.
    settings: Option<Settings>,
    inspect: bool,
}

/// Waits for events, and takes all that have piled up, so that their changes go out in one sync.
/// `None` is the end.
fn receive(events: &Receiver<Event>, until: Instant) -> Option<Received> {
    let mut received = Received::default();
    let mut next = match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(event) => Some(event),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => return None,
    };
    while let Some(event) = next {
        match event {
            Event::Changes(more) => received.changes.get_or_insert_default().extend(more),
            Event::Settings(settings) => received.settings = Some(settings),
            Event::Inspect => received.inspect = true,
            Event::Stop => return None,
        }
        next = events.try_recv().ok();
    }
    Some(received)
}

fn next_retry(last: Option<Duration>, intervals: Intervals) -> Duration {
    last.map_or(intervals.first_retry, |last| {
        (last * 2).min(intervals.last_retry)
    })
}
