//! The rules of iptables mode, as values.
//!
//! [`Plan::new`] compares a [`DesiredState`](crate::desired::DesiredState) with the [`Node`] that
//! was observed or applied. The result is the text that iptables-restore(8) is told, for each
//! family at most one [`Transaction`].
//!
//! # The way of a packet
//!
//! The first packet of a connection passes table nat, in prerouting or in output:
//!
//! - `SVCPROXY-SERVICES` looks for its destination in the tree of virtual IPs, `SVCPROXY-VIPS`,
//!   and if that has none and it is for an address of the node, in that of the node ports,
//!   `SVCPROXY-NODE-PORTS`. Trees, whose branches are `SVCPROXY-B-…`, since iptables tries rules
//!   one after another;
//! - `SVCPROXY-R-…`, where a load balancer's source ranges restrict it, lets only those on that
//!   are in one, and the node;
//! - `SVCPROXY-X-…`, where the external traffic policy is `Local`, sends pods and the node to
//!   the next, and chooses for all others among the backends of this node;
//! - `SVCPROXY-S-…` chooses among the backends, each with the same chance, and translates the
//!   destination. Session affinity is a list of clients for each backend, `SVCPROXY-C-…`. A
//!   connection that is to be masqueraded gets a bit of the mark first; for a cluster IP
//!   `SVCPROXY-OUTSIDE` tells whether it is.
//!
//! Connection tracking does the same for all later packets, also if the rules change: so
//! connections drain. In postrouting `SVCPROXY-POSTROUTING` masquerades what has the bit, and
//! what a backend sends to itself, which `SVCPROXY-HAIRPIN` knows.
//!
//! What was not translated comes to `SVCPROXY-UNDELIVERED` in table filter. There it is refused if
//! its Service has no endpoint, or dropped if the Service has some, but none for this client; and
//! refused if it is for a Service CIDR at all.
//!
//! # Which rules are ours
//!
//! Chains whose names begin with `SVCPROXY-`, and the rules in the kernel's own chains that lead
//! to them. All others are never touched. A change rewrites the chains of the frontends that
//! changed and the branches that lead there, at most sixteen rules each but for the root's, and
//! the last's: of an address, all its ports.
//!
//! # What iptables cannot do
//!
//! It chooses at random, so it has no schedulers: [`limits`] says which Services ask for one. The
//! kernel remembers at most 100 clients of a backend for session affinity, unless the module
//! `xt_recent` is loaded with a greater `ip_list_tot`. Virtual IPs do not answer to ping. What the
//! node itself sends to a Service without endpoints is refused before it leaves, so that send(2)
//! of a datagram fails with EPERM.

mod base;
#[cfg(feature = "iptables")]
mod data_plane;
mod diff;
mod draft;
mod frontend;
#[cfg(feature = "iptables")]
mod isolate;
#[cfg(feature = "iptables")]
pub(crate) mod kernel;
mod limits;
mod name;
mod plan;
#[cfg(feature = "iptables")]
mod probe;
#[cfg(feature = "iptables")]
mod refusals;
mod rule;
mod rules;
mod served;
mod table;
mod transaction;
mod tree;

#[cfg(feature = "iptables")]
pub use data_plane::IptablesMemory;
#[cfg(feature = "iptables")]
pub use kernel::kill_programs;
#[cfg(feature = "iptables")]
pub use kernel::{Flavour, IptablesBackend, Refusal};
pub use limits::{limits, limits_of};
pub use name::{ForeignName, Name};
pub use plan::{Node, Plan, Step};
#[cfg(feature = "iptables")]
pub use probe::probe;
#[cfg(feature = "iptables")]
pub(crate) use refusals::Refusals;
pub use rule::Rule;
pub use rules::Rules;
pub use served::{Clients, Counters, Outcome, Sent, Served};
pub use table::{Hook, Jump, Table};
pub use transaction::Transaction;
