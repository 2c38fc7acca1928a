//! Sync daemons, which copy connections to a standby director.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crate::{Invalid, Name, ParseError, UnknownAttribute};

/// The direction in which a sync daemon copies connections. A namespace can run one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SyncRole {
    /// Sends connections.
    Master,
    /// Receives connections.
    Backup,
}

/// `master` or `backup`.
impl fmt::Display for SyncRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Backup => "backup",
        })
    }
}

impl FromStr for SyncRole {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "master" => Ok(Self::Master),
            "backup" => Ok(Self::Backup),
            _ => Err(ParseError::new("sync daemon role", text)),
        }
    }
}

/// The configuration of a sync daemon, as in `ipvsadm --start-daemon`. `None` is the kernel's
/// default.
///
/// Linux before 4.3 ignores length, group, port and TTL. The kernel replaces values that it does
/// not accept and reports what it uses, see [`is_met_by`](Self::is_met_by).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct SyncDaemon {
    /// Master or backup.
    pub role: SyncRole,
    /// The interface of the multicast group.
    pub interface: InterfaceName,
    /// 0 to 255. A backup accepts messages with its own id, or all messages if it is 0.
    #[cfg_attr(feature = "serde", serde(default))]
    pub sync_id: u32,
    /// The longest message in bytes. Default for a master: 1500 less the headers; for a backup:
    /// the interface's MTU, at least 1500, less the headers. A backup's is raised to 1024.
    #[cfg_attr(feature = "serde", serde(default))]
    pub max_length: Option<u16>,
    /// The multicast group. Default 224.0.0.81.
    #[cfg_attr(feature = "serde", serde(default))]
    pub group: Option<IpAddr>,
    /// The first UDP port. Default, also for 0: 8848.
    #[cfg_attr(feature = "serde", serde(default))]
    pub port: Option<u16>,
    /// The TTL or hop limit. Default, also for 0: 1.
    #[cfg_attr(feature = "serde", serde(default))]
    pub ttl: Option<u8>,
}

impl SyncDaemon {
    /// A daemon with the kernel's defaults.
    pub const fn new(role: SyncRole, interface: InterfaceName, sync_id: u32) -> Self {
        let (max_length, group, port, ttl) = (None, None, None, None);
        Self {
            role,
            interface,
            sync_id,
            max_length,
            group,
            port,
            ttl,
        }
    }

    /// Sets the longest message in bytes.
    #[must_use]
    pub const fn with_max_length(self, bytes: u16) -> Self {
        Self {
            max_length: Some(bytes),
            ..self
        }
    }

    /// Sets the multicast group and the first UDP port.
    #[must_use]
    pub const fn with_group(self, group: IpAddr, port: u16) -> Self {
        Self {
            group: Some(group),
            port: Some(port),
            ..self
        }
    }

    /// Sets the TTL or hop limit.
    #[must_use]
    pub const fn with_ttl(self, ttl: u8) -> Self {
        Self {
            ttl: Some(ttl),
            ..self
        }
    }

    /// The configuration that the kernel uses for this one: `start_sync_thread` in
    /// `ip_vs_sync.c`. A backup's default length stays `None`, since it depends on the interface.
    pub(crate) fn in_effect(self) -> Self {
        let group = self
            .group
            .unwrap_or(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81)));
        let headers = if group.is_ipv4() { 28 } else { 48 };
        let (least, default) = match self.role {
            SyncRole::Master => (1, Some(1500 - headers)),
            SyncRole::Backup => (1024, None),
        };
        let given = self.max_length.filter(|&bytes| bytes != 0);
        Self {
            max_length: given
                .map(|bytes| bytes.clamp(least, u16::MAX - headers))
                .or(default),
            group: Some(group),
            port: Some(self.port.filter(|&port| port != 0).unwrap_or(8848)),
            ttl: Some(self.ttl.filter(|&ttl| ttl != 0).unwrap_or(1)),
            ..self
        }
    }

    /// Whether a daemon that the kernel reports is the result of this configuration.
    ///
    /// ```
    /// use ipvs::{SyncDaemon, SyncRole};
    ///
    /// let wanted = SyncDaemon::new(SyncRole::Master, "eth0".parse()?, 7);
    /// let reported = wanted
    ///     .with_max_length(1472)
    ///     .with_group([224, 0, 0, 81].into(), 8848)
    ///     .with_ttl(1);
    /// assert!(wanted != reported && wanted.is_met_by(&reported));
    /// # Ok::<(), ipvs::ParseError>(())
    /// ```
    pub fn is_met_by(&self, reported: &Self) -> bool {
        let wanted = self.in_effect();
        Self {
            max_length: wanted.max_length.or(reported.max_length),
            ..wanted
        } == *reported
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if self.sync_id > 255 {
            Err(Invalid::SyncId)
        } else {
            Ok(())
        }
    }
}

/// A running sync daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SyncDaemonEntry {
    /// The configuration in effect, in which the kernel reports every value.
    pub daemon: SyncDaemon,
    /// Attributes that this crate does not know.
    #[cfg_attr(feature = "serde", serde(default))]
    pub unknown: Vec<UnknownAttribute>,
}

impl From<SyncDaemon> for SyncDaemonEntry {
    fn from(daemon: SyncDaemon) -> Self {
        Self {
            daemon,
            unknown: Vec::new(),
        }
    }
}

/// The name of a network interface: 1 to 15 bytes, which need not be UTF-8.
///
/// ```
/// use ipvs::InterfaceName;
///
/// let name = InterfaceName::from_bytes(b"eth\xff").expect("a name");
/// assert_eq!(name.to_string(), r"eth\xff");
/// assert_eq!(r"eth\xff".parse(), Ok(name));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(Name<15>);

impl InterfaceName {
    /// The name with these bytes; `None` if there are none, more than 15, or a NUL.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Name::from_bytes(bytes).map(Self)
    }

    /// The bytes, without a NUL.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Bytes that are no printable UTF-8, spaces, slashes and backslashes are written as `\xNN`.
impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Parses what [`Display`](fmt::Display) writes.
impl FromStr for InterfaceName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Name::new("interface name", text).map(Self)
    }
}
