//! A stand-in for a cluster's API server: lists and watches over real HTTP, and fails as told.
//!
//! It keeps to the API's documented behaviour ("Kubernetes API Concepts": resource versions, limit
//! and continue, bookmarks, streamed lists, 410 Gone) for the kinds a service proxy reads, and takes
//! Events as an API server would.

mod events;
mod http;
mod objects;
mod proxy;
mod refusal;
mod serve;
mod tls;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::Value;

use self::objects::Objects;
pub use self::proxy::ForwardProxy;
pub use self::tls::{Authority, Clients, Https, Identity};

/// The kinds there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the API's own names")]
pub enum Resource {
    Services,
    EndpointSlices,
    Nodes,
    ServiceCidrs,
    /// Can be created only.
    Events,
}

impl Resource {
    const ALL: [Self; 5] = [
        Self::Services,
        Self::EndpointSlices,
        Self::Nodes,
        Self::ServiceCidrs,
        Self::Events,
    ];

    /// Of all namespaces.
    fn path(self) -> &'static str {
        match self {
            Self::Services => "/api/v1/services",
            Self::EndpointSlices => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Nodes => "/api/v1/nodes",
            Self::ServiceCidrs => "/apis/networking.k8s.io/v1/servicecidrs",
            Self::Events => "/apis/events.k8s.io/v1/events",
        }
    }

    /// The kind that a path names, and the namespace if it names one.
    fn of_path(path: &str) -> Option<(Self, Option<&str>)> {
        let (all, namespace) = match path.split_once("/namespaces/") {
            Some((group, rest)) => {
                let (namespace, kind) = rest.split_once('/')?;
                (format!("{group}/{kind}"), Some(namespace))
            }
            None => (path.to_owned(), None),
        };
        let resource = Self::ALL
            .into_iter()
            .find(|resource| resource.path() == all);
        Some((resource?, namespace))
    }
}

/// What a request wants of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A list, or a page of one.
    List,
    /// A watch, with or without what there is at its beginning.
    Watch,
    /// A new object.
    Create,
}

/// What befalls a single request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An error for an answer.
    Status {
        /// HTTP's code.
        code: u16,
        /// The header `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// The connection is closed without an answer.
    Close,
    /// There is no answer, and the connection stays.
    Silence,
    /// Of the answer only half comes; to what is to be created none, though it is.
    Half,
    /// A watch ends with half of what there is at its beginning, as at its time.
    Ended,
    /// The answer comes in small parts, with pauses between.
    Slow,
    /// The answer comes byte by byte, with a pause after each.
    Drip,
    /// So many bytes come that are the beginning of one object, without the end of a line; then the
    /// connection is closed.
    Endless(usize),
    /// What is not JSON, for an answer or an event.
    Garbage,
}

/// What befalls all watches of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// They end as at their time.
    End,
    /// The connections are closed.
    Close,
    /// The connections are closed in the middle of an event.
    MidEvent,
    /// The connections stay, and nothing comes any more.
    Silence,
}

/// What kind of server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// Begins a watch with all there is if asked to (`sendInitialEvents`); refuses that if not, as
    /// servers before 1.32 do.
    pub streams_lists: bool,
    /// Serves ServiceCIDRs, as servers since 1.33 do.
    pub has_service_cidrs: bool,
    /// Selects Services by `spec.clusterIP`; refuses that if not, as old servers do.
    pub selects_cluster_ips: bool,
    /// Tells that a version is gone by an event of the watch; by a status if not.
    pub gone_by_event: bool,
    /// Most objects of a page, whatever was asked for.
    pub page: usize,
}

impl Default for Behaviour {
    /// A server of today.
    fn default() -> Self {
        Self {
            streams_lists: true,
            has_service_cidrs: true,
            selects_cluster_ips: true,
            gone_by_event: true,
            page: usize::MAX,
        }
    }
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Of which kind.
    pub resource: Resource,
    /// For what.
    pub verb: Verb,
    /// The query, decoded.
    pub query: Vec<(String, String)>,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The namespace that the path names.
    pub namespace: Option<String>,
    /// What was sent along.
    pub body: Option<Value>,
}

impl Ask {
    /// A parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A server on a port of its own on loopback, until it is dropped.
///
/// ```
/// use serde_json::json;
/// use testbed::{ApiServer, Behaviour, Resource};
///
/// let server = ApiServer::start(Behaviour::default())?;
/// server.put(Resource::Services, json!({"metadata": {"namespace": "default", "name": "web"}}));
/// server.delete(Resource::Services, "default/web");
/// println!("kubectl --server {} get services", server.url());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    objects: Objects,
    faults: Vec<(Resource, Verb, Fault)>,
    asks: Vec<Ask>,
    /// How often a bookmark was asked for.
    bookmarks: u64,
    /// Connections close at once.
    is_away: bool,
    /// The only token that is accepted.
    token: Option<String>,
    /// The kinds that nobody may ask for.
    forbidden: Vec<Resource>,
    /// What all paths begin with.
    prefix: String,
    /// The message of errors that it is told to fail with.
    message: String,
    stops: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.lock());
        self.changed.notify_all();
        result
    }
}

impl ApiServer {
    /// Starts a server without objects.
    ///
    /// # Errors
    ///
    /// If there is no port to listen on.
    pub fn start(behaviour: Behaviour) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = State {
            behaviour,
            objects: Objects::default(),
            faults: Vec::new(),
            asks: Vec::new(),
            bookmarks: 0,
            is_away: false,
            token: None,
            forbidden: Vec::new(),
            prefix: String::new(),
            message: "told to fail".to_owned(),
            stops: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let acceptor = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &acceptor));
        Ok(Self { shared, address })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves below this path alone, as behind a Rancher server.
    pub fn require_prefix(&self, prefix: &str) {
        self.shared
            .change(|state| prefix.clone_into(&mut state.prefix));
    }

    /// Says this where it is told to [fail](Self::fail) with a status.
    pub fn say(&self, message: &str) {
        self.shared
            .change(|state| message.clone_into(&mut state.message));
    }

    /// Creates or replaces an object.
    pub fn put(&self, resource: Resource, object: Value) {
        self.shared
            .change(|state| state.objects.put(resource, object));
    }

    /// Deletes an object, by `namespace/name` or `name`.
    pub fn delete(&self, resource: Resource, name: &str) {
        self.shared
            .change(|state| state.objects.delete(resource, name));
    }

    /// Makes the next requests of that kind fail, one a fault.
    pub fn fail(&self, resource: Resource, verb: Verb, faults: impl IntoIterator<Item = Fault>) {
        self.shared.change(|state| {
            let faults = faults.into_iter().map(|fault| (resource, verb, fault));
            state.faults.extend(faults);
        });
    }

    /// Takes back what was to [fail](Self::fail).
    pub fn forgive(&self) {
        self.shared.change(|state| state.faults.clear());
    }

    /// Ends the watches of a kind that there are.
    pub fn cut(&self, resource: Resource, cut: Cut) {
        self.shared.change(|state| state.objects.cut(resource, cut));
    }

    /// Sends all watches a bookmark.
    pub fn bookmark(&self) {
        self.shared.change(|state| state.bookmarks += 1);
    }

    /// Forgets what has happened: watches from older versions are told 410 Gone.
    pub fn compact(&self) {
        self.shared.change(|state| state.objects.compact());
    }

    /// Keeps what happens to a kind from its watches, until it is [released](Self::release).
    pub fn hold(&self, resource: Resource) {
        self.shared.change(|state| state.objects.hold(resource));
    }

    /// Sends the watches the events that were held, as `order` leaves them: it may put them in any
    /// order, double them, or take some away.
    pub fn release(&self, resource: Resource, order: impl FnOnce(&mut Vec<String>)) {
        self.shared
            .change(|state| state.objects.release(resource, order));
    }

    /// Closes all connections, and each new one until it is [back](Self::come_back).
    pub fn go_away(&self) {
        self.shared.change(|state| state.is_away = true);
    }

    /// Serves again.
    pub fn come_back(&self) {
        self.shared.change(|state| state.is_away = false);
    }

    /// Refuses requests without this bearer token.
    pub fn require_token(&self, token: &str) {
        self.shared
            .change(|state| state.token = Some(token.to_owned()));
    }

    /// Forbids everyone to ask for these kinds, and for no others. A server that starts up forbids
    /// all for a moment, until it has read who may do what.
    pub fn forbid(&self, resources: &[Resource]) {
        self.shared
            .change(|state| state.forbidden = resources.to_vec());
    }

    /// Loses all objects and begins again with low versions, as one whose data were put back. It
    /// must be [away](Self::go_away): its watches would not know.
    pub fn wipe(&self) {
        self.shared
            .change(|state| state.objects = Objects::default());
    }

    /// Becomes another kind of server.
    pub fn become_like(&self, behaviour: Behaviour) {
        self.shared.change(|state| state.behaviour = behaviour);
    }

    /// All requests that came, in their order.
    pub fn asks(&self) -> Vec<Ask> {
        self.shared.lock().asks.clone()
    }

    /// The requests of a kind that came.
    pub fn asks_of(&self, resource: Resource, verb: Verb) -> Vec<Ask> {
        let mut asks = self.asks();
        asks.retain(|ask| ask.resource == resource && ask.verb == verb);
        asks
    }

    /// All Events that were taken, in the order of their names.
    pub fn events(&self) -> Vec<Arc<Value>> {
        self.shared.change(|state| {
            let kind = state.objects.kind(Resource::Events);
            kind.objects.values().cloned().collect()
        })
    }

    /// How many faults are still to come.
    pub fn faults_left(&self) -> usize {
        self.shared.lock().faults.len()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.change(|state| state.stops = true);
        // So that the listener looks.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let (stops, is_away) = {
            let state = shared.lock();
            (state.stops, state.is_away)
        };
        if stops {
            return;
        }
        if let Ok(stream) = stream
            && !is_away
        {
            let shared = Arc::clone(shared);
            thread::spawn(move || {
                // A client that goes away is none of our business.
                let _ = serve::connection(stream, &shared);
            });
        }
    }
}
