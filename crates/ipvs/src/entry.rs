//! Servers as the kernel reports them: configuration, connections, statistics.

use crate::{RealServer, VirtualServer};

/// A virtual server as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VirtualServerEntry {
    /// Its configuration.
    pub server: VirtualServer,
    /// Its traffic; `None` only in messages without statistics, such as requests.
    pub stats: Option<Statistics>,
    /// Attributes that this crate does not know.
    #[cfg_attr(feature = "serde", serde(default))]
    pub unknown: Vec<UnknownAttribute>,
    /// Counters that this crate does not know, by their attribute number within the statistics.
    #[cfg_attr(feature = "serde", serde(default))]
    pub unknown_counters: Vec<UnknownAttribute>,
}

impl From<VirtualServer> for VirtualServerEntry {
    fn from(server: VirtualServer) -> Self {
        Self {
            server,
            stats: None,
            unknown: Vec::new(),
            unknown_counters: Vec::new(),
        }
    }
}

/// A real server as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RealServerEntry {
    /// Its configuration.
    pub server: RealServer,
    /// Its current connections; `None` only in messages without them, such as requests.
    pub connections: Option<Connections>,
    /// Its traffic; `None` only in messages without statistics, such as requests.
    pub stats: Option<Statistics>,
    /// Attributes that this crate does not know.
    #[cfg_attr(feature = "serde", serde(default))]
    pub unknown: Vec<UnknownAttribute>,
    /// Counters that this crate does not know, by their attribute number within the statistics.
    #[cfg_attr(feature = "serde", serde(default))]
    pub unknown_counters: Vec<UnknownAttribute>,
}

impl From<RealServer> for RealServerEntry {
    fn from(server: RealServer) -> Self {
        Self {
            server,
            connections: None,
            stats: None,
            unknown: Vec::new(),
            unknown_counters: Vec::new(),
        }
    }
}

/// The current connections of a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Connections {
    /// Established TCP and SCTP connections.
    pub active: u32,
    /// All others in the connection table: UDP, and those being set up or closed.
    pub inactive: u32,
    /// Persistence templates: clients bound to this real server.
    pub persistent: u32,
}

/// Counters since the server was added or its statistics were zeroed, and current rates.
///
/// The kernel sums them up every 2 s, so they lag by that much. They have 64 bits from Linux 4.1;
/// before, all but the byte counters wrap at 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Statistics {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub incoming_packets: u64,
    /// Packets to clients. Masquerade only: other replies do not pass this machine.
    pub outgoing_packets: u64,
    /// Bytes from clients.
    pub incoming_bytes: u64,
    /// Bytes to clients; see `outgoing_packets`.
    pub outgoing_bytes: u64,
    /// Averages over the last few seconds.
    pub rates: Rates,
}

/// Current rates, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
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

/// An attribute of a newer kernel, as received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct UnknownAttribute {
    /// The attribute's number, without its flag bits.
    pub kind: u16,
    /// Its bytes.
    pub value: Vec<u8>,
}

impl UnknownAttribute {
    /// An attribute with this number.
    pub const fn new(kind: u16, value: Vec<u8>) -> Self {
        Self { kind, value }
    }
}

impl Connections {
    /// Connections by state.
    pub const fn new(active: u32, inactive: u32, persistent: u32) -> Self {
        Self {
            active,
            inactive,
            persistent,
        }
    }
}
