//! A DNS server for the names of Services: Kubernetes' DNS specification 1.1.0.
//!
//! It is authoritative for one cluster domain, and sends questions for other names to upstream
//! servers, or refuses them.
//!
//! | part | what it does | pure |
//! | --- | --- | --- |
//! | `zone` | follows changes, and finds what a name means | yes |
//! | `answer` | from the bytes of a query to those of the answer | yes |
//! | `upstream` | asks other servers | no |
//! | `server`, `udp`, `tcp`, `shared` | the sockets, and their limits | no |
//!
//! The zone follows the source's changes itself, and not the store of a [`Proxier`](crate::Proxier):
//! names do not wait for a sync, and queries do not wait for the loop. Until Services and slices have
//! been listed, the names of the domain are a failure (`SERVFAIL`), not absent.
//!
//! The library hickory-proto encodes and decodes. The sockets are not those of hickory-server, which
//! has no limit of TCP connections, and brings 8 more crates.
//!
//! ```no_run
//! use proxier::Runtime;
//! use proxier::discovery::dns::{Config, Dns};
//! use proxier::store::Change;
//!
//! let mut config = Config::new(["127.0.0.1:5353".parse()?]);
//! config.upstreams = vec!["192.0.2.53:53".parse()?];
//! let runtime = Runtime::start()?;
//! let dns = Dns::start(&runtime, config)?;
//! dns.apply(&[Change::ServicesReplaced(vec![]), Change::EndpointSlicesReplaced(vec![])]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod counts;
mod name;
mod quota;
mod records;
mod server;
mod shared;
mod tcp;
mod udp;
mod upstream;
mod zone;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use ipnet::IpNet;
use tokio::task::JoinHandle;

use self::server::Sockets;
use self::shared::Shared;
use crate::Runtime;
use crate::discovery::DnsState;
use crate::store::Change;

pub use self::name::{Domain, InvalidDomain};
pub use self::zone::Zone;

/// Settings of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The cluster domain.
    pub domain: Domain,
    /// The addresses to serve, over UDP and TCP. Each must be one address, not the unspecified one:
    /// an answer must come from the address that was asked.
    pub addresses: Vec<SocketAddr>,
    /// The servers to ask for names of other domains. Without any, these are refused.
    pub upstreams: Vec<SocketAddr>,
    /// The Service CIDRs, beside those of the source. The server is authoritative for the names of all
    /// addresses in them.
    pub service_cidrs: Vec<IpNet>,
}

impl Config {
    /// Serves `cluster.local` at these addresses, without upstream servers.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            domain: Domain::default(),
            addresses: addresses.into_iter().collect(),
            upstreams: Vec::new(),
            service_cidrs: Vec::new(),
        }
    }
}

/// The server. It stops when this is dropped.
#[derive(Debug)]
pub struct Dns {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    _runtime: Runtime,
}

impl Dns {
    /// Serves an empty zone, which is not ready.
    ///
    /// An address that cannot be bound is not an error, but a warning in the log, and is tried again
    /// after 1 to 5 seconds. So is one whose socket or task fails later. The first try is in the network
    /// namespace of the caller.
    ///
    /// # Errors
    ///
    /// If the runtime has stopped.
    pub fn start(runtime: &Runtime, config: Config) -> io::Result<Self> {
        let addresses = config.addresses.clone();
        let shared = Arc::new(Shared::new(config));
        let handle = runtime.handle()?;
        let tasks = addresses.into_iter().map(|address| {
            let first = Sockets::bind(address);
            handle.spawn(server::serve(Arc::clone(&shared), address, first))
        });
        Ok(Self {
            tasks: tasks.collect(),
            shared,
            _runtime: runtime.clone(),
        })
    }

    /// Applies changes. Queries wait for one Service at a time.
    pub fn apply(&self, changes: &[Change]) {
        let zone = &self.shared.zone;
        for change in changes {
            let steps = zone
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .steps(change);
            for step in steps {
                zone.write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .step(step);
            }
        }
    }

    /// Where it listens, and what it has counted.
    pub fn state(&self) -> DnsState {
        self.shared.counters.get()
    }

    /// A function that returns [`state`](Self::state), even after the server is dropped.
    pub fn watch_state(&self) -> impl Fn() -> DnsState + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.counters.get()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.counters.stopped();
    }
}
