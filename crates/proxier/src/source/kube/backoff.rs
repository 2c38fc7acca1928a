//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Times of a source that watches an API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// Before the first attempt after a failure; it doubles with each further failure.
    pub first_retry: Duration,
    /// The most it grows to, and the most that a server can ask for.
    pub last_retry: Duration,
    /// How long a list waits at most that the server asks for, since it has forgotten a version: it
    /// has done so for a whole fleet.
    pub relist: Duration,
    /// How long all must be well for the next failure to be a first one again.
    pub forgive: Duration,
    /// How long a server may take to answer, and to go on with an answer.
    pub answer: Duration,
    /// How long a kubeconfig's exec plugin may take.
    pub plugin: Duration,
    /// How long a list may take, with all its pages.
    pub list: Duration,
    /// How long a watch may be silent if the server sends bookmarks: at least this, at most twice.
    /// API servers send one a minute.
    pub silence: Duration,
    /// How long a watch lasts before it is asked for again: at least this, at most twice, in whole
    /// seconds. What is later by [`grace`](Self::grace) is taken for dead.
    pub watch: Duration,
    /// How late the end of a watch may be.
    pub grace: Duration,
    /// Between looks for a kind that the server does not serve.
    pub absent: Duration,
}

impl Default for Timing {
    /// Retries after 0.8 to 30 seconds, forgotten after two minutes, and watches of 5 to 10 minutes
    /// as kube-proxy's (client-go); a minute for an answer and for an
    /// exec plugin, ten for a list.
    fn default() -> Self {
        Self {
            first_retry: Duration::from_millis(800),
            last_retry: Duration::from_secs(30),
            relist: Duration::from_secs(3),
            forgive: Duration::from_secs(120),
            answer: Duration::from_secs(60),
            plugin: Duration::from_secs(60),
            list: Duration::from_secs(600),
            silence: Duration::from_secs(120),
            watch: Duration::from_secs(300),
            grace: Duration::from_secs(10),
            absent: Duration::from_secs(600),
        }
    }
}

impl Timing {
    /// How long this watch is to last. They differ, so that a fleet does not ask at once.
    pub(super) fn watch_seconds(&self) -> u32 {
        let least = u32::try_from(self.watch.as_secs())
            .unwrap_or(u32::MAX / 2)
            .max(1);
        let more = f64::from(least) * random();
        // At most `least`.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        least.saturating_add(more as u32)
    }

    /// How long this list waits.
    pub(super) fn relist(&self) -> Duration {
        self.relist.mul_f64(random())
    }

    /// How long this watch may be silent if the server sends bookmarks.
    pub(super) fn silence(&self) -> Duration {
        self.silence.mul_f64(1.0 + random())
    }
}

/// Pauses that grow with each failure.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    last_failure: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(timing: &Timing) -> Self {
        Self {
            next: timing.first_retry,
            last_failure: None,
        }
    }

    /// The pause after a failure: between half of what it has grown to and the whole, so that a
    /// fleet does not ask at once; and what the server asked for, within bounds.
    pub(super) fn pause(
        &mut self,
        timing: &Timing,
        asked: Option<Duration>,
        now: Instant,
    ) -> Duration {
        let forgiven = self.last_failure.is_none_or(|last| {
            now.saturating_duration_since(last) > timing.forgive.max(self.next * 2)
        });
        if forgiven {
            self.next = timing.first_retry;
        }
        self.last_failure = Some(now);
        let pause = self.next.mul_f64(0.5 + random() / 2.0);
        self.next = (self.next * 2).min(timing.last_retry);
        let asked = asked.unwrap_or_default().min(timing.last_retry);
        pause.max(asked)
    }
}

/// From 0 to 1. Enough to spread a fleet.
fn random() -> f64 {
    let bits = RandomState::new().hash_one(0u8);
    #[expect(clippy::cast_precision_loss)]
    let (part, whole) = (bits as f64, u64::MAX as f64);
    part / whole
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        first_retry: Duration::from_secs(1),
        last_retry: Duration::from_secs(30),
        relist: Duration::from_secs(3),
        forgive: Duration::from_secs(120),
        answer: Duration::from_secs(60),
        plugin: Duration::from_secs(60),
        list: Duration::from_secs(600),
        silence: Duration::from_secs(120),
        watch: Duration::from_secs(300),
        grace: Duration::from_secs(10),
        absent: Duration::from_secs(600),
    };

    #[test]
    fn pauses_grow_to_a_bound_and_are_forgiven() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new(&TIMING);
        for most in [1, 2, 4, 8, 16, 30, 30] {
            let pause = backoff.pause(&TIMING, None, now);
            let most = Duration::from_secs(most);
            assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
            now += pause;
        }
        now += TIMING.forgive + Duration::from_secs(1);
        assert!(backoff.pause(&TIMING, None, now) <= TIMING.first_retry);
    }

    #[test]
    fn a_server_is_heard_within_bounds() {
        let mut backoff = Backoff::new(&TIMING);
        let mut asked =
            |seconds| backoff.pause(&TIMING, Some(Duration::from_secs(seconds)), Instant::now());
        assert_eq!(asked(20), Duration::from_secs(20));
        assert_eq!(asked(86_400), TIMING.last_retry);
    }

    #[test]
    fn watches_differ() {
        let lengths: Vec<_> = (0..64).map(|_| TIMING.watch_seconds()).collect();
        assert!(lengths.iter().all(|seconds| (300..=600).contains(seconds)));
        assert!(lengths.iter().any(|seconds| *seconds != lengths[0]));
    }
}
