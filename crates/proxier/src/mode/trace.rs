//! What happens to the first packet of a connection on this node: types that all modes share.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use ipvs::{Family, Protocol};

use crate::desired::{FrontendKey, PodInterfaces};
use crate::model::ProxyProtocol;

/// The first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packet {
    /// The client's address. For a packet of the node itself, the address that it would choose.
    pub source: IpAddr,
    /// The destination.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The destination port.
    pub port: NonZeroU16,
    /// Where the packet comes from.
    pub origin: Origin,
}

/// Where a packet comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The node itself.
    Node,
    /// It arrives on an interface, whose name is empty if it is not known.
    Interface(String),
}

impl Packet {
    /// A packet from a client to an address and port.
    pub const fn new(
        source: IpAddr,
        destination: IpAddr,
        protocol: Protocol,
        port: NonZeroU16,
        origin: Origin,
    ) -> Self {
        Self {
            source,
            destination,
            protocol,
            port,
            origin,
        }
    }

    /// The family.
    pub const fn family(&self) -> Family {
        Family::of(&self.destination)
    }

    /// The destination.
    pub const fn key(&self) -> FrontendKey {
        FrontendKey {
            protocol: self.protocol,
            address: self.destination,
            port: self.port,
        }
    }

    /// The destination port, as that of the node.
    pub const fn node_port(&self) -> FrontendKey {
        FrontendKey::node_port(self.protocol, self.family(), self.port)
    }

    /// Whether it arrives on these interfaces.
    pub fn is_from(&self, interfaces: &PodInterfaces) -> bool {
        match (&self.origin, interfaces) {
            (Origin::Interface(name), PodInterfaces::Named(of)) => name == of.as_str(),
            (Origin::Interface(name), PodInterfaces::Prefixed(of)) => name.starts_with(of.as_str()),
            (Origin::Node, _) => false,
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.key(), self.source)?;
        match &self.origin {
            Origin::Node => f.write_str(" (this node)"),
            Origin::Interface(_) => Ok(()),
        }
    }
}

/// What is known of the node besides svcproxy's state.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Surroundings<'a> {
    /// Whether an address is one of the node's own, as the kernel's `local` table has it without
    /// svcproxy's routes.
    pub is_own: &'a dyn Fn(IpAddr) -> bool,
}

impl<'a> Surroundings<'a> {
    /// A node with these addresses. Loopback addresses are always its own.
    pub const fn new(is_own: &'a dyn Fn(IpAddr) -> bool) -> Self {
        Self { is_own }
    }

    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        address.is_loopback() || (self.is_own)(address)
    }
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// The way of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trace {
    /// What happened to it, in order.
    pub steps: Vec<Step>,
    /// What became of it.
    pub outcome: Outcome,
    /// The Service port that the rules and elements that matched belong to, as svcproxy recorded it.
    pub owner: Option<String>,
}

/// One thing that happened to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// The hook: `prerouting`.
    pub hook: &'static str,
    /// The chain and its priority, or what else decides there.
    pub place: String,
    /// The rule that matched, in the syntax of nft or iptables; empty if it is no rule.
    pub rule: String,
    /// What it did.
    pub effect: String,
}

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// One of these endpoints gets it.
    Served(Vec<Answer>),
    /// The client gets an error at once.
    Refused,
    /// The packet is dropped, and the client waits.
    Dropped,
    /// No rule of svcproxy concerns it, and the address is the node's: the node's own programs get
    /// it.
    Delivered,
    /// No rule of svcproxy concerns it, and it leaves by the node's routes.
    Leaves,
}

/// An endpoint that may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Answer {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Its share of the connections.
    pub weight: u32,
    /// Whether it sees an address of this node instead of the client's.
    pub masqueraded: bool,
    /// The header in which it finds the client's address. In mode userspace only.
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl Answer {
    pub(crate) const fn new(endpoint: SocketAddr, weight: u32, masqueraded: bool) -> Self {
        Self {
            endpoint,
            weight,
            masqueraded,
            proxy_protocol: None,
        }
    }
}
