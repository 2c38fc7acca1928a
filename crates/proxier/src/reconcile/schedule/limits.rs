//! Intervals and the rate limit of the loop.

use std::time::{Duration, Instant};

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
    /// meantime are applied together.
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

/// The rate limit of syncs: at most one per interval on average, and a burst after a quiet time
/// (generic cell rate algorithm).
#[derive(Debug)]
pub(super) struct Rate {
    /// The theoretical arrival time: when the syncs so far would have ended at the average rate.
    paid: Instant,
}

impl Rate {
    pub(super) const fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    /// When the next sync is allowed.
    pub(super) fn allows(&self, intervals: Intervals) -> Instant {
        let more = intervals.burst.saturating_sub(1);
        let credit = intervals.min_sync.saturating_mul(more);
        self.paid.checked_sub(credit).unwrap_or(self.paid)
    }

    /// Records a sync. A sync beyond the rate delays the next one by at most an interval.
    pub(super) fn spend(&mut self, now: Instant, intervals: Intervals) {
        let burst = intervals.min_sync.saturating_mul(intervals.burst.max(1));
        let paid = self.paid.max(now) + intervals.min_sync;
        self.paid = paid.min(now + burst);
    }
}
