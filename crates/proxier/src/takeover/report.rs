//! The report of a removal.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipvs::VirtualServerKey;

use crate::mode::NodeError;
use crate::takeover::leftovers::DEVICE;

/// What a removal did.
#[derive(Debug, Default)]
#[non_exhaustive]
#[must_use = "something may be left"]
pub struct Removal {
    /// What was removed.
    pub removed: Removed,
    /// Chains and sets that other programs use, and that therefore stay; as text.
    pub in_use: BTreeSet<String>,
    /// Virtual servers that still have connections. Call again: they are removed when the
    /// connections have ended or the drain timeout is reached, and kube-proxy's device and sets
    /// with them.
    pub draining: Vec<VirtualServerKey>,
    /// Addresses of kube-proxy's device that are the source of the node's own connections. Call
    /// again: they stay as long as the connections.
    pub connected: Vec<IpAddr>,
    /// What could not be removed, and why.
    pub failures: Vec<NodeError>,
}

/// Numbers of kube-proxy's objects that were removed, or that there are. `Display` lists them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Tables of nftables mode.
    pub tables: usize,
    /// Chains of iptables-nft and iptables-legacy, in both families.
    pub chains: usize,
    /// Virtual servers.
    pub virtual_servers: usize,
    /// ipsets.
    pub sets: usize,
    /// Addresses of the device.
    pub addresses: usize,
    /// The device.
    pub devices: usize,
}

impl Removed {
    /// Whether nothing was removed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.tables, "nftables tables"),
            (self.chains, "iptables chains"),
            (self.virtual_servers, "virtual servers"),
            (self.sets, "ipsets"),
            (self.addresses, "addresses"),
            (self.devices, DEVICE),
        ];
        let some = counts.into_iter().filter(|(count, _)| *count > 0);
        for (place, (count, what)) in some.enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            match what {
                DEVICE => write!(f, "{separator}{what}")?,
                _ => write!(f, "{separator}{count} {what}")?,
            }
        }
        Ok(())
    }
}

impl Removal {
    /// Whether nothing is left to remove. What other programs use does not count.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty() && self.draining.is_empty() && self.connected.is_empty()
    }

    pub(super) fn took<T: Default>(&mut self, result: Result<T, NodeError>) -> T {
        result.unwrap_or_else(|error| {
            self.failures.push(error);
            T::default()
        })
    }
}
