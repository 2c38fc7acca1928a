//! One virtual IP, protocol and port, and who answers there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use ipvs::{Protocol, Scheduler, VirtualServerKey};

use crate::model::{ObjectName, PortName, SessionAffinity};

/// Address, protocol and port of a [`Frontend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Virtual IP.
    pub address: IpAddr,
    /// Port on it.
    pub port: NonZeroU16,
}

impl From<FrontendKey> for VirtualServerKey {
    fn from(key: FrontendKey) -> Self {
        VirtualServerKey::new(key.protocol, SocketAddr::new(key.address, key.port.get()))
    }
}

impl TryFrom<VirtualServerKey> for FrontendKey {
    /// The key itself: a firewall mark, or port 0, is no frontend's.
    type Error = VirtualServerKey;

    fn try_from(key: VirtualServerKey) -> Result<Self, Self::Error> {
        match key {
            VirtualServerKey::Address {
                protocol,
                address,
                port,
            } => {
                let port = NonZeroU16::new(port).ok_or(key)?;
                Ok(Self {
                    protocol,
                    address,
                    port,
                })
            }
            _ => Err(key),
        }
    }
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port.is_unnamed() {
            return self.service.fmt(f);
        }
        write!(f, "{}:{}", self.service, self.port)
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
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// For how long the choice holds.
    pub session_affinity: SessionAffinity,
    /// Who answers, sorted and without doubles. Without any, connections are refused.
    pub backends: Arc<[Backend]>,
}

/// An endpoint's address and port behind a [`Frontend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: NonZeroU16,
    /// Whether it may be on this node: its node is this one or not known.
    pub local: bool,
}
