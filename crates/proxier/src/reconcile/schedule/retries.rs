//! Failures, and when they are retried.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;

use super::{Intervals, Tried};

/// A failure to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Failed<K> {
    /// The node could not be read, or the kernel's answer was lost. The state of the node is
    /// unknown, so the whole node must be read before anything else.
    Node,
    /// A failure that belongs to no single object, or that shows drift. It needs an audit.
    Audit,
    /// An object whose steps the kernel rejected without effect.
    Object(K),
}

/// The failures to retry. Each has its own time.
#[derive(Debug)]
pub(super) struct Retries<K> {
    entries: BTreeMap<Failed<K>, Retry>,
    by_time: BTreeSet<(Instant, Failed<K>)>,
    jitter: Jitter,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    due: Instant,
    /// The number of failed retries.
    failures: u32,
}

impl<K: Ord + Clone> Retries<K> {
    /// Maximum number of failures in one retry.
    pub(super) const SLICE: usize = 64;

    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_time: BTreeSet::new(),
            jitter: Jitter { seed, drawn: 0 },
        }
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(due, _)| *due)
    }

    /// The failures that are due, at most one slice.
    pub(super) fn due(&self, now: Instant) -> BTreeSet<Failed<K>> {
        let due = self.by_time.iter().take_while(|(due, _)| *due <= now);
        due.take(Self::SLICE)
            .map(|(_, failed)| failed.clone())
            .collect()
    }

    /// When the whole node must be read, if it must be.
    pub(super) fn node(&self) -> Option<Instant> {
        Some(self.entries.get(&Failed::Node)?.due)
    }

    /// Records what was tried, and what failed.
    ///
    /// An entry that failed before it was due (because it changed, or in an audit) keeps its time.
    /// So changes neither advance nor delay a retry.
    pub(super) fn settle(
        &mut self,
        began: Instant,
        now: Instant,
        tried: &Tried<K>,
        failed: BTreeSet<Failed<K>>,
        intervals: Intervals,
    ) {
        match tried {
            Tried::All => {
                self.entries.retain(|entry, _| failed.contains(entry));
                self.by_time.retain(|(_, entry)| failed.contains(entry));
            }
            Tried::Objects(objects) if !self.entries.is_empty() => {
                let tried = objects.iter().map(|object| Failed::Object(object.clone()));
                for entry in tried.filter(|entry| !failed.contains(entry)) {
                    if let Some(retry) = self.entries.remove(&entry) {
                        self.by_time.remove(&(retry.due, entry));
                    }
                }
            }
            Tried::Objects(_) => {}
        }
        for entry in failed {
            let before = self.entries.get(&entry).copied();
            if before.is_some_and(|retry| retry.due > began) {
                continue;
            }
            let failures = before.map_or(1, |retry| retry.failures.saturating_add(1));
            let due = now + self.jitter.apply(back_off(failures, intervals));
            if let Some(retry) = before {
                self.by_time.remove(&(retry.due, entry.clone()));
            }
            self.by_time.insert((due, entry.clone()));
            self.entries.insert(entry, Retry { due, failures });
        }
    }
}

/// The pause after this number of failures. It doubles each time, up to a limit.
pub(super) fn back_off(failures: u32, intervals: Intervals) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    let pause = intervals.first_retry.saturating_mul(doubled);
    pause.min(intervals.last_retry)
}

/// Shortens pauses by up to a quarter, so that nodes that failed together do not retry together.
#[derive(Debug)]
struct Jitter {
    seed: u64,
    drawn: u64,
}

impl Jitter {
    fn apply(&mut self, pause: Duration) -> Duration {
        self.drawn = self.drawn.wrapping_add(1);
        let random = FixedState::with_seed(self.seed).hash_one(self.drawn);
        let thousandths = u32::try_from(random % 251).unwrap_or(0);
        pause - pause / 1000 * thousandths
    }
}
