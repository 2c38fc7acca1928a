//! Limits on how slowly an answer may arrive, and how long it may be. Pure.

use std::time::{Duration, Instant};

use super::backoff::Timing;
use super::error::Failure;

/// Maximum size of a whole list, in bytes. 50,000 EndpointSlices of 10 endpoints are 230 MB of
/// JSON.
const LONGEST_LIST: usize = 1 << 30;
/// Minimum number of bytes of a list per window, unless the list ends.
const LEAST: usize = 64 << 10;

/// The progress of an answer.
///
/// A limit on the time between two pieces is not enough: a server that sends one byte per second
/// could keep a request forever.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    ends: Instant,
    /// The length of a window. Each must bring some data, and for a list [`LEAST`].
    window: Duration,
    window_ends: Instant,
    in_window: usize,
    total: usize,
}

impl Progress {
    /// The progress of a list, with all its pages.
    pub(super) fn of_list(timing: &Timing, now: Instant) -> Self {
        Self::new(timing.answer, timing.list, now)
    }

    /// The progress of an answer that must be complete after this time.
    pub(super) fn within(time: Duration, now: Instant) -> Self {
        Self::new(time, time, now)
    }

    fn new(window: Duration, whole: Duration, now: Instant) -> Self {
        Self {
            begun: now,
            ends: now + whole,
            window,
            window_ends: now + window.min(whole),
            in_window: 0,
            total: 0,
        }
    }

    /// When to [look](Self::look) if nothing has arrived by then.
    pub(super) fn next_look(&self) -> Instant {
        self.window_ends.min(self.ends)
    }

    /// Records that another page begins to arrive. The request for it has a separate time limit.
    ///
    /// # Errors
    ///
    /// [`Failure::Slow`] if the list has taken too long already.
    pub(super) fn next_page(&mut self, now: Instant) -> Result<(), Failure> {
        if now >= self.ends {
            return Err(self.slow(now));
        }
        self.begin_window(now);
        Ok(())
    }

    /// Records that bytes have arrived.
    ///
    /// # Errors
    ///
    /// [`Failure::Slow`] or [`Failure::TooLong`].
    pub(super) fn arrived(&mut self, bytes: usize, now: Instant) -> Result<(), Failure> {
        self.in_window = self.in_window.saturating_add(bytes);
        self.total = self.total.saturating_add(bytes);
        if self.total > LONGEST_LIST {
            return Err(Failure::TooLong("the answer", LONGEST_LIST));
        }
        self.look(now)
    }

    /// Checks that enough has arrived.
    ///
    /// # Errors
    ///
    /// [`Failure::Silent`] if nothing has arrived, else [`Failure::Slow`].
    pub(super) fn look(&mut self, now: Instant) -> Result<(), Failure> {
        if now < self.next_look() {
            Ok(())
        } else if self.in_window == 0 && now >= self.window_ends {
            Err(Failure::Silent(self.window))
        } else if now >= self.ends || self.in_window < LEAST {
            Err(self.slow(now))
        } else {
            self.begin_window(now);
            Ok(())
        }
    }

    fn begin_window(&mut self, now: Instant) {
        self.in_window = 0;
        self.window_ends = now + self.window;
    }

    fn slow(&self, now: Instant) -> Failure {
        Failure::Slow {
            bytes: self.total,
            time: now.saturating_duration_since(self.begun),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timing() -> Timing {
        let mut timing = Timing::default();
        (timing.answer, timing.list) = (60 * SECOND, 600 * SECOND);
        timing
    }

    #[test]
    fn a_byte_a_second_is_too_slow() {
        let begun = Instant::now();
        let mut progress = Progress::of_list(&timing(), begun);
        let failed = (1..).find(|n| progress.arrived(1, begun + SECOND * *n).is_err());
        assert_eq!(failed, Some(60));
    }

    #[test]
    fn a_slow_link_is_not() {
        let begun = Instant::now();
        let mut progress = Progress::of_list(&timing(), begun);
        for n in 1..600 {
            progress.arrived(10 << 10, begun + SECOND * n).unwrap();
        }
        // But no list may take forever.
        let end = progress.arrived(10 << 10, begun + SECOND * 600);
        assert!(matches!(end, Err(Failure::Slow { .. })), "{end:?}");
    }

    #[test]
    fn a_list_without_end_is_cut() {
        let now = Instant::now();
        let mut progress = Progress::of_list(&timing(), now);
        progress.arrived(LONGEST_LIST, now).unwrap();
        let end = progress.arrived(1, now);
        assert!(matches!(end, Err(Failure::TooLong(..))), "{end:?}");
    }

    #[test]
    fn silence_and_slowness_are_told_apart() {
        let begun = Instant::now();
        let mut silent = Progress::within(SECOND, begun);
        let end = silent.look(begun + SECOND);
        assert!(matches!(end, Err(Failure::Silent(_))), "{end:?}");
        let mut slow = Progress::within(SECOND, begun);
        slow.arrived(1 << 20, begun).unwrap();
        let end = slow.look(begun + SECOND);
        assert!(matches!(end, Err(Failure::Slow { .. })), "{end:?}");
    }

    #[test]
    fn the_time_between_two_pages_is_not_counted() {
        let begun = Instant::now();
        let mut progress = Progress::of_list(&timing(), begun);
        progress.arrived(1, begun + SECOND).unwrap();
        progress.next_page(begun + SECOND * 70).unwrap();
        progress.arrived(1, begun + SECOND * 71).unwrap();
    }
}
