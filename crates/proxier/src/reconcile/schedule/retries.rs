//! What failed, and when it is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;

use super::{Intervals, Tried};

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Failed<K> {
    /// The node could not be read, or the kernel's answer was lost: nobody knows what it has, and it
    /// must be read in full before anything else.
    Node,
    /// Something that is no single object's, or that shows that others changed the node: it must be
    /// audited.
    Audit,
    /// An object, whose steps were refused without effect.
    Object(K),
}

/// What is to be tried again. Each entry has a time of its own.
#[derive(Debug)]
pub(super) struct Retries<K> {
    entries: BTreeMap<Failed<K>, Retry>,
    by_time: BTreeSet<(Instant, Failed<K>)>,
    jitter: Jitter,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    due: Instant,
    /// How often it has failed when it was due.
    failures: u32,
}

impl<K: Ord + Clone> Retries<K> {
    /// So many are tried again in one go.
    pub(super) const SLICE: usize = 64;

    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_time: BTreeSet::new(),
            jitter: Jitter { seed, drawn: 0 },
        }
    }

    /// When the first is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(due, _)| *due)
    }

    /// Those that are due, up to a slice of them.
    pub(super) fn due(&self, now: Instant) -> BTreeSet<Failed<K>> {
        let due = self.by_time.iter().take_while(|(due, _)| *due <= now);
        due.take(Self::SLICE)
            .map(|(_, failed)| failed.clone())
            .collect()
    }

    /// When the node is to be read in full, if it must be.
    pub(super) fn node(&self) -> Option<Instant> {
        Some(self.entries.get(&Failed::Node)?.due)
    }

    /// Takes in what was tried, and what of it failed.
    ///
    /// What failed before its time, since it changed or an audit came across it, keeps its time: so
    /// changes neither bring a retry forward nor put it off.
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

/// How long to wait after so many failures: it doubles each time, up to a limit.
pub(super) fn back_off(failures: u32, intervals: Intervals) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    let pause = intervals.first_retry.saturating_mul(doubled);
    pause.min(intervals.last_retry)
}

/// Shortens pauses by up to a quarter, so that nodes that failed together do not come back together.
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
