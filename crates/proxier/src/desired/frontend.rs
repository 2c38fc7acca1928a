//! One virtual IP, protocol and port, and who answers there.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use ipvs::{Family, Flags, Protocol, Scheduler, VirtualServerKey};

use crate::model::{InvalidName, ObjectName, PortName, SessionAffinity};

/// Address, protocol and port of a [`Frontend`].
///
/// The unspecified address stands for a node port: all addresses of its family on which the node
/// serves node ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Virtual IP.
    pub address: IpAddr,
    /// Port on it.
    pub port: NonZeroU16,
}

impl FrontendKey {
    /// A node port.
    pub const fn node_port(protocol: Protocol, family: Family, port: NonZeroU16) -> Self {
        let address = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self {
            protocol,
            address,
            port,
        }
    }

    /// What a virtual server of an address is for; one of a mark does not say.
    pub fn of(server: &VirtualServerKey) -> Option<Self> {
        match *server {
            VirtualServerKey::Address {
                protocol,
                address,
                port,
            } => Some(Self {
                protocol,
                address,
                port: NonZeroU16::new(port)?,
            }),
            _ => None,
        }
    }

    /// Whether this is a port of the node's own addresses.
    pub const fn is_node_port(&self) -> bool {
        self.address.is_unspecified()
    }

    /// The address's family.
    pub const fn family(&self) -> Family {
        Family::of(&self.address)
    }

    /// The key of the virtual server of this address; a node port has none.
    pub fn virtual_server(self) -> Option<VirtualServerKey> {
        let address = SocketAddr::new(self.address, self.port.get());
        (!self.is_node_port()).then(|| VirtualServerKey::new(self.protocol, address))
    }
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_node_port() {
            let (protocol, port, family) = (self.protocol, self.port, self.family());
            return write!(f, "{protocol} node port {port} ({family})");
        }
        write!(
            f,
            "{} {}",
            self.protocol,
            SocketAddr::new(self.address, self.port.get())
        )
    }
}

/// A port of a Service, shown as `namespace/name:port` or `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The Service.
    pub service: ObjectName,
    /// Its port.
    pub port: PortName,
}

impl ServicePortName {
    /// What it is displayed as, at less cost.
    pub(crate) fn to_text(&self) -> Arc<str> {
        if self.port.is_unnamed() {
            return self.service.to_text();
        }
        [self.service.as_str(), ":", self.port.as_str()]
            .concat()
            .into()
    }
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port.is_unnamed() {
            return self.service.fmt(f);
        }
        write!(f, "{}:{}", self.service, self.port)
    }
}

impl FromStr for ServicePortName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (service, port) = match text.split_once(':') {
            Some((service, port)) => (service, PortName::new(port)?),
            None => (text, PortName::UNNAMED),
        };
        let (namespace, name) = service.split_once('/').unwrap_or((service, ""));
        let service = ObjectName::new(namespace, name)?;
        Ok(Self { service, port })
    }
}

/// What a virtual IP's port does on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frontend {
    /// Where it answers.
    pub key: FrontendKey,
    /// For whom.
    pub owner: ServicePortName,
    /// What kind of address it has.
    pub kind: Kind,
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// Options of the scheduler.
    pub scheduler_flags: Flags,
    /// For how long the choice holds.
    pub session_affinity: SessionAffinity,
    /// Who answers, sorted and without doubles: clients in the cluster, and all others too unless
    /// `external` says who does.
    pub backends: Arc<[Backend]>,
    /// What becomes of connections while there are no `backends`.
    pub without_backends: WithoutBackends,
    /// Who answers clients from outside of the cluster, whose address they are to see: the
    /// Service's external traffic policy is `Local`. Without any, connections are dropped, so that
    /// load balancers notice.
    pub external: Option<Arc<[Backend]>>,
    /// The only networks it may be reached from, but for the node itself.
    pub source_ranges: Option<Arc<[IpNet]>>,
}

impl Frontend {
    /// Whether the Service has endpoints, and none that the node may use under a traffic policy
    /// `Local`.
    pub fn lacks_local_backends(&self) -> bool {
        self.backends.is_empty() && self.without_backends == WithoutBackends::Drop
    }

    /// Whether its packets are to be taken though the address may be another's.
    pub fn is_captured(&self) -> bool {
        matches!(self.kind, Kind::LoadBalancer | Kind::ExternalIp)
    }
}

/// What kind of address a [`Frontend`] has. Of two Services that claim one address and port, the
/// one whose kind comes first has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `spec.ports[].nodePort`.
    NodePort,
}

impl Kind {
    /// Path of the field of a Service that asks for it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::ClusterIp => "spec.clusterIPs",
            Self::LoadBalancer => "status.loadBalancer.ingress",
            Self::ExternalIp => "spec.externalIPs",
            Self::NodePort => "spec.ports",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "cluster IP",
            Self::LoadBalancer => "load-balancer IP",
            Self::ExternalIp => "external IP",
            Self::NodePort => "node port",
        })
    }
}

/// What becomes of a connection for which there is no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum WithoutBackends {
    /// The Service has no endpoint anywhere: the client is told at once.
    Refuse,
    /// The Service has endpoints, and none that this node may use: nobody answers.
    Drop,
}

/// An endpoint's address and port behind a [`Frontend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: NonZeroU16,
    /// Where it is.
    pub place: Place,
}

/// Where a backend is, as seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Place {
    /// It is the node: one of the node's own addresses.
    ThisNode,
    /// A pod on this node.
    OnThisNode,
    /// Its endpoint names no node.
    Unknown,
    /// On another node.
    Elsewhere,
}

impl Backend {
    /// Whether it may be a pod on this node, and so its own client. The node's own connections to
    /// itself do not pass through another's network.
    pub const fn may_be_own_client(&self) -> bool {
        matches!(self.place, Place::OnThisNode | Place::Unknown)
    }
}
