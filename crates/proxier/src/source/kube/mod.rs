//! The source of Services in a cluster's API server.
//!
//! Lists and watches Services, EndpointSlices, this node's Node and, if the server has them,
//! ServiceCIDRs. Selectors exclude objects of headless Services and of other service proxies at the
//! server. Each object is converted as it arrives; the source itself keeps only names and versions.
//!
//! - Services and EndpointSlices are requested after the other two have been listed. Together with
//!   the [store](crate::store)'s own rule, nothing is programmed before every kind is listed in full.
//! - While the server is unreachable, the last state stays in effect. A new list is delivered as one
//!   reading: objects that are not in it are removed together with the changes that it brings.
//! - An object with an error is rejected as a whole, and its last good version stays in effect.
//! - Duplicate and reordered events are recognised by their versions. If versions cannot decide,
//!   the kind is listed again.
//! - Failed requests are retried forever. The back-off is bounded, has jitter, and respects
//!   `Retry-After`.
//! - Credentials are read again when their files change and when the server answers 401.
//! - The size and duration of a server's answers are bounded.
//!
//! ```no_run
//! use proxier::source::kube::{Access, KubeSource, Timing};
//!
//! let access = Access::default(); // this pod's service account
//! let source = KubeSource::start(access, Timing::default(), "node-a", |reading| {
//!     println!("{} changes", reading.changes.len());
//! })?;
//! println!("{:?}", source.state());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod backoff;
mod client;
mod connect;
mod error;
mod events;
mod follower;
mod kind;
mod list_watch;
mod progress;
mod split;
mod state;
mod wire;

use std::cell::RefCell;
use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use futures_util::future::{self, Either};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use self::client::Clients;
use self::events::Poster;
use self::kind::{EndpointSlices, Kind, ServiceCidrs, Services, ThisNode};
use self::list_watch::{ListWatch, Shared};
use self::state::States;
use super::Reading;

pub use self::access::{Access, AccessError};
pub use self::backoff::Timing;
pub use self::events::{EventQueue, EventSender, event_queue};
pub use super::ConnectionState;

/// Follows an API server in its own thread until it is dropped.
#[derive(Debug)]
pub struct KubeSource {
    states: States,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Why an API server cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kubeconfig, a credential or the proxy cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The thread or its runtime cannot be started.
    #[error("cannot start the thread that follows the API server")]
    Thread(#[source] io::Error),
}

impl KubeSource {
    /// Follows the API server for the node with this name. Calls `deliver` from the source's
    /// thread, with all changes of a list or an event; the source waits until it returns.
    ///
    /// It can be called inside a tokio runtime, because the source has its own thread and runtime.
    /// `deliver` runs inside that runtime, so it must not block on another one; let it send to a
    /// channel. This reads files before it returns, and waits for nothing else.
    ///
    /// # Errors
    ///
    /// [`StartError`] if the credentials cannot be read. An unreachable server is not an error here;
    /// see [`state`](Self::state).
    pub fn start(
        access: Access,
        timing: Timing,
        node: &str,
        deliver: impl FnMut(Reading) + Send + 'static,
    ) -> Result<Self, StartError> {
        let (_, nothing) = event_queue();
        Self::start_with_events(access, timing, node, nothing, deliver)
    }

    /// As [`start`](Self::start), and posts Events.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start). Events that cannot be posted are logged.
    pub fn start_with_events(
        access: Access,
        timing: Timing,
        node: &str,
        events: EventQueue,
        deliver: impl FnMut(Reading) + Send + 'static,
    ) -> Result<Self, StartError> {
        access.check()?;
        let states = States::new(&[
            Services::NAME,
            EndpointSlices::NAME,
            ThisNode::NAME,
            ServiceCidrs::NAME,
        ]);
        let (stop, stopped) = oneshot::channel();
        let (started, starts) = mpsc::sync_channel(1);
        let (node, told) = (node.to_owned(), states.clone());
        let thread = thread::Builder::new()
            .name("kube".to_owned())
            .spawn(move || {
                // Created on the thread: a runtime can be neither used nor dropped inside another
                // one, and the caller may be in one.
                let runtime = match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error))),
                };
                let _ = started.send(Ok(()));
                let follow = Box::pin(follow(access, timing, &node, events, &told, deliver));
                runtime.block_on(async {
                    if let Either::Left((never, _)) = future::select(follow, stopped).await {
                        match never {}
                    }
                });
                // Does not wait for a hanging DNS lookup.
                runtime.shutdown_background();
            });
        let thread = thread.map_err(StartError::Thread)?;
        let started = starts
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        started.map_err(StartError::Thread)?;
        Ok(Self {
            states,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// State of the connection.
    pub fn state(&self) -> ConnectionState {
        self.states.get()
    }

    /// A function that returns [`state`](Self::state), even after the source is dropped.
    pub fn watch_state(&self) -> impl Fn() -> ConnectionState + Send + Sync + 'static {
        let states = self.states.clone();
        move || states.get()
    }
}

impl Drop for KubeSource {
    /// Waits for the thread, so that nothing is delivered afterwards. The thread ends as soon as
    /// `deliver` returns; an exec plugin that runs is killed with its process group.
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn follow(
    access: Access,
    timing: Timing,
    node: &str,
    events: EventQueue,
    states: &States,
    deliver: impl FnMut(Reading),
) -> std::convert::Infallible {
    let deliver = RefCell::new(deliver);
    let clients = Clients::new(access, timing.plugin, states.clone());
    let shared = Shared {
        clients: &clients,
        timing: &timing,
        states,
        deliver: &|reading| deliver.borrow_mut()(reading),
    };
    let (node_listed, node_is_listed) = oneshot::channel();
    let (cidrs_listed, cidrs_are_listed) = oneshot::channel();
    let about_node = future::join(
        ListWatch::new(ThisNode::new(node), &shared, Some(node_listed)).run(),
        ListWatch::new(ServiceCidrs::default(), &shared, Some(cidrs_listed)).run(),
    );
    let about_services = async {
        // The senders live as long as the watches.
        let _ = future::join(node_is_listed, cidrs_are_listed).await;
        future::join(
            ListWatch::new(Services, &shared, None).run(),
            ListWatch::new(EndpointSlices, &shared, None).run(),
        )
        .await
    };
    let poster = Poster {
        clients: &clients,
        timing: &timing,
        node,
        queue: events,
    };
    let ((never, _), ..) = future::join3(about_node, about_services, poster.run()).await;
    never
}
