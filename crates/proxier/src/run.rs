//! A loop around a [`Proxier`]: changes as they come, retries, and an audit now and then.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::Proxier;
use crate::backend::BackendError;
use crate::data_plane::DataPlane;
use crate::proxier::SyncReport;
use crate::store::Change;

/// What the loop is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Changes that belong together.
    Changes(Vec<Change>),
    /// End the loop. The data plane stays as it is.
    Stop,
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
}

impl Default for Intervals {
    /// An audit a minute, retries after 1 to 30 seconds, a look a second while draining.
    fn default() -> Self {
        Self {
            audit: Duration::from_secs(60),
            first_retry: Duration::from_secs(1),
            last_retry: Duration::from_secs(30),
            drain: Duration::from_secs(1),
        }
    }
}

/// Follows events until [`Event::Stop`] or until their sender is gone.
///
/// `observe` is told of every sync. Between events, retries and audits the loop sleeps.
pub fn run<B: DataPlane>(
    proxier: &mut Proxier<B>,
    events: &Receiver<Event>,
    intervals: Intervals,
    mut observe: impl FnMut(&Proxier<B>, Result<&SyncReport<B::Plan>, &BackendError>),
) {
    let mut retry = None;
    let mut wake = Instant::now() + intervals.audit;
    let mut drain = None;
    loop {
        let mut due = false;
        // After a failure the retry looks at everything.
        let drains = retry.is_none() && proxier.is_draining();
        drain = drains.then(|| drain.unwrap_or_else(|| Instant::now() + intervals.drain));
        let until = drain.map_or(wake, |drain| drain.min(wake));
        let result = match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::Changes(mut changes)) => {
                // What has piled up meanwhile goes out in the same sync.
                for event in events.try_iter() {
                    match event {
                        Event::Changes(more) => changes.extend(more),
                        Event::Stop => return,
                    }
                }
                proxier.handle(changes)
            }
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) if until < wake => {
                drain = None;
                proxier.drain(Instant::now())
            }
            Err(RecvTimeoutError::Timeout) => {
                due = true;
                proxier.audit()
            }
        };
        let failed = match &result {
            Ok(Some(report)) => !report.is_success(),
            Ok(None) => false,
            Err(_) => true,
        };
        if failed {
            let pause = next_retry(retry, intervals);
            wake = Instant::now() + pause;
            retry = Some(pause);
        } else if due || retry.take().is_some() {
            // Changes alone put no audit off.
            wake = Instant::now() + intervals.audit;
            retry = None;
        }
        match &result {
            Ok(Some(report)) => observe(proxier, Ok(report)),
            Ok(None) => {}
            Err(error) => observe(proxier, Err(error)),
        }
    }
}

fn next_retry(last: Option<Duration>, intervals: Intervals) -> Duration {
    last.map_or(intervals.first_retry, |last| {
        (last * 2).min(intervals.last_retry)
    })
}
