//! nftables mode: constant rules, and Services as elements of sets.
//!
//! All state is in the tables `ip svcproxy` and `ip6 svcproxy`. Rules depend on the settings only; a
//! change of a Service changes elements of the [`Set`]s. There is no chain and no rule of a Service,
//! so the work for a change does not depend on the number of Services.
//!
//! # A packet's way
//!
//! The first packet of a connection passes `nat-prerouting`, or `nat-output` if the node sends it:
//!
//! 1. A destination with source ranges (`restricted`) drops other clients.
//! 2. Clients outside the cluster look in the map `external`, which has destinations with external
//!    traffic policy `Local`: their endpoints are on this node, and they see the client's address.
//!    If there are none, the packet is dropped.
//! 3. All others look in the map `services`. Before that, a connection that must be masqueraded gets
//!    a mark bit.
//! 4. If the destination is in neither, and is an address of the node that serves node ports, both
//!    maps are looked at once more with the unspecified address in its place.
//!
//! The maps yield a [`Choice`]: the number of endpoints, and the timeout of session affinity. It
//! becomes the packet's number, which selects a chain (`choose-3`, `choose-3-for-10800`). That draws
//! a number, and finds the endpoint in the map `endpoints` by destination and number. `numgen` needs
//! a constant for the number of endpoints; so there is one small chain for each number that is in
//! use.
//!
//! Connection tracking translates all later packets in the same way, so connections drain by
//! themselves. In postrouting, packets with the mark bit are masqueraded, and those of an endpoint
//! to itself.
//!
//! Packets that were not translated meet `undelivered`, in the hooks input, forward and output: it
//! rejects them if their Service has no endpoint, drops them if it has some, but none for this
//! client, and rejects everything else for a Service CIDR.
//!
//! # Changes
//!
//! Adding an element with a verdict makes the kernel validate the whole table
//! (`nft_table_validate`); so what changes with Services are maps of data. If an endpoint goes, the
//! last one takes its number, and then the Service's count falls: each number that can be drawn has
//! an endpoint at any moment. Transactions are bounded, because the kernel keeps a lock for the time
//! of one that packets of new connections need. The chains that choose stay when the rules are replaced:
//! each transaction leaves every Service with an answer.
//!
//! # Session affinity
//!
//! The kernel itself adds clients to the map `affinity`, each with the timeout of its Service, and with
//! a number of their endpoint that lasts as long as it does, which depends on its address and port. So
//! the endpoints of such a Service are in the map `endpoints` by their lasting numbers, and the map
//! `numbers` leads from the number that is drawn to the lasting one. A client whose endpoint is gone
//! draws again.
//!
//! # Limits of nftables
//!
//! It chooses at random, by weight; there are no schedulers. Virtual IPs do not answer to ping.
//! Packets of the node itself to a Service without endpoints are rejected before they leave, so
//! send(2) fails with EPERM. The priority of a connection's first packet holds a number on the way,
//! and is cleared in the end. A destination has at most 32,767 endpoints; further ones are not used, and are
//! reported.

mod choice;
#[cfg(feature = "nftables")]
mod data_plane;
mod element;
#[cfg(all(feature = "nftables", any(feature = "testing", test)))]
mod fake;
#[cfg(feature = "nftables")]
mod kernel;
mod plan;
#[cfg(feature = "nftables")]
mod probe;
mod rules;
mod served;
mod set;
mod text;
mod trace;

pub use choice::{Choice, Chooser, problems};
#[cfg(feature = "nftables")]
pub use data_plane::Nftables;
pub use element::{Element, Elements, Target};
#[cfg(all(feature = "nftables", any(feature = "testing", test)))]
pub use fake::FakeNftables;
#[cfg(feature = "nftables")]
pub use kernel::NftablesKernel;
pub use plan::{NodeState, Plan, Step};
#[cfg(feature = "nftables")]
pub use probe::probe;
pub use rules::Ruleset;
pub use served::{Outcome, Served, served};
pub use set::Set;
pub use trace::trace;

/// The name of the mode.
const NAME: &str = "nftables";
/// The name of the tables; their families are `ip` and `ip6`.
pub const TABLE: &str = "svcproxy";
