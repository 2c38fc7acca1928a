//! A fake API server: lists and watches over real HTTP, with faults on demand.
//!
//! It keeps to the API's documented behaviour ("Kubernetes API Concepts": resource versions, limit
//! and continue, bookmarks, streamed lists, 410 Gone) for the kinds that a service proxy reads, and
//! accepts Events as an API server does.

mod events;
mod format;
mod http;
mod objects;
pub mod protobuf;
mod proxy;
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

/// The supported kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the API's own names")]
pub enum Resource {
    Services,
    EndpointSlices,
    Nodes,
    ServiceCidrs,
    /// Objects of this kind can only be read one by one.
    ConfigMaps,
    /// Events can only be created.
    Events,
}

impl Resource {
    const ALL: [Self; 6] = [
        Self::Services,
        Self::EndpointSlices,
        Self::Nodes,
        Self::ServiceCidrs,
        Self::ConfigMaps,
        Self::Events,
    ];

    /// The URL path for all namespaces.
    fn path(self) -> &'static str {
        match self {
            Self::Services => "/api/v1/services",
            Self::EndpointSlices => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Nodes => "/api/v1/nodes",
            Self::ServiceCidrs => "/apis/networking.k8s.io/v1/servicecidrs",
            Self::ConfigMaps => "/api/v1/configmaps",
            Self::Events => "/apis/events.k8s.io/v1/events",
        }
    }

    /// The kind in a path, and the namespace and the name, if any.
    fn of_path(path: &str) -> Option<(Self, Option<&str>, Option<&str>)> {
        let (all, namespace, name) = match path.split_once("/namespaces/") {
            Some((group, rest)) => {
                let (namespace, kind) = rest.split_once('/')?;
                let (kind, name) = match kind.split_once('/') {
                    Some((kind, name)) => (kind, Some(name)),
                    None => (kind, None),
                };
                (format!("{group}/{kind}"), Some(namespace), name)
            }
            None => (path.to_owned(), None, None),
        };
        let resource = Self::ALL
            .into_iter()
            .find(|resource| resource.path() == all);
        Some((resource?, namespace, name))
    }
}

/// The operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A list, or a page of one.
    List,
    /// A watch, with or without initial events.
    Watch,
    /// One object.
    Get,
    /// A new object.
    Create,
}

/// A fault of a single request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An error as the answer.
    Status {
        /// The HTTP status code.
        code: u16,
        /// The header `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// The connection is closed without an answer.
    Close,
    /// There is no answer, and the connection stays.
    Silence,
    /// Only half of the answer is sent; an object is created without any answer.
    Half,
    /// A watch ends normally after half of its initial events.
    Ended,
    /// The answer comes in small parts, with pauses.
    Slow,
    /// The answer comes byte by byte, with a pause after each.
    Drip,
    /// This number of bytes of one endless object, without the end of a line; then the connection
    /// is closed.
    Endless(usize),
    /// An answer or event that cannot be decoded.
    Garbage,
}

/// A fault of all watches of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// They end normally.
    End,
    /// The connections are closed.
    Close,
    /// The connections are closed in the middle of an event.
    MidEvent,
    /// The connections stay, but nothing is sent.
    Silence,
}

/// The version-dependent behaviour of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// Supports streamed lists (`sendInitialEvents`); otherwise rejects them, as servers before
    /// 1.32.
    pub streams_lists: bool,
    /// Serves ServiceCIDRs, as servers since 1.33.
    pub has_service_cidrs: bool,
    /// Selects Services by `spec.clusterIP`; otherwise rejects that, as old servers.
    pub selects_cluster_ips: bool,
    /// Reports an expired version with an event of the watch; otherwise with a status.
    pub gone_by_event: bool,
    /// Answers in Protocol Buffers where that is accepted.
    pub has_protobuf: bool,
    /// Maximum number of objects per page, whatever was requested.
    pub page: usize,
}

impl Default for Behaviour {
    /// A current server.
    fn default() -> Self {
        Self {
            streams_lists: true,
            has_service_cidrs: true,
            selects_cluster_ips: true,
            gone_by_event: true,
            has_protobuf: true,
            page: usize::MAX,
        }
    }
}

/// A received request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The kind.
    pub resource: Resource,
    /// The operation.
    pub verb: Verb,
    /// The query, decoded.
    pub query: Vec<(String, String)>,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// Whether the client accepts Protocol Buffers.
    pub accepts_protobuf: bool,
    /// Whether the client accepts gzip.
    pub accepts_gzip: bool,
    /// The namespace in the path.
    pub namespace: Option<String>,
    /// The name in the path.
    pub name: Option<String>,
    /// The body.
    pub body: Option<Value>,
}

impl Ask {
    /// A parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A server on a free port of loopback. Dropping it stops it.
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
    /// Number of requested bookmarks.
    bookmarks: u64,
    /// Closes connections at once.
    is_away: bool,
    /// The only token that is accepted.
    token: Option<String>,
    /// The forbidden kinds.
    forbidden: Vec<Resource>,
    /// The prefix of all paths.
    prefix: String,
    /// The message of injected errors.
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
            message: "reported to fail".to_owned(),
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

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves only below this path, as behind a Rancher server.
    pub fn require_prefix(&self, prefix: &str) {
        self.shared
            .change(|state| prefix.clone_into(&mut state.prefix));
    }

    /// Sets the message of [injected](Self::fail) error statuses.
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

    /// Makes the next requests of this kind fail, one per fault.
    pub fn fail(&self, resource: Resource, verb: Verb, faults: impl IntoIterator<Item = Fault>) {
        self.shared.change(|state| {
            let faults = faults.into_iter().map(|fault| (resource, verb, fault));
            state.faults.extend(faults);
        });
    }

    /// Removes pending [faults](Self::fail).
    pub fn forgive(&self) {
        self.shared.change(|state| state.faults.clear());
    }

    /// Ends the current watches of a kind.
    pub fn cut(&self, resource: Resource, cut: Cut) {
        self.shared.change(|state| state.objects.cut(resource, cut));
    }

    /// Sends all watches a bookmark.
    pub fn bookmark(&self) {
        self.shared.change(|state| state.bookmarks += 1);
    }

    /// Forgets the history: watches from older versions get 410 Gone.
    pub fn compact(&self) {
        self.shared.change(|state| state.objects.compact());
    }

    /// Holds back events of a kind until they are [released](Self::release).
    pub fn hold(&self, resource: Resource) {
        self.shared.change(|state| state.objects.hold(resource));
    }

    /// Sends the held events, as changed by `order`: it may reorder, duplicate or remove them.
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

    /// Rejects requests without this bearer token.
    pub fn require_token(&self, token: &str) {
        self.shared
            .change(|state| state.token = Some(token.to_owned()));
    }

    /// Forbids these kinds, and no others. A server that starts up forbids all kinds until it has
    /// read the RBAC rules.
    pub fn forbid(&self, resources: &[Resource]) {
        self.shared
            .change(|state| state.forbidden = resources.to_vec());
    }

    /// Deletes all objects and restarts with low versions, like a server with restored data. It
    /// must be [away](Self::go_away), because open watches would not notice.
    pub fn wipe(&self) {
        self.shared
            .change(|state| state.objects = Objects::default());
    }

    /// Changes the behaviour.
    pub fn become_like(&self, behaviour: Behaviour) {
        self.shared.change(|state| state.behaviour = behaviour);
    }

    /// All received requests, in order.
    pub fn asks(&self) -> Vec<Ask> {
        self.shared.lock().asks.clone()
    }

    /// The received requests of a kind.
    pub fn asks_of(&self, resource: Resource, verb: Verb) -> Vec<Ask> {
        let mut asks = self.asks();
        asks.retain(|ask| ask.resource == resource && ask.verb == verb);
        asks
    }

    /// All accepted Events, in the order of their names.
    pub fn events(&self) -> Vec<Arc<Value>> {
        self.shared.change(|state| {
            let kind = state.objects.kind(Resource::Events);
            kind.objects.values().cloned().collect()
        })
    }

    /// The number of pending faults.
    pub fn faults_left(&self) -> usize {
        self.shared.lock().faults.len()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.change(|state| state.stops = true);
        // Wakes the listener.
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
                // A client may disconnect at any time.
                let _ = serve::connection(stream, &shared);
            });
        }
    }
}
