//! The daemons that copy connections to a stand-by director.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::{Invalid, Name, ParseError};

/// Which way a sync daemon copies connections. A machine may run one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SyncRole {
    /// Sends its connections.
    Master,
    /// Receives them.
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

/// A sync daemon: what `ipvsadm --start-daemon` sets. `None` is the kernel's default.
///
/// The kernel knows length, group, port and TTL from Linux 4.3 and ignores them before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SyncDaemon {
    /// Master or backup.
    pub role: SyncRole,
    /// The interface of the multicast group.
    pub interface: InterfaceName,
    /// 0 to 255. A backup takes the messages of its own id, or all if it is 0.
    pub sync_id: u32,
    /// The longest message in bytes. Default: the interface's MTU, at most 1472 in an IPv4 group.
    pub max_length: Option<u16>,
    /// The multicast group. Default 224.0.0.81.
    pub group: Option<IpAddr>,
    /// The first UDP port. Default 8848.
    pub port: Option<u16>,
    /// The TTL, or hop limit. Default 1.
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

    /// With messages of at most this many bytes.
    #[must_use]
    pub const fn with_max_length(self, bytes: u16) -> Self {
        Self {
            max_length: Some(bytes),
            ..self
        }
    }

    /// With this multicast group and first UDP port.
    #[must_use]
    pub const fn with_group(self, group: IpAddr, port: u16) -> Self {
        Self {
            group: Some(group),
            port: Some(port),
            ..self
        }
    }

    /// With this TTL.
    #[must_use]
    pub const fn with_ttl(self, ttl: u8) -> Self {
        Self {
            ttl: Some(ttl),
            ..self
        }
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if self.sync_id > 255 {
            Err(Invalid::SyncId)
        } else {
            Ok(())
        }
    }
}

/// The name of a network interface: 1 to 15 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(Name<15>);

impl InterfaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for InterfaceName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Name::new("interface name", text).map(Self)
    }
}
