//! `v1/Service`.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use super::{ObjectName, PortName, Protocol};

/// A Service: virtual IPs and the ports on which they answer.
///
/// Headless Services and those of type `ExternalName` have no [`cluster_ips`](Self::cluster_ips)
/// and ask nothing of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// `spec.clusterIPs`: at most one address a family; none for a headless Service.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.ports`.
    pub ports: Box<[ServicePort]>,
    /// `spec.sessionAffinity` and its timeout.
    pub session_affinity: SessionAffinity,
    /// `metadata.creationTimestamp` in seconds since 1970, where known: of two Services that
    /// claim one address and port, the older one has it.
    pub created: Option<i64>,
}

impl Service {
    /// A Service without addresses, ports or affinity.
    pub fn new(name: ObjectName) -> Self {
        Self {
            name,
            cluster_ips: Box::default(),
            ports: Box::default(),
            session_affinity: SessionAffinity::None,
            created: None,
        }
    }
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServicePort {
    /// Name, by which the endpoint slices' ports are found.
    pub name: PortName,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the virtual IP.
    pub port: NonZeroU16,
}

impl ServicePort {
    /// A port of a Service.
    pub fn new(name: PortName, protocol: Protocol, port: NonZeroU16) -> Self {
        Self {
            name,
            protocol,
            port,
        }
    }
}

/// `spec.sessionAffinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SessionAffinity {
    /// Each connection goes where the scheduler says.
    #[default]
    None,
    /// A client keeps its endpoint for this many seconds after its last connection
    /// (`spec.sessionAffinityConfig.clientIP.timeoutSeconds`).
    ClientIp(NonZeroU32),
}
