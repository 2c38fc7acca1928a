//! How often the loop acts.

use std::time::{Duration, Instant};

/// How often the loop acts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Intervals {
    /// Between the beginnings of audits, which find what others changed on the node.
    pub audit: Duration,
    /// The least between two audits that others' changes bring forward.
    pub drift: Duration,
    /// The most before the first retry after a failure; it doubles with each further failure.
    pub first_retry: Duration,
    /// The most it grows to.
    pub last_retry: Duration,
    /// Between looks at connections while real servers drain.
    pub drain: Duration,
    /// Between syncs of changes, on average; zero for no limit. Changes that come meanwhile go out
    /// together.
    pub min_sync: Duration,
    /// So many syncs may follow one another without that pause after a quiet time.
    pub burst: u32,
}

impl Default for Intervals {
    /// An audit a minute, retries after 1 to 30 seconds, a look a second while draining, and no limit
    /// on syncs. The burst is kube-proxy's (`burstSyncs`).
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

/// How many syncs may go out: at most one an interval on average, and a burst after a quiet time
/// (the generic cell rate algorithm).
#[derive(Debug)]
pub(super) struct Rate {
    /// When the syncs that went out would be over at the average rate.
    paid: Instant,
}

impl Rate {
    pub(super) const fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    /// When the next may go out.
    pub(super) fn allows(&self, intervals: Intervals) -> Instant {
        let more = intervals.burst.saturating_sub(1);
        let credit = intervals.min_sync.saturating_mul(more);
        self.paid.checked_sub(credit).unwrap_or(self.paid)
    }

    /// One goes out. One that the rate did not allow puts the next off by no more than an interval.
    pub(super) fn spend(&mut self, now: Instant, intervals: Intervals) {
        let burst = intervals.min_sync.saturating_mul(intervals.burst.max(1));
        let paid = self.paid.max(now) + intervals.min_sync;
        self.paid = paid.min(now + burst);
    }
}
