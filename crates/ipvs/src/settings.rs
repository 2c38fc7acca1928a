//! Settings and facts of a network namespace's IPVS: timeouts, version.

use std::fmt;

use crate::{Invalid, UnknownAttribute};

/// How long connections without traffic are kept, as in `ipvsadm --set`.
///
/// In a reply, `None` is a protocol that the kernel was built without. In a request, `None` leaves
/// the value unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Timeouts {
    /// Established TCP connections, in seconds.
    #[cfg_attr(feature = "serde", serde(default))]
    pub tcp: Option<u32>,
    /// TCP connections after a FIN, in seconds.
    #[cfg_attr(feature = "serde", serde(default))]
    pub tcp_fin: Option<u32>,
    /// UDP, in seconds.
    #[cfg_attr(feature = "serde", serde(default))]
    pub udp: Option<u32>,
}

impl Timeouts {
    /// The longest timeout in seconds, 31 days, as in ipvsadm. Old kernels multiply it by their
    /// tick rate without checking for overflow.
    pub const MAX: u32 = crate::Persistence::MAX_TIMEOUT;

    /// Sets the timeout of established TCP connections.
    #[must_use]
    pub const fn with_tcp(self, seconds: u32) -> Self {
        Self {
            tcp: Some(seconds),
            ..self
        }
    }

    /// Sets the timeout of TCP connections after a FIN.
    #[must_use]
    pub const fn with_tcp_fin(self, seconds: u32) -> Self {
        Self {
            tcp_fin: Some(seconds),
            ..self
        }
    }

    /// Sets the timeout of UDP.
    #[must_use]
    pub const fn with_udp(self, seconds: u32) -> Self {
        Self {
            udp: Some(seconds),
            ..self
        }
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        // 0 leaves the value unchanged in the kernel, which is not what a caller means.
        let valid = |seconds: Option<u32>| seconds.is_none_or(|s| (1..=Self::MAX).contains(&s));
        let all = [self.tcp, self.tcp_fin, self.udp].into_iter().all(valid);
        if all { Ok(()) } else { Err(Invalid::Timeout) }
    }
}

/// The timeouts that the kernel reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TimeoutsEntry {
    /// The timeouts.
    pub timeouts: Timeouts,
    /// Attributes that this crate does not know.
    #[cfg_attr(feature = "serde", serde(default))]
    pub unknown: Vec<UnknownAttribute>,
}

impl From<Timeouts> for TimeoutsEntry {
    fn from(timeouts: Timeouts) -> Self {
        Self {
            timeouts,
            unknown: Vec::new(),
        }
    }
}

/// The kernel's IPVS.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Info {
    /// The version; 1.2.1 in every kernel since 2.6.
    pub version: Version,
    /// The number of buckets of the connection hash table.
    pub connection_table_size: u32,
    /// Attributes that this crate does not know.
    #[cfg_attr(feature = "serde", serde(default))]
    pub unknown: Vec<UnknownAttribute>,
}

impl Info {
    /// The version and the number of buckets of the connection hash table.
    pub const fn new(version: Version, connection_table_size: u32) -> Self {
        Self {
            version,
            connection_table_size,
            unknown: Vec::new(),
        }
    }
}

/// An IPVS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
