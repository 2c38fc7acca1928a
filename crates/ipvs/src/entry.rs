//! What the kernel says of the servers it has: configuration, connections, statistics.

use crate::{RealServer, VirtualServer};

/// A virtual server in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VirtualServerEntry {
    /// Its configuration.
    pub server: VirtualServer,
    /// What it has carried; `None` only where a message carries none, as in a request.
    pub stats: Option<Statistics>,
    /// What the kernel says and this crate does not know.
    pub unknown: Vec<UnknownAttribute>,
}

impl From<VirtualServer> for VirtualServerEntry {
    fn from(server: VirtualServer) -> Self {
        Self {
            server,
            stats: None,
            unknown: Vec::new(),
        }
    }
}

/// A real server in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RealServerEntry {
    /// Its configuration.
    pub server: RealServer,
    /// Its connections now; `None` only where a message carries none, as in a request.
    pub connections: Option<Connections>,
    /// What it has carried; `None` only where a message carries none, as in a request.
    pub stats: Option<Statistics>,
    /// What the kernel says and this crate does not know.
    pub unknown: Vec<UnknownAttribute>,
}

impl From<RealServer> for RealServerEntry {
    fn from(server: RealServer) -> Self {
        Self {
            server,
            connections: None,
            stats: None,
            unknown: Vec::new(),
        }
    }
}

/// The connections of a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Established (TCP), or seen of late (UDP).
    pub active: u32,
    /// All others that the kernel still remembers.
    pub inactive: u32,
    /// Clients that persistence keeps with this real server.
    pub persistent: u32,
}

/// Counters since the server was made or they were last set to zero, and current rates.
///
/// The kernel sums them up every 2 s: they are as much behind.
///
/// 64 bits wide from Linux 4.1; before it all but the byte counts wrap at 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub incoming_packets: u64,
    /// Packets to clients; those of masquerade only, others do not pass here.
    pub outgoing_packets: u64,
    /// Bytes from clients.
    pub incoming_bytes: u64,
    /// Bytes to clients; see `outgoing_packets`.
    pub outgoing_bytes: u64,
    /// Averages over the last seconds.
    pub rates: Rates,
}

/// Current rates, in units a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub incoming_packets: u64,
    /// Packets to clients.
    pub outgoing_packets: u64,
    /// Bytes from clients.
    pub incoming_bytes: u64,
    /// Bytes to clients.
    pub outgoing_bytes: u64,
}

/// An attribute of a newer kernel, kept as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownAttribute {
    /// The attribute's number, without its flag bits.
    pub kind: u16,
    /// Its bytes.
    pub value: Vec<u8>,
}
