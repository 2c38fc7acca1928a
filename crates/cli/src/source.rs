//! The source of Services: manifests, or an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use proxier::Runtime;
use proxier::observe::metrics::Monitor;
use proxier::source::kube::{Access, EventQueue, EventSender, KubeSource, Timing, event_queue};
use proxier::source::manifest::{Manifests, Watch};
use proxier::source::{ConnectionState, Extent, Reading};
use proxier::store::Store;

use crate::args::SourceArgs;
use crate::logging::Progress;

/// A source that has not been read yet.
pub(crate) enum Source {
    Manifests(Manifests),
    Kube {
        access: Access,
        node: String,
        extent: Extent,
        /// How long to wait for the initial list; none waits without limit.
        timeout: Option<Duration>,
        /// The Events to post.
        events: EventQueue,
        /// The sender of `events`, until it is taken.
        sender: Option<EventSender>,
    },
}

/// A source that is followed until this is dropped.
pub(crate) enum Following {
    Manifests { _watch: Watch },
    Kube { source: KubeSource },
}

impl Source {
    /// The source for the node with this name.
    pub(crate) fn new(args: &SourceArgs, node: &str) -> Self {
        if !args.manifests.is_empty() {
            return Self::Manifests(Manifests::new(&args.manifests).for_node(node));
        }
        let mut access = Access::default();
        access.kubeconfig.clone_from(&args.kubeconfig);
        access.server.clone_from(&args.master);
        access.encoding = args.kube_api_content_type;
        let (sender, events) = event_queue();
        Self::Kube {
            access,
            node: node.to_owned(),
            extent: Extent::Served,
            timeout: Some(args.timeout).filter(|timeout| !timeout.is_zero()),
            events,
            sender: Some(sender),
        }
    }

    /// Sets the objects to read; at first, those that a proxy serves.
    pub(crate) fn extent(self, new: Extent) -> Self {
        match self {
            Self::Manifests(manifests) => Self::Manifests(manifests.extent(new)),
            Self::Kube {
                access,
                node,
                timeout,
                events,
                sender,
                ..
            } => Self::Kube {
                access,
                node,
                extent: new,
                timeout,
                events,
                sender,
            },
        }
    }

    /// What the source is, for people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Manifests(manifests) => {
                let paths = manifests
                    .paths()
                    .iter()
                    .map(|path| path.display().to_string());
                format!("manifests {}", paths.collect::<Vec<_>>().join(", "))
            }
            Self::Kube { access, .. } => match (&access.server, &access.kubeconfig) {
                (Some(server), _) => format!("API server {server}"),
                (None, Some(file)) => format!("API server of {}", file.display()),
                (None, None) => "API server of this cluster".to_owned(),
            },
        }
    }

    /// The sender of Events, if the source is an API server. The first call returns it, later ones
    /// return none.
    pub(crate) fn events(&mut self) -> Option<EventSender> {
        match self {
            Self::Manifests(_) => None,
            Self::Kube { sender, .. } => sender.take(),
        }
    }

    /// Reads the current state. Waits for an API server for at most `--timeout`.
    pub(crate) fn read(self) -> anyhow::Result<Reading> {
        let what = format!("reading {}", self.name());
        let _progress = Progress::start(move || what.clone());
        match self {
            Self::Manifests(mut manifests) => Ok(manifests.read()),
            Self::Kube { timeout, .. } => {
                let (deliver, readings) = mpsc::channel();
                let runtime = Runtime::start()?;
                let following = self.follow(&runtime, move |reading| {
                    let _ = deliver.send(reading);
                })?;
                let all = read_all(&readings, timeout);
                all.ok_or_else(|| following.not_listed(timeout).into())
            }
        }
    }

    /// Delivers the current state and all changes: of manifests from a separate thread, of an API
    /// server from `runtime`.
    pub(crate) fn follow(
        self,
        runtime: &Runtime,
        deliver: impl FnMut(Reading) + Send + 'static,
    ) -> anyhow::Result<Following> {
        Ok(match self {
            Self::Manifests(manifests) => Following::Manifests {
                _watch: manifests.watch(deliver)?,
            },
            Self::Kube {
                access,
                node,
                extent,
                events,
                ..
            } => {
                let timing = Timing::default();
                let source = KubeSource::start_with_events(
                    runtime, access, timing, &node, extent, events, deliver,
                )?;
                Following::Kube { source }
            }
        })
    }
}

/// Collects readings until every kind has been listed, or the time is up.
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

/// The API server has not sent the whole initial list.
#[derive(Debug, thiserror::Error)]
#[error(
    "initial list incomplete after {waited:?} (--timeout): missing {}",
    kinds(unlisted, failures)
)]
pub(crate) struct NotListed {
    waited: Duration,
    unlisted: BTreeSet<&'static str>,
    /// The last failure of each kind.
    failures: BTreeMap<&'static str, String>,
}

fn kinds(unlisted: &BTreeSet<&str>, failures: &BTreeMap<&'static str, String>) -> String {
    let kinds = unlisted.iter().map(|kind| match failures.get(kind) {
        Some(failure) => format!("{kind} ({failure})"),
        None => (*kind).to_owned(),
    });
    let kinds: Vec<_> = kinds.collect();
    let silent = if failures.is_empty() {
        "; no answer, and no error"
    } else {
        ""
    };
    kinds.join(", ") + silent
}

impl Following {
    /// The error for an incomplete list.
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

    /// Reports the state of the connection in metrics and health, if there is one.
    pub(crate) fn report_to(&self, monitor: &Monitor) {
        if let Self::Kube { source } = self {
            monitor.follow_source(source.watch_state());
        }
    }
}
