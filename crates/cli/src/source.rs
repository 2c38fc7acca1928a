//! Where Services come from: manifests, or an API server.

use std::sync::mpsc;

use anyhow::Context;
use proxier::metrics::Monitor;
use proxier::source::Reading;
use proxier::source::kube::{Access, EventQueue, EventSender, KubeSource, Timing, event_queue};
use proxier::source::manifest::{Manifests, Watch};
use proxier::store::Store;

use crate::args::SourceArgs;

/// A source that is not asked yet.
pub(crate) enum Source {
    Manifests(Manifests),
    Kube {
        access: Access,
        node: String,
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

    /// All there is now. An API server that does not answer is waited for.
    pub(crate) fn read(self) -> anyhow::Result<Reading> {
        match self {
            Self::Manifests(mut manifests) => Ok(manifests.read()),
            Self::Kube { .. } => {
                let (deliver, readings) = mpsc::channel();
                let _following = self.follow(move |reading| {
                    let _ = deliver.send(reading);
                })?;
                let (mut all, mut store) = (Reading::default(), Store::default());
                while !store.is_ready() {
                    let reading = readings.recv().context("the API server is not followed")?;
                    let changes = reading.changes.iter().cloned();
                    changes.for_each(|change| store.apply(change));
                    all.changes.extend(reading.changes);
                    all.diagnostics.extend(reading.diagnostics);
                }
                Ok(all)
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

impl Following {
    /// Has what is known of the connection told, if there is one.
    pub(crate) fn tell(&self, monitor: &Monitor) {
        if let Self::Kube { source } = self {
            monitor.follow_source(source.watch_state());
        }
    }
}
