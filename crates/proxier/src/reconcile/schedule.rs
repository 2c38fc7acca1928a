//! The scheduler of the loop's work, without I/O and without a clock.
//!
//! Events and the current time go in, the next [`Action`] and the next
//! [deadline](Schedule::deadline) come out. ARCHITECTURE.md ("Scheduling of work") lists its
//! invariants; the tests check them.

mod pace;
mod retries;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pace::{Pace, Rate};
use retries::Retries;

pub(crate) use retries::Failed;

/// The next action of the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action<K> {
    /// Apply changes.
    Sync,
    /// Retry what failed.
    Retry(BTreeSet<Failed<K>>),
    /// Check the connections of draining real servers.
    Drain,
    /// Begin an audit, or continue with its next slice.
    Audit,
}

/// The result of an [`Action`].
#[derive(Debug, Clone)]
pub(crate) struct ActionResult<K> {
    /// What the action tried.
    pub(crate) tried: Tried<K>,
    /// What failed.
    pub(crate) failed: BTreeSet<Failed<K>>,
    /// Whether an audit has slices left.
    pub(crate) is_auditing: bool,
    /// Whether real servers drain.
    pub(crate) is_draining: bool,
}

/// What an action tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tried<K> {
    /// Everything: the node was compared in full.
    All,
    /// These objects.
    Objects(BTreeSet<K>),
}

/// A kind of work. The kinds take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Sync,
    Retry,
    Drain,
    Audit,
}

impl Turn {
    const fn next(self) -> Self {
        match self {
            Self::Sync => Self::Retry,
            Self::Retry => Self::Drain,
            Self::Drain => Self::Audit,
            Self::Audit => Self::Sync,
        }
    }

    /// All kinds, this one last.
    fn behind(self) -> [Self; 4] {
        let first = self.next();
        let second = first.next();
        [first, second, second.next(), self]
    }
}

/// The scheduler. `K` identifies an object that can fail separately.
#[derive(Debug)]
pub(crate) struct Schedule<K> {
    intervals: Intervals,
    /// The kind of the last action.
    last: Turn,
    began: Instant,
    /// When the next sync is due, if there is something to sync.
    sync: Option<Pending>,
    rate: Rate,
    pace: Pace,
    retries: Retries<K>,
    /// When the next audit is due.
    audit: Instant,
    /// The time that the slices of the audit under way have taken, without what ran between them.
    auditing: Option<Duration>,
    /// When a change by another program last advanced an audit.
    drift: Option<Instant>,
    /// When the next check of draining real servers is due, if there are any.
    drain: Option<Instant>,
}

/// Something to sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    /// Due as the rate limit and the pause allow.
    Changes,
    /// Due at once: an operator may have changed the settings to end a failure.
    Settings,
}

impl<K: Ord + Clone> Schedule<K> {
    /// A schedule that begins now. The seed spreads the retries of many nodes.
    pub(crate) fn new(now: Instant, intervals: Intervals, seed: u64) -> Self {
        Self {
            intervals,
            last: Turn::Audit,
            began: now,
            sync: None,
            rate: Rate::new(now),
            pace: Pace::default(),
            retries: Retries::new(seed),
            audit: now + intervals.audit,
            auditing: None,
            drift: None,
            drain: None,
        }
    }

    /// Readings of the source arrived, each with changes that belong together.
    pub(crate) fn changed(&mut self, now: Instant, readings: usize) {
        self.pace.arrived(now, readings);
        self.sync.get_or_insert(Pending::Changes);
    }

    /// The settings changed.
    pub(crate) fn configured(&mut self, now: Instant, intervals: Intervals) {
        if self.intervals.audit != intervals.audit {
            self.audit = now + intervals.audit;
        }
        self.intervals = intervals;
        self.sync = Some(Pending::Settings);
    }

    /// Another program changed svcproxy's state on the node: an audit is due at once, but at most
    /// one per [`Intervals::drift`].
    pub(crate) fn drifted(&mut self, now: Instant) {
        let earliest = self.drift.map_or(now, |last| last + self.intervals.drift);
        let due = earliest.max(now);
        if due < self.audit {
            self.audit = due;
            self.drift = Some(due);
        }
    }

    /// Something drains that no action has reported.
    pub(crate) fn drains(&mut self, now: Instant) {
        self.drain.get_or_insert(now + self.intervals.drain);
    }

    /// The action that is due now, if any. Call [`finished`](Self::finished) before the next call.
    ///
    /// The kinds of work take turns, so due work waits for at most one action of each other kind,
    /// however many changes arrive.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Action<K>> {
        let due = |turn: &Turn| self.due(*turn, now).is_some_and(|due| due <= now);
        let turn = self.last.behind().into_iter().find(due)?;
        (self.last, self.began) = (turn, now);
        Some(match turn {
            Turn::Sync => {
                self.sync = None;
                self.rate.spend(now, self.intervals);
                self.pace.begin();
                Action::Sync
            }
            Turn::Retry if self.waits() => Action::Retry(BTreeSet::from([Failed::Node])),
            Turn::Retry => Action::Retry(self.retries.due(now)),
            Turn::Drain => Action::Drain,
            Turn::Audit => {
                if self.auditing.is_none() {
                    self.auditing = Some(Duration::ZERO);
                    // At a steady rate, unless the loop cannot keep up.
                    let next = self.audit + self.intervals.audit;
                    self.audit = if next > now {
                        next
                    } else {
                        now + self.intervals.audit
                    };
                }
                Action::Audit
            }
        })
    }

    /// Records the result of the action that [`next`](Self::next) returned.
    pub(crate) fn finished(&mut self, now: Instant, action: &Action<K>, outcome: ActionResult<K>) {
        self.retries.settle(
            self.began,
            now,
            &outcome.tried,
            outcome.failed,
            self.intervals,
        );
        if *action == Action::Sync {
            self.pace.end(now);
        }
        if *action == Action::Audit {
            let took = now.saturating_duration_since(self.began);
            *self.auditing.get_or_insert_default() += took;
        }
        if outcome.is_auditing {
            self.auditing.get_or_insert_default();
        } else if let Some(took) = self.auditing.take() {
            // Audits take at most half of the time.
            self.audit = self.audit.max(now + took);
        }
        self.drain = match self.drain {
            Some(due) if outcome.is_draining && *action != Action::Drain => Some(due),
            _ => outcome.is_draining.then(|| now + self.intervals.drain),
        };
    }

    /// When [`next`](Self::next) will return an action if no event arrives before.
    pub(crate) fn deadline(&self, now: Instant) -> Instant {
        let turns = Turn::Audit.behind();
        let due = turns.into_iter().filter_map(|turn| self.due(turn, now));
        due.min().unwrap_or(self.audit)
    }

    /// How long the loop may sleep without looking at new changes, because they pile up until the
    /// pause ends and nothing else is due before. `None` if it must look at each.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        let ends = self.pace.ends().filter(|_| self.sync.is_some())?;
        let until = ends.min(self.deadline(now));
        Some(until.saturating_duration_since(now)).filter(|pause| !pause.is_zero())
    }

    /// Whether syncs and audits must wait because reading the node failed. Only the retry reads it
    /// again.
    fn waits(&self) -> bool {
        self.retries.node().is_some()
    }

    fn due(&self, turn: Turn, now: Instant) -> Option<Instant> {
        match turn {
            Turn::Sync => match self.sync? {
                Pending::Settings => Some(now),
                Pending::Changes if self.waits() => None,
                Pending::Changes => {
                    let allowed = self.rate.allows(self.intervals);
                    Some(self.pace.ends().map_or(allowed, |ends| ends.max(allowed)))
                }
            },
            Turn::Retry if self.waits() => self.retries.node(),
            Turn::Retry => self.retries.next(),
            Turn::Drain => self.drain,
            Turn::Audit if self.waits() => None,
            Turn::Audit if self.auditing.is_some() => Some(now),
            Turn::Audit => Some(self.audit),
        }
    }
}

/// The intervals of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Intervals {
    /// Time between the beginnings of two audits.
    pub audit: Duration,
    /// Shortest time between two audits that changes by other programs advance.
    pub drift: Duration,
    /// Longest time before the first retry. It doubles with each failure.
    pub first_retry: Duration,
    /// Upper limit of the retry time.
    pub last_retry: Duration,
    /// Time between two checks of draining real servers.
    pub drain: Duration,
    /// Average time between syncs of changes; zero means no limit. Changes that arrive in the
    /// meantime are applied together. Whatever it is, syncs pause for up to 100 ms while changes
    /// pile up.
    pub min_sync: Duration,
    /// Number of syncs without that pause after a quiet time.
    pub burst: u32,
}

impl Default for Intervals {
    /// An audit per minute, retries after 1 to 30 seconds, a drain check per second, and no limit
    /// of syncs. The burst is kube-proxy's (`burstSyncs`).
    fn default() -> Self {
        Self {
            audit: Duration::from_secs(60),
            drift: Duration::from_secs(1),
            first_retry: Duration::from_secs(1),
            last_retry: Duration::from_secs(30),
            drain: Duration::from_secs(1),
            min_sync: Duration::ZERO,
            burst: 2,
        }
    }
}
