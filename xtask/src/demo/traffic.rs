//! Requests and their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{panic, thread};

use testbed::{Namespace, Protocol, ask};

/// The number of answers from each backend, and the failures.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) answers: BTreeMap<String, usize>,
    pub(super) failures: Vec<String>,
}

impl Tally {
    /// Makes one request and counts it.
    pub(super) fn ask(&mut self, from: &Namespace, protocol: Protocol, to: SocketAddr) {
        match ask(from, protocol, to) {
            Ok(answer) => *self.answers.entry(answer.backend).or_default() += 1,
            Err(error) => self.failures.push(format!("{to}: {error}")),
        }
    }

    pub(super) fn requests(&self) -> usize {
        self.answers.values().sum::<usize>() + self.failures.len()
    }

    pub(super) fn add(&mut self, other: Self) {
        for (backend, answers) in other.answers {
            *self.answers.entry(backend).or_default() += answers;
        }
        self.failures.extend(other.failures);
    }

    /// Counts answers from backends other than `backends` as failures.
    pub(super) fn expect(&mut self, backends: &BTreeSet<String>) {
        let others = self
            .answers
            .keys()
            .filter(|backend| !backends.contains(*backend));
        self.failures
            .extend(others.map(|backend| format!("{backend} should not have answered")));
    }

    /// The number of answers of each backend, on one line.
    pub(super) fn line(&self) -> String {
        let answers = self
            .answers
            .iter()
            .map(|(backend, count)| format!("{backend} ×{count}"));
        let failures = self
            .failures
            .iter()
            .map(|failure| format!("FAILED {failure}"));
        answers.chain(failures).collect::<Vec<_>>().join("  ")
    }
}

/// HTTP requests without pauses, while something else happens.
#[derive(Default)]
pub(super) struct Traffic {
    stopped: AtomicBool,
    window: Mutex<Tally>,
}

impl Traffic {
    /// Sends requests from `from` to `to` while `story` runs. Returns all answers.
    pub(super) fn during<T>(
        from: &Namespace,
        to: SocketAddr,
        story: impl FnOnce(&Self) -> T,
    ) -> (T, Tally) {
        let traffic = Self::default();
        thread::scope(|scope| {
            let all = scope.spawn(|| traffic.send(from, to));
            let outcome = {
                // Also if the story ends with a panic.
                let _stop = Stop(&traffic.stopped);
                story(&traffic)
            };
            let all = all
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload));
            (outcome, all)
        })
    }

    fn send(&self, from: &Namespace, to: SocketAddr) -> Tally {
        let mut all = Tally::default();
        while !self.stopped.load(Ordering::Relaxed) {
            let mut one = Tally::default();
            one.ask(from, Protocol::Http, to);
            self.lock().add(one.clone());
            all.add(one);
            thread::sleep(Duration::from_millis(10));
        }
        all
    }

    /// The results of the next `requests` requests; fewer if one fails.
    pub(super) fn next(&self, requests: usize) -> Tally {
        *self.lock() = Tally::default();
        loop {
            thread::sleep(Duration::from_millis(20));
            let mut window = self.lock();
            if window.requests() >= requests || !window.failures.is_empty() {
                return std::mem::take(&mut *window);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
