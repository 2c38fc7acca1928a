//! The keys of virtual servers and real servers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;

use crate::{Family, ParseError, Protocol};

/// The key of a virtual server: protocol, address and port, or a firewall mark.
///
/// Ordered by protocol, address and port; firewall marks last.
///
/// ```
/// use ipvs::VirtualServerKey;
///
/// let key = VirtualServerKey::tcp("10.96.0.1:443".parse()?);
/// assert_eq!(key.to_string(), "tcp 10.96.0.1:443");
/// assert_eq!("tcp 10.96.0.1:443".parse(), Ok(key));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum VirtualServerKey {
    /// Packets to this address and port.
    Address {
        /// The transport protocol.
        protocol: Protocol,
        /// The virtual IP address.
        address: IpAddr,
        /// The port. 0 stands for all ports and requires persistence.
        port: u16,
    },
    /// Packets with this firewall mark. The kernel looks these up first (`ip_vs_service_find`).
    FirewallMark {
        /// The whole mark.
        mark: NonZeroU32,
        /// The family of the packets.
        family: Family,
    },
}

impl VirtualServerKey {
    /// The key for an address and port. An IPv6 scope id and flow label are not part of it.
    pub const fn new(protocol: Protocol, address: SocketAddr) -> Self {
        Self::Address {
            protocol,
            address: address.ip(),
            port: address.port(),
        }
    }

    /// The key for a TCP address and port.
    pub const fn tcp(address: SocketAddr) -> Self {
        Self::new(Protocol::Tcp, address)
    }

    /// The key for a UDP address and port.
    pub const fn udp(address: SocketAddr) -> Self {
        Self::new(Protocol::Udp, address)
    }

    /// The key for an SCTP address and port.
    pub const fn sctp(address: SocketAddr) -> Self {
        Self::new(Protocol::Sctp, address)
    }

    /// The key for a firewall mark.
    pub const fn firewall_mark(mark: NonZeroU32, family: Family) -> Self {
        Self::FirewallMark { mark, family }
    }

    /// The address family of its packets.
    pub const fn family(&self) -> Family {
        match self {
            Self::Address { address, .. } => Family::of(address),
            Self::FirewallMark { family, .. } => *family,
        }
    }

    /// The protocol; `None` for a firewall mark.
    pub const fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Address { protocol, .. } => Some(*protocol),
            Self::FirewallMark { .. } => None,
        }
    }

    /// Address and port; `None` for a firewall mark.
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address { address, port, .. } => Some(SocketAddr::new(*address, *port)),
            Self::FirewallMark { .. } => None,
        }
    }
}

/// `tcp 10.96.0.1:443`, `udp [fd00::10]:53`, `fwmark 7 ipv4`.
impl fmt::Display for VirtualServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address {
                protocol,
                address,
                port,
            } => {
                write!(f, "{protocol} {}", SocketAddr::new(*address, *port))
            }
            Self::FirewallMark { mark, family } => write!(f, "fwmark {mark} {family}"),
        }
    }
}

/// Parses what [`Display`](fmt::Display) writes.
impl FromStr for VirtualServerKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new("virtual server", text);
        let (first, rest) = text.split_once(' ').ok_or_else(error)?;
        if first == "fwmark" {
            let (mark, family) = rest.split_once(' ').ok_or_else(error)?;
            let mark = mark.parse().map_err(|_| error())?;
            return Ok(Self::FirewallMark {
                mark,
                family: family.parse().map_err(|_| error())?,
            });
        }
        let protocol = first.parse().map_err(|_| error())?;
        Ok(Self::new(protocol, socket_address(rest).ok_or_else(error)?))
    }
}

/// The key of a real server within its virtual server: address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealServerKey {
    /// The address to which packets are sent.
    pub address: IpAddr,
    /// The port. 0 keeps the packet's port, for virtual servers with port 0 or a firewall mark.
    pub port: u16,
}

impl RealServerKey {
    /// The key of an address and port.
    pub const fn new(address: IpAddr, port: u16) -> Self {
        Self { address, port }
    }
}

impl From<SocketAddr> for RealServerKey {
    fn from(address: SocketAddr) -> Self {
        Self::new(address.ip(), address.port())
    }
}

/// `10.244.1.7:8080`, `[fd00::7]:8080`.
impl fmt::Display for RealServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

impl FromStr for RealServerKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let address = socket_address(text).ok_or_else(|| ParseError::new("real server", text))?;
        Ok(address.into())
    }
}

/// Like `SocketAddr`'s parser, but rejects a scope id, which a key cannot hold.
fn socket_address(text: &str) -> Option<SocketAddr> {
    if text.contains('%') {
        None
    } else {
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in [
            "tcp 10.96.0.1:80",
            "udp [fd00::1]:53",
            "132 0.0.0.0:0",
            "fwmark 7 ipv6",
        ] {
            let Ok(key) = text.parse::<VirtualServerKey>() else {
                panic!("{text}")
            };
            assert_eq!(key.to_string(), text.replace("132", "sctp"));
        }
        for text in [
            "tcp",
            "tcp 10.96.0.1",
            "tcp [fe80::1%3]:80",
            "fwmark 0 ipv4",
            "fwmark 7",
            "",
        ] {
            assert!(text.parse::<VirtualServerKey>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn order_is_protocol_address_port() {
        let keys = [
            "tcp 9.0.0.1:443",
            "tcp 10.0.0.1:80",
            "tcp 10.0.0.1:443",
            "tcp [::1]:1",
            "udp 1.0.0.1:1",
            "fwmark 1 ipv4",
        ];
        let parsed: Vec<VirtualServerKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
        assert!(parsed.is_sorted());
    }
}
