//! When syncs of changes may run: the rate limit of the settings, and the pause while changes pile
//! up.

use std::time::{Duration, Instant};

use super::Intervals;

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

/// The pause after a sync, which lets changes pile up that the next one applies together.
///
/// A sync has a cost of its own, however many changes it applies. A quiet time allows
/// [`CREDIT`](Self::CREDIT) syncs without a pause. Then the pause doubles with each sync that found
/// more than one reading, and halves with each that found one. So a burst soon costs a sync per
/// [`LONGEST`](Self::LONGEST), and changes that come one by one never wait.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The number of syncs without a pause that are left.
    credit: u32,
    pause: Duration,
    /// When the pause after the last sync ends; `None` before the first one ended.
    ends: Option<Instant>,
    /// The readings that wait, and when the first of them arrived.
    waiting: Option<(usize, Instant)>,
}

impl Pace {
    /// The most syncs without a pause.
    pub(super) const CREDIT: u32 = 10;
    /// The shortest pause, and the quiet time that allows one more sync without.
    pub(super) const SHORTEST: Duration = Duration::from_millis(25);
    /// The longest time that a change waits for others.
    pub(super) const LONGEST: Duration = Duration::from_millis(100);

    /// Readings arrived.
    pub(super) fn arrived(&mut self, now: Instant, readings: usize) {
        let (count, _) = self.waiting.get_or_insert((0, now));
        *count = count.saturating_add(readings);
    }

    /// When the next sync may begin. `None` before the first one ended.
    pub(super) const fn ends(&self) -> Option<Instant> {
        self.ends
    }

    /// A sync of all that waits begins.
    pub(super) fn begin(&mut self) {
        let Some((count, first)) = self.waiting.take() else {
            return;
        };
        let earned = self.ends.map(|ends| {
            let quiet = first.saturating_duration_since(ends);
            u32::try_from(quiet.as_millis() / Self::SHORTEST.as_millis()).unwrap_or(u32::MAX)
        });
        let credit = self.credit.saturating_add(earned.unwrap_or(u32::MAX));
        let credit = credit.min(Self::CREDIT);
        self.credit = credit.saturating_sub(1);
        self.pause = match count {
            _ if credit > 0 => Duration::ZERO,
            0 | 1 => (self.pause / 2).max(Self::SHORTEST),
            _ => (self.pause * 2).clamp(Self::SHORTEST, Self::LONGEST),
        };
    }

    /// The sync ended.
    pub(super) fn end(&mut self, now: Instant) {
        self.ends = Some(now + self.pause);
    }
}
