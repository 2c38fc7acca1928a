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
//! use proxier::Runtime;
//! use proxier::source::kube::{Access, KubeSource, Timing};
//!
//! let access = Access::default(); // this pod's service account
//! let runtime = Runtime::start()?; // shared with HTTP servers
//! let source = KubeSource::start(&runtime, access, Timing::default(), "node-a", |reading| {
//!     println!("{} changes", reading.changes.len());
//! })?;
//! println!("{:?}", source.state());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod backoff;
mod client;
mod config_map;
mod connect;
mod encoding;
mod error;
mod events;
mod follower;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod kind;
mod list_watch;
mod message;
#[cfg(feature = "testing")]
pub mod offline;
mod progress;
mod split;
mod state;
mod wire;

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};

use futures_util::future::{self, Either};
use tokio::sync::oneshot;

use self::client::ApiClients;
use self::events::Poster;
use self::kind::{EndpointSlices, Kind, ServiceCidrs, Services, ThisNode};
use self::list_watch::{ListWatch, Shared};
use self::state::States;
use super::{Extent, Reading};
use crate::Runtime;

pub use self::access::{Access, AccessError};
pub use self::backoff::Timing;
pub use self::config_map::{ConfigMapError, config_map};
pub use self::encoding::Encoding;
pub use self::events::{EventQueue, EventSender, event_queue};
pub use super::ConnectionState;

/// Follows an API server until it is dropped.
///
/// Dropping it waits for a task of the [`Runtime`], so drop it outside of that runtime's own tasks.
#[derive(Debug)]
pub struct KubeSource {
    states: States,
    stop: Option<oneshot::Sender<()>>,
    /// Disconnected when the task is gone.
    ended: Receiver<Infallible>,
    _runtime: Runtime,
}

/// Why an API server cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kubeconfig, a credential or the proxy cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The runtime has stopped.
    #[error("cannot follow the API server")]
    Runtime(#[source] io::Error),
}

impl KubeSource {
    /// Follows the API server for the node with this name. Calls `deliver` on a thread of `runtime`,
    /// with all changes of a list or an event; the source waits until it returns. `deliver` must not
    /// block; let it send to a channel.
    ///
    /// This reads files before it returns, and waits for nothing else.
    ///
    /// # Errors
    ///
    /// [`StartError`] if the credentials cannot be read. An unreachable server is not an error here;
    /// see [`state`](Self::state).
    pub fn start(
        runtime: &Runtime,
        access: Access,
        timing: Timing,
        node: &str,
        deliver: impl FnMut(Reading) + Send + 'static,
    ) -> Result<Self, StartError> {
        let (_, nothing) = event_queue();
        let extent = Extent::Served;
        Self::start_with_events(runtime, access, timing, node, extent, nothing, deliver)
    }

    /// As [`start`](Self::start), for the objects of an extent, and posts Events.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start). Events that cannot be posted are logged.
    pub fn start_with_events(
        runtime: &Runtime,
        access: Access,
        timing: Timing,
        node: &str,
        extent: Extent,
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
        let (running, ended) = mpsc::channel();
        let (node, shared_states) = (node.to_owned(), states.clone());
        let task = async move {
            // Dropped last, when nothing can be delivered any more.
            let _running = running;
            let follow = Box::pin(follow(
                access,
                timing,
                &node,
                extent,
                events,
                &shared_states,
                deliver,
            ));
            if let Either::Left((never, _)) = future::select(follow, stopped).await {
                match never {}
            }
        };
        let handle = runtime.handle().map_err(StartError::Runtime)?;
        drop(handle.spawn(task));
        Ok(Self {
            states,
            stop: Some(stop),
            ended,
            _runtime: runtime.clone(),
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
    /// Waits for the task, so that nothing is delivered afterwards. The task ends as soon as
    /// `deliver` returns; an exec plugin that runs is killed with its process group.
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        // Nothing is ever sent: this returns when the task is gone.
        let _ = self.ended.recv();
    }
}

async fn follow(
    access: Access,
    timing: Timing,
    node: &str,
    extent: Extent,
    events: EventQueue,
    states: &States,
    deliver: impl FnMut(Reading) + Send,
) -> Infallible {
    let deliver = Mutex::new(deliver);
    let clients = ApiClients::new(access, timing.plugin, states.clone());
    let shared = Shared {
        clients: &clients,
        timing: &timing,
        states,
        deliver: &|reading| {
            let mut deliver = deliver.lock().unwrap_or_else(PoisonError::into_inner);
            deliver(reading);
        },
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
            ListWatch::new(Services(extent), &shared, None).run(),
            ListWatch::new(EndpointSlices(extent), &shared, None).run(),
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
