//! What the proxy counts, and how much it may hold.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::live::Live;
use crate::desired::{Frontend, FrontendKey};

/// Counters of all connections and flows.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) flows: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) unreachable: AtomicU64,
    pub(super) without_endpoint: AtomicU64,
    pub(super) denied: AtomicU64,
    pub(super) over_limit: AtomicU64,
    pub(super) pauses: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) open_connections: AtomicUsize,
    pub(super) open_flows: AtomicUsize,
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What the proxy does, for metrics and for people. Clones look at the same proxy.
#[derive(Debug, Clone)]
pub struct ProxyView(pub(super) Arc<super::Shared>);

/// A frontend that is served.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServedFrontend {
    /// The frontend.
    pub frontend: Arc<Frontend>,
    /// The endpoints for clients in the cluster, or for all.
    pub endpoints: Vec<ServedEndpoint>,
    /// Those for clients outside, if these are others.
    pub external: Option<Vec<ServedEndpoint>>,
    /// Why the proxy listens at none of its addresses, if so.
    pub not_served: Option<String>,
    /// The pods' networks, if it has other endpoints for clients outside the cluster.
    pub pods: Arc<[IpNet]>,
    /// The addresses at which the proxy listens for it, in order.
    pub listeners: Vec<SocketAddr>,
}

/// An endpoint of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedEndpoint {
    /// Its address.
    pub address: SocketAddr,
    /// Its weight.
    pub weight: u16,
    /// Open connections or flows.
    pub active: usize,
    /// Connections or flows since it became an endpoint.
    pub connections: u64,
}

/// The numbers of the proxy since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxyCounts {
    /// TCP connections that reached an endpoint.
    pub connections: u64,
    /// UDP flows.
    pub flows: u64,
    /// TCP connections that are open.
    pub open_connections: u64,
    /// UDP flows that are open.
    pub open_flows: u64,
    /// The most TCP connections at a time.
    pub most_connections: u64,
    /// The most UDP flows at a time.
    pub most_flows: u64,
    /// Connections tried at another endpoint, because one did not answer.
    pub retries: u64,
    /// Connections that no endpoint answered.
    pub unreachable: u64,
    /// Connections to frontends without endpoints.
    pub without_endpoint: u64,
    /// Connections of clients that a frontend does not serve.
    pub denied: u64,
    /// Connections and flows over a limit.
    pub over_limit: u64,
    /// Pauses of listeners, because the process had no descriptor or memory left.
    pub pauses: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

impl ProxyView {
    /// What is served, in no particular order.
    pub fn served(&self) -> Vec<ServedFrontend> {
        let live = self.0.live.read().unwrap_or_else(PoisonError::into_inner);
        let not_served = self.0.not_served.read();
        let not_served = not_served.unwrap_or_else(PoisonError::into_inner);
        let mut listeners = self.listeners();
        let view = |(key, live): (_, &Arc<Live>)| {
            let listeners = listeners.remove(key).unwrap_or_default();
            live.view(not_served.get(key).cloned(), listeners)
        };
        live.iter().map(view).collect()
    }

    /// Where the proxy listens for each frontend.
    fn listeners(&self) -> HashMap<FrontendKey, Vec<SocketAddr>> {
        let listening = self.0.listening.read();
        let listening = listening.unwrap_or_else(PoisonError::into_inner);
        let mut listeners = HashMap::<_, Vec<_>>::with_capacity(listening.len());
        for ((_, address), key) in listening.iter() {
            listeners.entry(*key).or_default().push(*address);
        }
        listeners.values_mut().for_each(|all| all.sort_unstable());
        listeners
    }

    /// The numbers now.
    pub fn counts(&self) -> ProxyCounts {
        let Counters {
            connections,
            flows,
            retries,
            unreachable,
            without_endpoint,
            denied,
            over_limit,
            pauses,
            bytes_in,
            bytes_out,
            open_connections,
            open_flows,
        } = &self.0.counters;
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let limits = self.0.limits;
        ProxyCounts {
            connections: total(connections),
            flows: total(flows),
            open_connections: number(open_connections.load(Ordering::Relaxed)),
            open_flows: number(open_flows.load(Ordering::Relaxed)),
            most_connections: number(limits.connections),
            most_flows: number(limits.flows),
            retries: total(retries),
            unreachable: total(unreachable),
            without_endpoint: total(without_endpoint),
            denied: total(denied),
            over_limit: total(over_limit),
            pauses: total(pauses),
            bytes_in: total(bytes_in),
            bytes_out: total(bytes_out),
        }
    }
}

/// How many connections, flows and pipes there may be, in proportion to the descriptors that the
/// process may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) connections: usize,
    pub(super) flows: usize,
    pub(super) pipes: usize,
}

impl Limits {
    /// A connection has two descriptors, a pipe two, a flow one: half of the descriptors are for
    /// connections, an eighth for each of the others, and the rest for listeners.
    pub(super) fn of(descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        Self {
            connections: (descriptors / 4).clamp(8, 262_144),
            flows: (descriptors / 8).clamp(8, 131_072),
            pipes: (descriptors / 16).clamp(2, 1024),
        }
    }
}

/// Raises the limit of descriptors as far as the process may. Returns the limit.
pub(crate) fn raise_descriptors() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.unwrap_or(MOST_DESCRIPTORS).min(MOST_DESCRIPTORS);
    let now = current.unwrap_or(most);
    if now >= most {
        return now;
    }
    let raised = Rlimit {
        current: Some(most),
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => most,
        Err(_) => now,
    }
}

/// The kernel's default of `fs.nr_open`, more than which it does not accept.
const MOST_DESCRIPTORS: u64 = 1_048_576;
