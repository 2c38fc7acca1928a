//! One virtual IP, protocol and port, and its backends.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use ipvs::{Family, Flags, Protocol, Scheduler, VirtualServerKey};

use crate::model::{Forwarding, InvalidName, ObjectName, PortName, ProxyProtocol, SessionAffinity};

/// Address, protocol and port of a [`Frontend`].
///
/// The unspecified address means a node port: all addresses of its family on which the node serves
/// node ports.
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

    /// The frontend key of an address virtual server; `None` for a firewall mark.
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

    /// Whether this is a node port.
    pub const fn is_node_port(&self) -> bool {
        self.address.is_unspecified()
    }

    /// The address's family.
    pub const fn family(&self) -> Family {
        Family::of(&self.address)
    }

    /// The key of the address virtual server; `None` for a node port.
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

/// A port of a Service, displayed as `namespace/name:port` or `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The Service.
    pub service: ObjectName,
    /// Its port.
    pub port: PortName,
}

impl ServicePortName {
    /// The displayed text, without a copy if the port has no name. It is composed in `buffer`, which a
    /// first sync uses for all of them.
    pub(crate) fn to_text(&self, buffer: &mut String) -> Arc<str> {
        if self.port.is_unnamed() {
            return self.service.to_text();
        }
        buffer.clear();
        buffer.extend([self.service.as_str(), ":", self.port.as_str()]);
        buffer.as_str().into()
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

/// A port of a virtual IP or node, as this node should serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frontend {
    /// Address, protocol and port.
    pub key: FrontendKey,
    /// The Service port.
    pub owner: ServicePortName,
    /// The kind of its address.
    pub kind: FrontendKind,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Options of the scheduler.
    pub scheduler_flags: Flags,
    /// Session affinity.
    pub session_affinity: SessionAffinity,
    /// How packets reach the backends. iptables mode always masquerades.
    pub forwarding: Forwarding,
    /// The header with the client's address that backends expect. Only mode userspace sends it.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Backends for clients in the cluster, and for clients from outside unless `external` is set.
    /// Sorted, without duplicates.
    pub backends: Arc<[Backend]>,
    /// What happens to connections while `backends` is empty.
    pub without_backends: WithoutBackends,
    /// Set if the Service's external traffic policy is `Local`: backends for clients from outside
    /// the cluster, which keep their source address. If empty, their connections are dropped, so
    /// that load balancers notice.
    pub external: Option<Arc<[Backend]>>,
    /// The only networks that may connect, apart from the node itself.
    pub source_ranges: Option<Arc<[IpNet]>>,
}

impl Frontend {
    /// A frontend without backends, which refuses connections, with the defaults of a Service.
    pub fn new(key: FrontendKey, owner: ServicePortName, kind: FrontendKind) -> Self {
        Self {
            key,
            owner,
            kind,
            scheduler: Scheduler::RoundRobin,
            scheduler_flags: Flags::NONE,
            session_affinity: SessionAffinity::None,
            forwarding: Forwarding::default(),
            proxy_protocol: None,
            backends: Arc::default(),
            without_backends: WithoutBackends::Refuse,
            external: None,
            source_ranges: None,
        }
    }

    /// Whether the Service has endpoints, but none that this node may use under traffic policy
    /// `Local`.
    pub fn lacks_local_backends(&self) -> bool {
        self.backends.is_empty() && self.without_backends == WithoutBackends::Drop
    }

    /// Whether the node must capture its packets, because the address may be another node's.
    pub(crate) fn is_captured(&self) -> bool {
        matches!(
            self.kind,
            FrontendKind::LoadBalancer | FrontendKind::ExternalIp
        )
    }
}

/// The kind of a [`Frontend`]'s address. If two Services claim one address and port, the kind that
/// comes first here wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `spec.ports[].nodePort`.
    NodePort,
}

impl FrontendKind {
    /// Path of the Service's field for it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::ClusterIp => "spec.clusterIPs",
            Self::LoadBalancer => "status.loadBalancer.ingress",
            Self::ExternalIp => "spec.externalIPs",
            Self::NodePort => "spec.ports",
        }
    }
}

impl fmt::Display for FrontendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "cluster IP",
            Self::LoadBalancer => "load-balancer IP",
            Self::ExternalIp => "external IP",
            Self::NodePort => "node port",
        })
    }
}

/// What happens to a connection without a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum WithoutBackends {
    /// The Service has no endpoint anywhere: the client gets an error at once.
    Refuse,
    /// The Service has endpoints, but none that this node may use: the packets are dropped.
    Drop,
}

/// An endpoint's address and port behind a [`Frontend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: NonZeroU16,
    /// Its place, seen from this node.
    pub place: Place,
    /// Its share of new connections; not 0.
    pub weight: NonZeroU16,
}

/// The place of a backend, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Place {
    /// The node itself: one of its own addresses.
    ThisNode,
    /// A pod on this node.
    OnThisNode,
    /// Unknown: the endpoint has no node name.
    Unknown,
    /// On another node.
    Elsewhere,
}

impl Backend {
    /// Whether it may be a pod on this node, and so a client of itself. The node's own
    /// connections stay in its network namespace.
    pub(crate) const fn may_be_own_client(&self) -> bool {
        matches!(self.place, Place::OnThisNode | Place::Unknown)
    }
}
