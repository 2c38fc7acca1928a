//! IPVS mode: executes a [`Plan`], and reads the state of a node.
//!
//! A [`Kernel`] makes no choices: it executes the steps of a plan and reports the result of each.

mod data_plane;
pub(crate) mod drain;
#[cfg(any(feature = "testing", test))]
mod fake;
pub(crate) mod glance;
#[cfg(feature = "ipvs")]
pub(crate) mod kernel;
mod owed;
pub mod plan;
#[cfg(feature = "ipvs")]
mod probe;
mod retire;
pub mod rules;
#[cfg(any(feature = "ipvs", feature = "testing", test))]
pub(crate) mod shared;
pub(crate) mod trace;

pub use data_plane::Ipvs;
#[cfg(feature = "userspace")]
pub(crate) use data_plane::obstacle_notice;
#[cfg(any(feature = "testing", test))]
pub use fake::{FakeIpvs, FakeNode};
pub use glance::Glance;
#[cfg(feature = "ipvs")]
pub use kernel::{IpvsKernel, IpvsRemains, ROUTE_PROTOCOL, Watching, watch};
#[cfg(feature = "ipvs")]
pub use probe::{is_loaded, probe};
pub use retire::{
    Cleanup, Removal, Replacement, Retiring, cleanup, hand_over, own_virtual_servers, removal,
};
pub use trace::trace;

use std::collections::HashMap;

use ipvs::{RealServer, RealServerKey, Statistics, VirtualServerKey};

use crate::mode::ipvs::plan::{NodeState, Plan};
use crate::mode::{ApplyReport, NodeError};

/// The kernel, or a fake of it. Every call is complete when it returns.
pub trait Kernel {
    /// Reads the state of the node without real servers, whose lists are empty. It includes virtual
    /// servers of other programs; [`NodeState::retain_owned`] removes them.
    ///
    /// # Errors
    ///
    /// If some part cannot be read.
    fn outline(&mut self) -> Result<NodeState, NodeError>;

    /// The real servers of a virtual server, sorted by key. `None` if there is no such virtual
    /// server.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    fn real_servers(
        &mut self,
        virtual_server: &VirtualServerKey,
    ) -> Result<Option<Vec<RealServer>>, NodeError>;

    /// Reads the state of the node: [`outline`](Self::outline) with the real servers.
    ///
    /// # Errors
    ///
    /// As [`outline`](Self::outline) and [`real_servers`](Self::real_servers).
    fn observe(&mut self) -> Result<NodeState, NodeError> {
        let mut node = self.outline()?;
        let keys: Vec<_> = node.virtual_servers.keys().copied().collect();
        self.read_real_servers(&mut node, &keys)?;
        Ok(node)
    }

    /// Updates the known state with the current real servers of these virtual servers. Returns the
    /// virtual servers that differed. Removes virtual servers that no longer exist.
    ///
    /// # Errors
    ///
    /// If some cannot be read; those before it are updated.
    fn read_real_servers(
        &mut self,
        node: &mut NodeState,
        keys: &[VirtualServerKey],
    ) -> Result<Vec<VirtualServerKey>, NodeError> {
        let mut changed = Vec::new();
        for key in keys {
            if !node.virtual_servers.contains_key(key) {
                continue;
            }
            let there = self.real_servers(key)?;
            if node.update_real_servers(key, there) {
                changed.push(*key);
            }
        }
        Ok(changed)
    }

    /// Looks at the real servers of all virtual servers, part by part, if that is cheaper than to
    /// list them: finds those that look as known, except for what the look does not show. With
    /// `begins`, it starts over. `None` if there is no such look; then, and for all virtual servers
    /// that are not found until it ends, [`read_real_servers`](Self::read_real_servers) is necessary.
    fn glance(&mut self, _known: &NodeState, _begins: bool) -> Option<Glance> {
        None
    }

    /// Executes a plan in order. After a failed step, later steps for the same virtual server in
    /// other parts of the node are skipped; all others are executed.
    fn apply(&mut self, plan: &Plan) -> ApplyReport;

    /// The number of connections of each real server of a virtual server, in any state. None if the
    /// virtual server does not exist.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    fn connections(
        &mut self,
        virtual_server: &VirtualServerKey,
    ) -> Result<HashMap<RealServerKey, u64>, NodeError>;

    /// The counters of each virtual server. Empty for one that does not count.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn statistics(&mut self) -> Result<Vec<(VirtualServerKey, Statistics)>, NodeError> {
        Ok(Vec::new())
    }

    /// Removes the nftables table with rules and sets, if it exists.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    fn remove_ruleset(&mut self) -> Result<(), NodeError>;
}
