//! The configuration of a real server.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use crate::wire::{forwarding_fields, forwarding_from, tunnel_fields, tunnel_from};
use crate::{ParseError, RealServerKey};

/// The configuration of a real server, as in `ipvsadm -a`.
///
/// ```
/// use ipvs::{Forwarding, RealServer};
///
/// let server = RealServer::new("10.244.1.7:8080".parse()?).with_weight(100);
/// assert_eq!(server.forwarding, Forwarding::Masquerade);
/// # Ok::<(), ipvs::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct RealServer {
    /// Its key within the virtual server.
    pub key: RealServerKey,
    /// How packets reach it.
    #[cfg_attr(feature = "serde", serde(default = "default_forwarding"))]
    pub forwarding: Forwarding,
    /// Its share of new connections, up to `i32::MAX`. With 0 it keeps its connections and gets no
    /// new ones: it drains.
    #[cfg_attr(feature = "serde", serde(default = "default_weight"))]
    pub weight: u32,
    /// At this many active connections it gets no new ones; 0: no limit. Kernels of 2026 reject
    /// more than `i32::MAX`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub upper_threshold: u32,
    /// Below this many it gets new ones again; 0: three quarters of the upper threshold. At most
    /// the upper threshold.
    #[cfg_attr(feature = "serde", serde(default))]
    pub lower_threshold: u32,
}

#[cfg(feature = "serde")]
fn default_forwarding() -> Forwarding {
    Forwarding::Masquerade
}

#[cfg(feature = "serde")]
fn default_weight() -> u32 {
    1
}

impl RealServer {
    /// A real server reached by masquerade, with weight 1 and no thresholds.
    pub const fn new(key: RealServerKey) -> Self {
        Self {
            key,
            forwarding: Forwarding::Masquerade,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }

    /// Sets the forwarding method.
    #[must_use]
    pub const fn with_forwarding(self, forwarding: Forwarding) -> Self {
        Self { forwarding, ..self }
    }

    /// Sets the weight.
    #[must_use]
    pub const fn with_weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// Sets the connection thresholds.
    #[must_use]
    pub const fn with_thresholds(self, lower: u32, upper: u32) -> Self {
        Self {
            lower_threshold: lower,
            upper_threshold: upper,
            ..self
        }
    }
}

/// How packets reach a real server.
///
/// Compared as the kernel stores it: `Other(0)` equals `Masquerade`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Forwarding {
    /// The destination address is rewritten (NAT), and the source address of replies. ipvsadm's `-m`.
    Masquerade,
    /// The real server is this machine. The kernel delivers to local addresses itself, whatever the
    /// method.
    LocalNode,
    /// Encapsulated; the only method for a server of the other address family. ipvsadm's `-i`.
    Tunnel(Tunnel),
    /// Direct routing: the frame is sent to the real server unchanged. ipvsadm's `-g`.
    DirectRouting,
    /// Past IPVS to the packet's own destination. For the kernel's own use.
    Bypass,
    /// A method this crate does not know: 5 to 7. The kernel uses the lowest three bits.
    Other(u8),
}

/// `masquerade`, `local`, `tunnel ipip`, `direct`, `bypass`, or the method's number.
impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match forwarding_from(forwarding_fields(*self)) {
            Self::Masquerade => f.write_str("masquerade"),
            Self::LocalNode => f.write_str("local"),
            Self::Tunnel(tunnel) => write!(f, "tunnel {tunnel}"),
            Self::DirectRouting => f.write_str("direct"),
            Self::Bypass => f.write_str("bypass"),
            Self::Other(method) => write!(f, "{method}"),
        }
    }
}

/// Parses what [`Display`](fmt::Display) writes.
impl FromStr for Forwarding {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "masquerade" => Ok(Self::Masquerade),
            "local" => Ok(Self::LocalNode),
            "direct" => Ok(Self::DirectRouting),
            "bypass" => Ok(Self::Bypass),
            _ => match (text.strip_prefix("tunnel "), text.parse()) {
                (Some(tunnel), _) => tunnel.parse().map(Self::Tunnel),
                (None, Ok(method @ 0..=7)) => Ok(forwarding_from((method, (0, 0, 0)))),
                _ => Err(ParseError::new("forwarding method", text)),
            },
        }
    }
}

impl PartialEq for Forwarding {
    fn eq(&self, other: &Self) -> bool {
        forwarding_fields(*self) == forwarding_fields(*other)
    }
}

impl Eq for Forwarding {}

impl Hash for Forwarding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        forwarding_fields(*self).hash(state);
    }
}

/// How a tunnelled packet is encapsulated.
///
/// Compared as the kernel stores it: `Other` with the numbers of GRE equals `Gre`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Tunnel {
    /// IP in IP.
    Ipip,
    /// Generic UDP encapsulation. Linux 5.3; older kernels ignore the type and use IP in IP.
    Gue {
        /// The UDP port; not 0.
        port: u16,
        /// The checksum.
        checksum: TunnelChecksum,
    },
    /// Generic routing encapsulation. Linux 5.3; older kernels ignore the type and use IP in IP.
    Gre {
        /// The checksum.
        checksum: TunnelChecksum,
    },
    /// A type that this crate does not know, or a combination of fields without a meaning.
    Other {
        /// The type's number.
        kind: u8,
        /// The port.
        port: u16,
        /// The flags.
        flags: u16,
    },
}

/// `ipip`, `gue 6080 none`, `gre full`, or type, port and flags: `other 3 0 0`.
impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match tunnel_from(tunnel_fields(*self)) {
            Self::Ipip => f.write_str("ipip"),
            Self::Gue { port, checksum } => write!(f, "gue {port} {checksum}"),
            Self::Gre { checksum } => write!(f, "gre {checksum}"),
            Self::Other { kind, port, flags } => write!(f, "other {kind} {port} {flags}"),
        }
    }
}

/// Parses what [`Display`](fmt::Display) writes. A checksum can be left out: `none`.
impl FromStr for Tunnel {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new("tunnel", text);
        let words: Vec<&str> = text.split(' ').collect();
        let port = |text: &str| text.parse().map_err(|_| error());
        match words[..] {
            ["ipip"] => Ok(Self::Ipip),
            ["gue", number] => Ok(Self::Gue {
                port: port(number)?,
                checksum: TunnelChecksum::None,
            }),
            ["gue", number, checksum] => Ok(Self::Gue {
                port: port(number)?,
                checksum: checksum.parse()?,
            }),
            ["gre"] => Ok(Self::Gre {
                checksum: TunnelChecksum::None,
            }),
            ["gre", checksum] => Ok(Self::Gre {
                checksum: checksum.parse()?,
            }),
            ["other", kind, number, flags] => Ok(tunnel_from((
                kind.parse().map_err(|_| error())?,
                port(number)?,
                flags.parse().map_err(|_| error())?,
            ))),
            _ => Err(error()),
        }
    }
}

impl PartialEq for Tunnel {
    fn eq(&self, other: &Self) -> bool {
        tunnel_fields(*self) == tunnel_fields(*other)
    }
}

impl Eq for Tunnel {}

impl Hash for Tunnel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        tunnel_fields(*self).hash(state);
    }
}

/// Checksums of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TunnelChecksum {
    /// None.
    #[default]
    None,
    /// The checksum of the tunnel header.
    Full,
    /// Remote checksum offload: only the inner checksum is computed. GUE only.
    Remote,
}

/// `none`, `full` or `remote`.
impl fmt::Display for TunnelChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Full => "full",
            Self::Remote => "remote",
        })
    }
}

impl FromStr for TunnelChecksum {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "none" => Ok(Self::None),
            "full" => Ok(Self::Full),
            "remote" => Ok(Self::Remote),
            _ => Err(ParseError::new("tunnel checksum", text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_small() {
        assert!(size_of::<RealServer>() <= 48, "{}", size_of::<RealServer>());
    }
}
