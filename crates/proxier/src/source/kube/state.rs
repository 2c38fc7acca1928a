//! The state of the connection, for metrics and health.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::super::{ConnectionState, RequestOutcome};
use super::error::Failure;
use crate::escaped::Chain;

#[derive(Debug, Default)]
struct Kinds {
    /// Since when each kind is watched; none while it is not.
    since: BTreeMap<&'static str, Option<Instant>>,
    unlisted: BTreeSet<&'static str>,
    last_heard: Option<Instant>,
    failures: BTreeMap<&'static str, String>,
    requests: BTreeMap<RequestOutcome, u64>,
    /// The last request without an answer, and whether none was answered since.
    last_unanswered: Option<Instant>,
    is_away: bool,
}

/// The state that the watches update and others read.
#[derive(Debug, Clone)]
pub(super) struct States(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kinds: Mutex<Kinds>,
    /// Sends when the server answers again.
    is_back: watch::Sender<()>,
}

impl States {
    /// The state before any of these kinds is watched.
    pub(super) fn new(kinds: &[&'static str]) -> Self {
        let kinds = Kinds {
            since: kinds.iter().map(|kind| (*kind, None)).collect(),
            unlisted: kinds.iter().copied().collect(),
            ..Kinds::default()
        };
        Self(Arc::new(Inner {
            kinds: Mutex::new(kinds),
            is_back: watch::Sender::default(),
        }))
    }

    pub(super) fn get(&self) -> ConnectionState {
        self.with(|kinds| ConnectionState {
            connected_since: kinds
                .since
                .values()
                .copied()
                .collect::<Option<Vec<_>>>()
                .and_then(|since| since.into_iter().max()),
            unlisted: kinds.unlisted.clone(),
            last_heard: kinds.last_heard,
            failures: kinds.failures.clone(),
            requests: kinds.requests.clone(),
        })
    }

    /// Whether any kind is watched.
    pub(super) fn any_connected(&self) -> bool {
        self.with(|kinds| kinds.since.values().any(Option::is_some))
    }

    /// Records that a kind is watched, and so was listed.
    pub(super) fn connected(&self, kind: &'static str) {
        self.with(|kinds| {
            kinds.unlisted.remove(kind);
            let since = kinds.since.entry(kind).or_default();
            since.get_or_insert_with(Instant::now);
            kinds.failures.remove(kind);
            kinds.last_heard = Some(Instant::now());
        });
    }

    /// Records that the server does not have a kind.
    pub(super) fn absent(&self, kind: &'static str) {
        self.with(|kinds| {
            kinds.since.remove(kind);
            kinds.unlisted.remove(kind);
            kinds.failures.remove(kind);
        });
    }

    pub(super) fn heard(&self) {
        self.with(|kinds| kinds.last_heard = Some(Instant::now()));
    }

    pub(super) fn failed(&self, kind: &'static str, failure: &Failure) {
        self.with(|kinds| {
            kinds.since.insert(kind, None);
            kinds.failures.insert(kind, Chain(failure).to_string());
        });
    }

    /// Counts a request.
    pub(super) fn asked(&self, outcome: RequestOutcome, is_answered: bool) {
        let was_away = self.with(|kinds| {
            *kinds.requests.entry(outcome).or_default() += 1;
            if !is_answered {
                kinds.last_unanswered = Some(Instant::now());
            }
            mem::replace(&mut kinds.is_away, !is_answered)
        });
        if was_away && is_answered {
            self.0.is_back.send_replace(());
        }
    }

    /// Whether the server left a request without an answer within this time.
    pub(super) fn was_away_within(&self, time: Duration) -> bool {
        self.with(|kinds| {
            kinds
                .last_unanswered
                .is_some_and(|last| last.elapsed() <= time)
        })
    }

    /// Changes when the server answers a request of any kind after one that it did not answer.
    pub(super) fn is_back(&self) -> watch::Receiver<()> {
        self.0.is_back.subscribe()
    }

    fn with<T>(&self, f: impl FnOnce(&mut Kinds) -> T) -> T {
        f(&mut self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
