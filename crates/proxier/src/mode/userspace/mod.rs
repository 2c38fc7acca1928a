//! Userspace mode: svcproxy itself accepts connections and makes others to endpoints.
//!
//! It needs neither IPVS nor a packet filter, and can do what no kernel mode can: try a connection
//! that an endpoint refuses at the next one.
//!
//! # The way of a connection
//!
//! One `local` route makes a Service CIDR local, as in mode ipvs, and there is a listener for each
//! port of a virtual IP, bound with `IP_FREEBIND` because the node does not have the address. Node
//! ports have a listener on each of the node's addresses. An address outside the Service CIDRs gets
//! a route of its own only if no other machine can be expected to have it (`reach.rs`): a route takes
//! it away with all its ports.
//!
//! 1. The kernel drops packets of clients that get no answer, by a filter of the listener that
//!    compares source addresses (`admission.rs`). It is a classic BPF program, which needs no
//!    privilege.
//! 2. The proxy accepts the connection. If the Service has no endpoint, it resets it. A listener stays
//!    there for that, so that no program of the node that listens on all addresses answers in place of
//!    the Service (kubernetes/kubernetes#72236). A datagram without endpoint is refused by the kernel,
//!    because nobody listens.
//! 3. Session affinity or the scheduler chooses an endpoint (`affinity.rs`, `choose.rs`). If it does
//!    not answer in time, another one is tried, each at most once, and it is the last choice for some
//!    seconds.
//! 4. Both directions are copied until both have ended (`engine/relay.rs`).
//!
//! A UDP flow has a socket of its own towards its endpoint (`engine/udp.rs`).
//!
//! # Changes
//!
//! The plan compares what the proxy serves with the desired state: to serve a frontend, to listen at
//! an address, to add a route. `UserspaceProxy` executes the steps on the caller's thread; the tasks of the
//! runtime see the change with their next connection.
//!
//! A listener that cannot be opened (another program has the port, or svcproxy may not have it) is a
//! problem of its Service, and is tried again with back-off and by each audit (`unopened.rs`).
//!
//! # Limits
//!
//! Endpoints see the node's address, unless the Service asks for the PROXY protocol. SCTP is not
//! served. Connections end when svcproxy ends. At an address of a Service CIDR, a port that no Service
//! has is a port of the node. The node has some 28,000 ports for connections to one endpoint
//! (`net.ipv4.ip_local_port_range`).

#[cfg(any(feature = "userspace", test))]
mod admission;
#[cfg(feature = "userspace")]
mod affinity;
#[cfg(feature = "userspace")]
mod choose;
#[cfg(feature = "userspace")]
mod data_plane;
#[cfg(feature = "userspace")]
mod engine;
mod plan;
#[cfg(feature = "userspace")]
mod probe;
#[cfg(feature = "userspace")]
mod proxy;
#[cfg(feature = "userspace")]
mod proxy_header;
mod reach;
#[cfg(feature = "userspace")]
mod sockets;
#[cfg(feature = "userspace")]
mod trace;
#[cfg(feature = "userspace")]
mod unopened;
#[cfg(feature = "userspace")]
mod watch;

#[cfg(feature = "userspace")]
pub use data_plane::Userspace;
#[cfg(feature = "userspace")]
pub use engine::{ProxyCounts, ProxyView, ServedEndpoint, ServedFrontend};
pub use plan::{NodeState, Plan, Served, Step};
#[cfg(feature = "userspace")]
pub use probe::probe;
#[cfg(feature = "userspace")]
pub use proxy::{UserspaceProxy, observe, remove_routes, routes};
pub use reach::problems;
#[cfg(feature = "userspace")]
pub use sockets::{Socket, sockets};
#[cfg(feature = "userspace")]
pub use trace::trace;
#[cfg(feature = "userspace")]
pub use watch::{Watching, watch};
