//! The configuration of a real server.

use crate::RealServerKey;

/// The configuration of a real server: what `ipvsadm -a` sets.
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
pub struct RealServer {
    /// What names it within its virtual server.
    pub key: RealServerKey,
    /// How packets reach it.
    pub forwarding: Forwarding,
    /// Its share of new connections, up to `i32::MAX`. With 0 it keeps the connections it has
    /// and gets no new one: it drains.
    pub weight: u32,
    /// At this many active connections it gets no new one; 0: no limit.
    pub upper_threshold: u32,
    /// Below this many it gets new ones again; 0: three quarters of the upper threshold. Not
    /// above the upper threshold.
    pub lower_threshold: u32,
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

    /// With this forwarding method.
    #[must_use]
    pub const fn with_forwarding(self, forwarding: Forwarding) -> Self {
        Self { forwarding, ..self }
    }

    /// With this weight.
    #[must_use]
    pub const fn with_weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// With these connection thresholds.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Forwarding {
    /// The destination address (NAT) is rewritten, and back in the answer. ipvsadm's `-m`.
    Masquerade,
    /// The real server is this machine. The kernel treats a local address so by itself,
    /// whatever the method says.
    LocalNode,
    /// Wrapped in another packet; the only method to a server of the other address family.
    /// ipvsadm's `-i`.
    Tunnel(Tunnel),
    /// Direct routing: the frame is sent to the real server unchanged. ipvsadm's `-g`.
    DirectRouting,
    /// Past IPVS to the packet's own destination. The kernel's own; it cannot be asked for.
    Bypass,
    /// A method this crate does not know: 5 to 7.
    Other(u8),
}

/// How a tunnelled packet is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tunnel {
    /// IP in IP.
    Ipip,
    /// Generic UDP encapsulation. Linux 5.3; an older kernel ignores it and uses IP in IP.
    Gue {
        /// The UDP port; not 0.
        port: u16,
        /// How it is checksummed.
        checksum: TunnelChecksum,
    },
    /// Generic routing encapsulation. Linux 5.3; an older kernel ignores it and uses IP in IP.
    Gre {
        /// How it is checksummed.
        checksum: TunnelChecksum,
    },
    /// A type this crate does not know, or flags or a port it has no meaning for.
    Other {
        /// The type's number.
        kind: u8,
        /// The port.
        port: u16,
        /// The flags.
        flags: u16,
    },
}

/// Checksums of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TunnelChecksum {
    /// None.
    #[default]
    None,
    /// The tunnel's own.
    Full,
    /// Remote checksum offload: the inner checksum alone is computed. GUE only.
    Remote,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_small() {
        assert!(size_of::<RealServer>() <= 48, "{}", size_of::<RealServer>());
    }
}
