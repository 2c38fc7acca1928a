//! Settings and facts of the whole table: timeouts, version.

use std::fmt;

use crate::Invalid;

/// How long connections without traffic are remembered: what `ipvsadm --set` sets.
///
/// Read, `None` is a protocol the kernel was built without. Set, `None` leaves the value as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Timeouts {
    /// Established TCP connections, in seconds.
    pub tcp: Option<u32>,
    /// TCP connections after a FIN, in seconds.
    pub tcp_fin: Option<u32>,
    /// UDP, in seconds.
    pub udp: Option<u32>,
}

impl Timeouts {
    /// The longest timeout in seconds, 31 days, as in ipvsadm: old kernels multiply by their
    /// clock rate without a check.
    pub const MAX: u32 = crate::Persistence::MAX_TIMEOUT;

    /// With this timeout of established TCP connections.
    #[must_use]
    pub const fn with_tcp(self, seconds: u32) -> Self {
        Self {
            tcp: Some(seconds),
            ..self
        }
    }

    /// With this timeout of TCP connections after a FIN.
    #[must_use]
    pub const fn with_tcp_fin(self, seconds: u32) -> Self {
        Self {
            tcp_fin: Some(seconds),
            ..self
        }
    }

    /// With this timeout of UDP.
    #[must_use]
    pub const fn with_udp(self, seconds: u32) -> Self {
        Self {
            udp: Some(seconds),
            ..self
        }
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        // The kernel takes 0 for "leave it": not what was asked for.
        let valid = |seconds: Option<u32>| seconds.is_none_or(|s| (1..=Self::MAX).contains(&s));
        let all = [self.tcp, self.tcp_fin, self.udp].into_iter().all(valid);
        if all { Ok(()) } else { Err(Invalid::Timeout) }
    }
}

/// The kernel's IPVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// The version; 1.2.1 in every kernel since 2.6.
    pub version: Version,
    /// The size of the connection hash table.
    pub connection_table_size: u32,
}

/// An IPVS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
    /// Patch.
    pub patch: u8,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}
