//! Where Services come from: manifests, or an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use proxier::observe::metrics::Monitor;
use proxier::source::kube::{Access, EventQueue, EventSender, KubeSource, Timing, event_queue};
use proxier::source::manifest::{Manifests, Watch};
use proxier::source::{ConnectionState, Reading};
use proxier::store::Store;

use crate::args::SourceArgs;

/// A source that is not asked yet.
pub(crate) enum Source {
    Manifests(Manifests),
    Kube {
        access: Access,
        node: String,
        /// How long what there is is waited for, if not for ever.
        timeout: Option<Duration>,
        /// What is to be posted while it is followed.
        events: EventQueue,
        /// The other end, until it is asked for.
        sender: Option<EventSender>,
    },
}

/// A source that is followed, until it is dropped.
pub(crate) enum Following {
    Manifests { _watch: Watch },
    Kube { source: KubeSource },
}

impl Source {
    /// The source for the node of this name.
    pub(crate) fn new(args: &SourceArgs, node: &str) -> Self {
        if !args.manifests.is_empty() {
            return Self::Manifests(Manifests::new(&args.manifests).for_node(node));
        }
        let mut access = Access::default();
        access.kubeconfig.clone_from(&args.kubeconfig);
        access.server.clone_from(&args.master);
        let (sender, events) = event_queue();
        Self::Kube {
            access,
            node: node.to_owned(),
            timeout: Some(args.timeout).filter(|timeout| !timeout.is_zero()),
            events,
            sender: Some(sender),
        }
    }

    /// Where Events go while it is followed, if it is an API server; the first time it is asked.
    pub(crate) fn events(&mut self) -> Option<EventSender> {
        match self {
            Self::Manifests(_) => None,
            Self::Kube { sender, .. } => sender.take(),
        }
    }

    /// All there is now. An API server that does not answer is waited for, but not longer than was
    /// said.
    pub(crate) fn read(self) -> anyhow::Result<Reading> {
        match self {
            Self::Manifests(mut manifests) => Ok(manifests.read()),
            Self::Kube { timeout, .. } => {
                let (deliver, readings) = mpsc::channel();
                let following = self.follow(move |reading| {
                    let _ = deliver.send(reading);
                })?;
                let all = read_all(&readings, timeout);
                all.ok_or_else(|| following.not_listed(timeout).into())
            }
        }
    }

    /// All there is now and all that changes, from a thread of its own.
    pub(crate) fn follow(
        self,
        deliver: impl FnMut(Reading) + Send + 'static,
    ) -> anyhow::Result<Following> {
        Ok(match self {
            Self::Manifests(manifests) => Following::Manifests {
                _watch: manifests.watch(deliver)?,
            },
            Self::Kube {
                access,
                node,
                events,
                ..
            } => {
                let timing = Timing::default();
                let source = KubeSource::start_with_events(access, timing, &node, events, deliver)?;
                Following::Kube { source }
            }
        })
    }
}

/// What is delivered until every kind has been listed, if that is in time.
fn read_all(readings: &Receiver<Reading>, timeout: Option<Duration>) -> Option<Reading> {
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let (mut all, mut store) = (Reading::default(), Store::default());
    while !store.is_ready() {
        let reading = match until {
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                readings.recv_timeout(left).ok()?
            }
            None => readings.recv().ok()?,
        };
        let changes = reading.changes.iter().cloned();
        changes.for_each(|change| store.apply(change));
        all.changes.extend(reading.changes);
        all.diagnostics.extend(reading.diagnostics);
    }
    Some(all)
}

/// The API server has not told all that there is.
#[derive(Debug, thiserror::Error)]
#[error(
    "the API server has not told all there is within {waited:?} (--timeout); not listed: {}",
    kinds(unlisted, failures)
)]
pub(crate) struct NotListed {
    waited: Duration,
    unlisted: BTreeSet<&'static str>,
    /// What was wrong last, by kind.
    failures: BTreeMap<&'static str, String>,
}

fn kinds(unlisted: &BTreeSet<&str>, failures: &BTreeMap<&'static str, String>) -> String {
    let kinds = unlisted.iter().map(|kind| match failures.get(kind) {
        Some(failure) => format!("{kind} ({failure})"),
        None => (*kind).to_owned(),
    });
    let kinds: Vec<_> = kinds.collect();
    let silent = if failures.is_empty() {
        "; there was no answer, and no error"
    } else {
        ""
    };
    kinds.join(", ") + silent
}

impl Following {
    /// Why not all was listed in time.
    fn not_listed(&self, timeout: Option<Duration>) -> NotListed {
        let state = match self {
            Self::Kube { source } => source.state(),
            Self::Manifests { .. } => ConnectionState::default(),
        };
        NotListed {
            waited: timeout.unwrap_or_default(),
            unlisted: state.unlisted,
            failures: state.failures,
        }
    }

    /// Has what is known of the connection told, if there is one.
    pub(crate) fn tell(&self, monitor: &Monitor) {
        if let Self::Kube { source } = self {
            monitor.follow_source(source.watch_state());
        }
    }
}
