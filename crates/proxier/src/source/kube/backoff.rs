//! Time limits, and pauses before retries.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Time limits of a source that watches an API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// Pause before the first retry; it doubles with each failure.
    pub first_retry: Duration,
    /// Upper limit of the pause, also if the server requests a longer one.
    pub last_retry: Duration,
    /// Upper limit of the pause while the server cannot be reached, and within
    /// [`forgive`](Self::forgive) after that: it starts up, and rejects requests (403, 429, 502,
    /// 503) until it is ready.
    pub starting: Duration,
    /// Maximum delay of a list after the server has forgotten a version (410), and of a request
    /// after it has come back: it did so for all nodes at once.
    pub relist: Duration,
    /// Time without failures after which the pause starts from the beginning again.
    pub forgive: Duration,
    /// How long a server may take to begin an answer, and to continue it.
    pub answer: Duration,
    /// How long a kubeconfig's exec plugin may take.
    pub plugin: Duration,
    /// How long a list may take, with all its pages.
    pub list: Duration,
    /// How long a watch may be silent if the server sends bookmarks: between this and twice as
    /// long. API servers send one per minute.
    pub silence: Duration,
    /// How long a watch lasts before it is requested again: between this and twice as long, in
    /// whole seconds. A watch that outlives this by [`grace`](Self::grace) counts as dead.
    pub watch: Duration,
    /// How late the end of a watch may be.
    pub grace: Duration,
    /// Time between checks for a kind that the server does not serve.
    pub absent: Duration,
}

impl Default for Timing {
    /// Retries after 0.8 to 30 seconds, reset after two minutes, and watches of 5 to 10 minutes, as
    /// in kube-proxy (client-go); but after at most 4 seconds while the server is away or starts
    /// up. A minute for an answer and for an exec plugin, ten minutes for a list.
    fn default() -> Self {
        Self {
            first_retry: Duration::from_millis(800),
            last_retry: Duration::from_secs(30),
            starting: Duration::from_secs(4),
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
    /// The duration of this watch. It is random, so that nodes do not send requests at the same
    /// time.
    pub(super) fn watch_seconds(&self) -> u32 {
        let least = u32::try_from(self.watch.as_secs())
            .unwrap_or(u32::MAX / 2)
            .max(1);
        let more = f64::from(least) * random();
        // At most `least`.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        least.saturating_add(more as u32)
    }

    /// The delay of this request.
    pub(super) fn relist(&self) -> Duration {
        self.relist.mul_f64(random())
    }

    /// The silence limit of this watch, if the server sends bookmarks.
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

    /// The pause after a failure: a random time between half of the current pause and all of it, so
    /// that nodes do not retry at the same time; and at least what the server requested, within
    /// bounds.
    pub(super) fn pause(
        &mut self,
        timing: &Timing,
        server_starts: bool,
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
        let limit = if server_starts {
            timing.starting
        } else {
            timing.last_retry
        };
        let current = self.next.min(limit);
        let pause = current.mul_f64(0.5 + random() / 2.0);
        self.next = (current * 2).min(limit);
        let asked = asked.unwrap_or_default().min(timing.last_retry);
        pause.max(asked)
    }
}

/// A random number from 0 to 1, good enough to spread the nodes' requests.
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
        starting: Duration::from_secs(4),
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
            let pause = backoff.pause(&TIMING, false, None, now);
            let most = Duration::from_secs(most);
            assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
            now += pause;
        }
        now += TIMING.forgive + Duration::from_secs(1);
        assert!(backoff.pause(&TIMING, false, None, now) <= TIMING.first_retry);
    }

    #[test]
    fn pauses_stay_short_while_the_server_starts() {
        let mut backoff = Backoff::new(&TIMING);
        let mut now = Instant::now();
        for server_starts in [false, false, false, false, true, true, true] {
            let pause = backoff.pause(&TIMING, server_starts, None, now);
            assert!(!server_starts || pause <= TIMING.starting, "{pause:?}");
            now += pause;
        }
    }

    #[test]
    fn a_server_is_heard_within_bounds() {
        let mut backoff = Backoff::new(&TIMING);
        let mut asked = |seconds| {
            backoff.pause(
                &TIMING,
                false,
                Some(Duration::from_secs(seconds)),
                Instant::now(),
            )
        };
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
