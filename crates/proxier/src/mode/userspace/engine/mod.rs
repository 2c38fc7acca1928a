//! The proxy's sockets and tasks, which steps of plans change.

mod counters;
mod live;
mod relay;
mod socket;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use foldhash::{HashMap, HashMapExt, HashSet};
use ipvs::Protocol;
use socket2::SockRef;
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::Served;
use super::admission::{Filter, Own};
use crate::desired::FrontendKey;
use counters::{Counters, Limits};
use live::{Live, Target, address_of};
use relay::Pipes;

pub(crate) use counters::raise_descriptors;
pub use counters::{ProxyCounts, ProxyView, ServedEndpoint, ServedFrontend};

/// What all tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    counters: Counters,
    limits: Limits,
    pipes: Pipes,
    /// The places for datagrams that no endpoint has answered yet.
    kept: Arc<Semaphore>,
    /// The clients that session affinity remembers.
    remembered: AtomicUsize,
    own: RwLock<Arc<Own>>,
    /// What is served, for those who ask.
    live: RwLock<HashMap<FrontendKey, Arc<Live>>>,
    /// Of these, the ones without any listener, and why.
    not_served: RwLock<HashMap<FrontendKey, String>>,
    /// The addresses on which the proxy itself listens, and for which frontend: a connection to one
    /// would go in circles.
    listening: RwLock<HashMap<(Protocol, SocketAddr), FrontendKey>>,
    started: Instant,
}

impl Shared {
    /// Milliseconds since the start.
    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn own(&self) -> Arc<Own> {
        Arc::clone(&self.own.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_live(&self, change: impl FnOnce(&mut HashMap<FrontendKey, Arc<Live>>)) {
        change(&mut self.live.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn is_own_listener(&self, protocol: Protocol, address: SocketAddr) -> bool {
        let listening = self.listening.read();
        listening
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&(protocol, address))
    }
}

/// A socket at which a frontend is served.
#[derive(Debug)]
enum Socket {
    Tcp(Arc<TcpListener>),
    Udp(Arc<UdpSocket>),
}

impl Socket {
    fn attach(&self, filter: Option<&Filter>) {
        match self {
            Self::Tcp(listener) => socket::attach(&SockRef::from(&**listener), filter),
            Self::Udp(listener) => socket::attach(&SockRef::from(&**listener), filter),
        }
    }
}

/// A socket and the task that serves it, which end when it is dropped.
#[derive(Debug)]
struct Listening {
    socket: Socket,
    task: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        // The task keeps the socket for a moment, and another frontend may want its address now.
        if let Socket::Tcp(listener) = &self.socket {
            let _ = SockRef::from(&**listener).shutdown(Shutdown::Both);
        }
    }
}

/// A frontend with its sockets and endpoints.
#[derive(Debug)]
struct Frontend {
    live: Arc<Live>,
    targets: HashMap<SocketAddr, Arc<Target>>,
    listeners: BTreeMap<SocketAddr, Listening>,
}

/// An endpoint that gets no new connections.
#[derive(Debug)]
struct Draining {
    key: FrontendKey,
    target: Arc<Target>,
    since: Instant,
}

/// The proxy. Dropping it closes all sockets and ends all connections.
pub(super) struct Engine {
    shared: Arc<Shared>,
    handle: Handle,
    frontends: HashMap<FrontendKey, Frontend>,
    draining: Vec<Draining>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// A proxy that serves nothing, with as many descriptors.
    pub(super) fn new(handle: Handle, descriptors: u64) -> Self {
        let shared = Shared {
            counters: Counters::default(),
            limits: Limits::of(descriptors),
            pipes: Pipes::default(),
            kept: Arc::new(Semaphore::new(udp::KEPT)),
            remembered: AtomicUsize::new(0),
            own: RwLock::default(),
            live: RwLock::default(),
            not_served: RwLock::default(),
            listening: RwLock::default(),
            started: Instant::now(),
        };
        Self {
            shared: Arc::new(shared),
            handle,
            frontends: HashMap::new(),
            draining: Vec::new(),
        }
    }

    pub(super) fn view(&self) -> ProxyView {
        ProxyView(Arc::clone(&self.shared))
    }

    /// Sets the reason why a frontend has no listener, if it has none.
    pub(super) fn set_not_served(&self, key: FrontendKey, reason: Option<String>) {
        let not_served = self.shared.not_served.write();
        let mut not_served = not_served.unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => _ = not_served.insert(key, reason),
            None => _ = not_served.remove(&key),
        }
    }

    /// Sets the node's own addresses, and the filters that depend on them.
    pub(super) fn set_own(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        let own = Arc::new(Own(addresses.collect()));
        if *self.shared.own() == *own {
            return;
        }
        *self
            .shared
            .own
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::clone(&own);
        for frontend in self.frontends.values() {
            frontend.filter(&own);
        }
    }

    /// Serves a frontend, or changes its endpoints.
    pub(super) fn serve(&mut self, served: &Arc<Served>) {
        let key = served.frontend.key;
        // Not the same one on each node.
        let first = usize::try_from(rand_seed()).unwrap_or_default();
        let Some(frontend) = self.frontends.get_mut(&key) else {
            let (live, targets) = Live::new(Arc::clone(served), first);
            let live = Arc::new(live);
            self.shared
                .change_live(|all| _ = all.insert(key, Arc::clone(&live)));
            let frontend = Frontend {
                live,
                targets,
                listeners: BTreeMap::new(),
            };
            self.frontends.insert(key, frontend);
            return;
        };
        // An endpoint that comes back keeps its connections.
        let now = &served.frontend;
        let external = now.external.iter().flat_map(|all| all.iter());
        let wanted: HashSet<_> = now
            .backends
            .iter()
            .chain(external)
            .map(address_of)
            .collect();
        let targets = &mut frontend.targets;
        self.draining.retain(|draining| {
            let target = &draining.target;
            let is_back = draining.key == key && wanted.contains(&target.address);
            if is_back {
                let place = targets.entry(target.address);
                place.or_insert_with(|| Arc::clone(target));
            }
            !is_back
        });
        let gone = frontend.live.update(Arc::clone(served), targets, first);
        frontend.filter(&self.shared.own());
        self.drain(key, gone);
    }

    /// Datagrams of a flow can go to another endpoint at any time; connections drain.
    fn drain(&mut self, key: FrontendKey, gone: impl IntoIterator<Item = Arc<Target>>) {
        let since = Instant::now();
        for target in gone {
            match key.protocol {
                Protocol::Udp => target.cut(),
                // A connection that has chosen it, and does not count yet, ends at once.
                _ if target.active.load(Ordering::Relaxed) == 0 => target.cut(),
                _ => self.draining.push(Draining { key, target, since }),
            }
        }
    }

    /// Listens for a frontend.
    ///
    /// # Errors
    ///
    /// Those of socket(2), bind(2) and listen(2).
    pub(super) fn listen(&mut self, key: FrontendKey, address: SocketAddr) -> io::Result<()> {
        let Some(frontend) = self.frontends.get_mut(&key) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let filter = Filter::of(&frontend.live.served(), &self.shared.own());
        let (live, shared) = (Arc::clone(&frontend.live), Arc::clone(&self.shared));
        let _context = self.handle.enter();
        let (socket, task) = match key.protocol {
            Protocol::Udp => {
                let socket = socket::datagrams(address, filter.as_ref())?;
                let socket = Arc::new(UdpSocket::from_std(socket)?);
                let task = self
                    .handle
                    .spawn(udp::serve(Arc::clone(&socket), live, shared));
                (Socket::Udp(socket), task)
            }
            _ => {
                let listener = socket::listen(address, filter.as_ref())?;
                let listener = Arc::new(TcpListener::from_std(listener)?);
                let task = self
                    .handle
                    .spawn(tcp::accept(Arc::clone(&listener), live, shared));
                (Socket::Tcp(listener), task)
            }
        };
        let task = task.abort_handle();
        frontend
            .listeners
            .insert(address, Listening { socket, task });
        self.listening(|listening| _ = listening.insert((key.protocol, address), key));
        Ok(())
    }

    /// Stops listening. Connections go on.
    pub(super) fn close(&mut self, key: &FrontendKey, address: &SocketAddr) {
        let Some(frontend) = self.frontends.get_mut(key) else {
            return;
        };
        if frontend.listeners.remove(address).is_some() {
            self.listening(|listening| _ = listening.remove(&(key.protocol, *address)));
        }
    }

    fn listening(&self, change: impl FnOnce(&mut HashMap<(Protocol, SocketAddr), FrontendKey>)) {
        let listening = self.shared.listening.write();
        change(&mut listening.unwrap_or_else(PoisonError::into_inner));
    }

    /// Stops serving a frontend. Connections to a node port drain; those to an address that the node
    /// loses are cut.
    pub(super) fn withdraw(&mut self, key: &FrontendKey) {
        let Some(mut frontend) = self.frontends.remove(key) else {
            return;
        };
        self.shared.change_live(|all| _ = all.remove(key));
        for address in std::mem::take(&mut frontend.listeners).into_keys() {
            self.listening(|listening| _ = listening.remove(&(key.protocol, address)));
        }
        frontend.live.forget(&self.shared);
        let targets = std::mem::take(&mut frontend.targets).into_values();
        match key.is_node_port() {
            true => self.drain(*key, targets),
            false => targets.for_each(|target| target.cut()),
        }
    }

    /// The endpoints that drain: frontend, endpoint, since when, and their connections.
    pub(super) fn draining(
        &self,
    ) -> impl Iterator<Item = (FrontendKey, SocketAddr, Instant, usize)> {
        self.draining.iter().map(|draining| {
            let target = &draining.target;
            let active = target.active.load(Ordering::Relaxed);
            (draining.key, target.address, draining.since, active)
        })
    }

    /// Cuts what is left of a draining endpoint's connections.
    pub(super) fn end(&mut self, key: &FrontendKey, endpoint: &SocketAddr) {
        self.draining.retain(|draining| {
            let is_it = draining.key == *key && draining.target.address == *endpoint;
            if is_it {
                draining.target.cut();
            }
            !is_it
        });
    }

    /// What is served, and where.
    pub(super) fn observe(
        &mut self,
    ) -> (
        HashMap<FrontendKey, Arc<Served>>,
        BTreeMap<FrontendKey, BTreeSet<SocketAddr>>,
    ) {
        let (mut served, mut listeners) = (HashMap::new(), BTreeMap::new());
        let mut ended = Vec::new();
        for (key, frontend) in &mut self.frontends {
            served.insert(*key, frontend.live.served());
            // A task ends only by a fault; its listener is opened again.
            frontend.listeners.retain(|address, listening| {
                if listening.task.is_finished() {
                    ended.push((key.protocol, *address));
                }
                !listening.task.is_finished()
            });
            if !frontend.listeners.is_empty() {
                let addresses = frontend.listeners.keys().copied();
                listeners.insert(*key, addresses.collect());
            }
        }
        self.listening(|listening| ended.iter().for_each(|of| _ = listening.remove(of)));
        (served, listeners)
    }

    /// The traffic of a frontend, and the number of its open connections.
    pub(super) fn traffic(&self, key: &FrontendKey) -> Option<ipvs::Statistics> {
        let traffic = &self.frontends.get(key)?.live.traffic;
        let mut statistics = ipvs::Statistics::default();
        statistics.connections = traffic.connections.load(Ordering::Relaxed);
        statistics.incoming_bytes = traffic.bytes_in.load(Ordering::Relaxed);
        statistics.outgoing_bytes = traffic.bytes_out.load(Ordering::Relaxed);
        statistics.incoming_packets = traffic.packets_in.load(Ordering::Relaxed);
        statistics.outgoing_packets = traffic.packets_out.load(Ordering::Relaxed);
        Some(statistics)
    }
}

impl Frontend {
    /// Updates the filters of its sockets.
    fn filter(&self, own: &Own) {
        let filter = Filter::of(&self.live.served(), own);
        for listening in self.listeners.values() {
            listening.socket.attach(filter.as_ref());
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for frontend in self.frontends.values() {
            frontend.targets.values().for_each(|target| target.cut());
        }
        self.draining
            .iter()
            .for_each(|draining| draining.target.cut());
    }
}

/// A number that differs between processes.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() >> 32
}
