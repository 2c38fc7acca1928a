//! Services from a cluster's API server.
//!
//! Services, EndpointSlices, this node's Node and, where they are served, ServiceCIDRs are listed
//! and watched. What belongs to headless Services and to other service proxies is left out at the
//! server. Each object is converted as it comes, and only what a service proxy needs of it is kept,
//! by the store: the source knows names and versions alone.
//!
//! - Services and EndpointSlices are asked for when the other two have been listed; with the
//!   [store](crate::store)'s own rule, nothing is programmed before every kind has been listed in
//!   full.
//! - While the server is gone, what is in force stays so. A list that must be made again is
//!   delivered as one reading: what is not in it is gone, at once with all that is new.
//! - An object with an error is refused whole, and its last good version stays in force.
//! - Events that come twice or out of order are told by their versions; where these cannot tell, the
//!   kind is listed again.
//! - Attempts are made again for ever, after pauses that grow to a bound, differ by chance, and heed
//!   `Retry-After`.
//! - Credentials are read again when their files change, and when the server refuses them.
//!
//! ```no_run
//! use proxier::source::kube::{Access, KubeSource, Timing};
//!
//! let access = Access::default(); // of the pod we run in
//! let source = KubeSource::start(access, Timing::default(), "node-a", |reading| {
//!     println!("{} changes", reading.changes.len());
//! })?;
//! println!("{:?}", source.state());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod backoff;
mod client;
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

pub use self::backoff::Timing;
pub use self::client::Access;
pub use self::error::AccessError;
pub use self::events::{EventQueue, EventSender, event_queue};
pub use super::ConnectionState;

/// Follows an API server from a thread of its own, until it is dropped.
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
    /// There is no way to ask it.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No thread, or nothing to wait for events with.
    #[error("no thread to follow the API server with")]
    Thread(#[source] io::Error),
}

impl KubeSource {
    /// Follows the API server for the node of this name. `deliver` is called from the source's
    /// thread, with all that a list or an event changes; it holds the source up while it runs.
    ///
    /// # Errors
    ///
    /// [`StartError`] if the credentials cannot be read. A server that does not answer is no error:
    /// [`state`](Self::state) tells.
    pub fn start(
        access: Access,
        timing: Timing,
        node: &str,
        deliver: impl FnMut(Reading) + Send + 'static,
    ) -> Result<Self, StartError> {
        let (_, nothing) = event_queue();
        Self::start_with_events(access, timing, node, nothing, deliver)
    }

    /// The same, and posts Events.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start). Events that cannot be posted are no error but logged.
    pub fn start_with_events(
        access: Access,
        timing: Timing,
        node: &str,
        events: EventQueue,
        deliver: impl FnMut(Reading) + Send + 'static,
    ) -> Result<Self, StartError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Thread)?;
        runtime.block_on(access.check())?;
        let states = States::new(&[
            Services::NAME,
            EndpointSlices::NAME,
            ThisNode::NAME,
            ServiceCidrs::NAME,
        ]);
        let (stop, stopped) = oneshot::channel();
        let (node, told) = (node.to_owned(), states.clone());
        let thread = thread::Builder::new()
            .name("kube".to_owned())
            .spawn(move || {
                let follow = Box::pin(follow(access, timing, &node, events, &told, deliver));
                runtime.block_on(async {
                    if let Either::Left((never, _)) = future::select(follow, stopped).await {
                        match never {}
                    }
                });
            })
            .map_err(StartError::Thread)?;
        Ok(Self {
            states,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// How it stands with the connection.
    pub fn state(&self) -> ConnectionState {
        self.states.get()
    }

    /// Tells [`state`](Self::state), also when the source is gone.
    pub fn watch_state(&self) -> impl Fn() -> ConnectionState + Send + Sync + 'static {
        let states = self.states.clone();
        move || states.get()
    }
}

impl Drop for KubeSource {
    /// Waits for the thread, so that nothing is delivered afterwards.
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
    let clients = Clients::new(access, states.clone());
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
        // Their senders live as long as the watches.
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
