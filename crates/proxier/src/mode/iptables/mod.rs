//! The rules of iptables mode, as values.
//!
//! [`Plan::new`] compares a [`DesiredState`](crate::desired::DesiredState) with the
//! [`NodeState`] that was observed or applied. The result is the input of iptables-restore(8), at
//! most one [`Transaction`] per family.
//!
//! # A packet's way
//!
//! The first packet of a connection passes table nat, in prerouting or in output:
//!
//! - `SVCPROXY-SERVICES` looks for its destination in the tree of virtual IPs, `SVCPROXY-VIPS`. If
//!   it is not there, but is an address of the node, it looks in the tree of node ports,
//!   `SVCPROXY-NODE-PORTS`. They are trees, with branches `SVCPROXY-B-…`, because iptables tries
//!   rules one after another.
//! - `SVCPROXY-R-…` exists for a load-balancer IP with source ranges. It lets only clients in the
//!   ranges and the node pass.
//! - `SVCPROXY-X-…` exists for external traffic policy `Local`. It sends pods and the node to the
//!   next chain, and chooses one of this node's backends for all other clients.
//! - `SVCPROXY-S-…` chooses a backend, each with a probability by its weight, and translates the
//!   destination. Session affinity is a list of clients per backend, `SVCPROXY-C-…`. A connection
//!   that must be masqueraded gets a mark bit first; for a cluster IP, `SVCPROXY-OUTSIDE` decides.
//!
//! Connection tracking translates all later packets in the same way, also if the rules change: so
//! connections drain. In postrouting, `SVCPROXY-POSTROUTING` masquerades packets with the bit, and
//! packets of a backend to itself, which `SVCPROXY-HAIRPIN` finds.
//!
//! Packets that were not translated reach `SVCPROXY-UNDELIVERED` in table filter. It rejects them
//! if their Service has no endpoint, and drops them if it has some, but none for this client. It
//! rejects everything else for a Service CIDR.
//!
//! # Ownership
//!
//! svcproxy owns the chains whose names begin with `SVCPROXY-`, and the rules in built-in chains
//! that jump to them. It touches no others. A change rewrites the chains of the changed frontends
//! and the branches that lead there. A branch has at most sixteen rules, except the root and the
//! last one, which has all ports of an address.
//!
//! # Limits of iptables
//!
//! - It chooses at random, so it has no schedulers; each Service that requests one is a problem.
//! - For session affinity, the kernel remembers at most 100 clients of a backend, unless the module
//!   `xt_recent` is loaded with a larger `ip_list_tot`.
//! - Virtual IPs do not answer to ping.
//! - Packets of the node itself to a Service without endpoints are rejected before they leave, so
//!   send(2) of a datagram fails with EPERM.

mod base;
#[cfg(feature = "iptables")]
mod data_plane;
mod differences;
mod draft;
#[cfg(all(feature = "iptables", any(feature = "testing", test)))]
mod fake;
mod frontend;
#[cfg(feature = "iptables")]
mod isolate;
#[cfg(feature = "iptables")]
pub(crate) mod kernel;
mod name;
#[cfg(all(feature = "ipvs", feature = "iptables"))]
mod passage;
mod plan;
#[cfg(feature = "iptables")]
mod probe;
#[cfg(feature = "iptables")]
mod refusals;
mod rule;
mod rules;
mod served;
mod trace;
mod transaction;

#[cfg(feature = "iptables")]
pub use data_plane::Iptables;
#[cfg(all(test, feature = "iptables"))]
pub(crate) use data_plane::Tables;
pub use differences::Difference;
#[cfg(all(feature = "iptables", any(feature = "testing", test)))]
pub use fake::{FakeIptables, ProgramFault};
#[cfg(feature = "iptables")]
pub use kernel::{Flavour, IptablesKernel, Refusal, Watching, kill_programs, watch};
pub use name::{ForeignName, Name};
#[cfg(all(feature = "ipvs", feature = "iptables"))]
pub(crate) use passage::is_passage;
#[cfg(all(feature = "ipvs", feature = "iptables"))]
pub use passage::{Passage, PassageWatch};
pub use plan::{NodeState, Plan, Step};
#[cfg(feature = "iptables")]
pub use probe::probe;
#[cfg(feature = "iptables")]
pub(crate) use refusals::Refusals;
pub use rule::Rule;
pub use rules::{Hook, Jump, Rules, Table};
pub use served::{Clients, Counters, Sent, Served, Verdict};
pub use trace::trace;
pub use transaction::Transaction;
