//! What became of a removal.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipvs::VirtualServerKey;

use crate::mode::BackendError;
use crate::takeover::leftovers::DEVICE;

/// What a removal did.
#[derive(Debug, Default)]
#[non_exhaustive]
#[must_use = "something may be left"]
pub struct Removal {
    /// What is gone.
    pub removed: Removed,
    /// What others use, and so stays: chains and sets, in words.
    pub in_use: BTreeSet<String>,
    /// Virtual servers that still carry connections. They go when those have ended, or their time
    /// is up, and kube-proxy's device and sets with them: call again.
    pub draining: Vec<VirtualServerKey>,
    /// Addresses of kube-proxy's device that connections of the node itself have for their own.
    /// They stay as long as those do: call again.
    pub connected: Vec<IpAddr>,
    /// What could not be removed, and why.
    pub failures: Vec<BackendError>,
}

/// How much of kube-proxy's is gone. `Display` is a list of what there was.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Tables of its nftables mode.
    pub tables: usize,
    /// Chains of both iptables, of both families.
    pub chains: usize,
    /// Virtual servers.
    pub virtual_servers: usize,
    /// ipsets.
    pub sets: usize,
    /// Addresses of its device.
    pub addresses: usize,
    /// Its device.
    pub devices: usize,
}

impl Removed {
    /// Whether there was nothing.
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
    /// Whether nothing of kube-proxy's is left that is to be removed: what others use is not.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty() && self.draining.is_empty() && self.connected.is_empty()
    }

    pub(super) fn took<T: Default>(&mut self, result: Result<T, BackendError>) -> T {
        result.unwrap_or_else(|error| {
            self.failures.push(error);
            T::default()
        })
    }
}
