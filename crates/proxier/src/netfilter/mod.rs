//! The packet-filter rules that IPVS mode needs, as a value.
//!
//! All of them are in one nftables table, `inet svcproxy`. They are written once: Services come
//! and go as elements of its [`Set`]s. [`Ruleset`]'s `Display` is the text that `nft -f` takes.
//!
//! # What is refused
//!
//! A Service CIDR is local to the node as a whole, so a packet for an address or port in it that
//! no virtual server takes would reach whatever listens on the node's `0.0.0.0`. Chain
//! `filter-input` stands before IPVS, for packets that come in, those of the node itself too, over
//! `lo`:
//!
//! - what is new and for a Service without endpoints is refused, before IPVS can log that it has
//!   no destination. Connections that are there go on to IPVS as long as it has the virtual
//!   server, so that they can be drained;
//! - what is for a virtual server is let through;
//! - all else for a Service CIDR is refused: TCP with a reset, any other protocol with the ICMP
//!   error "port unreachable". Only ICMP itself passes, so VIPs answer to ping, and errors about
//!   the path reach IPVS.
//!
//! Chain `filter-input` has priority 20: after IPVS's connection tracking and after the usual
//! host firewalls (0, and 10 for firewalld), which so have the first word, as it only ever
//! refuses; before IPVS at 98 (`ip_vs_core.c`). What the node sends IPVS takes earlier, where there
//! is a virtual server: chain `filter-output` does the first of these for that, at -110: after
//! connection tracking (-200), before address translation (-100) and before IPVS (-99).
//!
//! # What is masqueraded
//!
//! A backend answers to the source address it sees. If the client is no pod, the answer might
//! take a way that does not lead through this node, so the first packet of a connection to a
//! virtual server from outside of the cluster CIDRs gets a mark bit before IPVS, and chain
//! `nat-postrouting` masquerades what has it. That includes the node itself: its address is in no
//! cluster CIDR, and on an overlay network a pod elsewhere may know no way back to it. Of a
//! family without cluster CIDRs nothing is marked. A pod that reaches itself through a VIP is
//! masqueraded in any case: it would take the packet's source, its own address, for a forgery.
//!
//! Chains of type nat see the first packet of a connection only, and connection tracking does
//! the rest; IPVS leaves its connections to that if `net.ipv4.vs.conntrack` is on. IPVS rewrites
//! the destination between the two chains.
//!
//! IPVS takes a packet whose whole mark is that of a firewall-mark virtual server for that one,
//! so nobody else may have one whose number is [`MASQUERADE_MARK`].

mod chain;
mod fingerprint;
mod rule;
mod ruleset;
mod set;

pub use chain::{Chain, ChainKind, Hook, HookPoint};
pub use fingerprint::Fingerprint;
pub use rule::{Rule, Statement, TransportProtocol};
pub use ruleset::{MASQUERADE_MARK, Ruleset, TABLE};
pub use set::{Field, Set};
