//! Carrying a [`Plan`] out, and reading back what a node has.
//!
//! A backend makes no choices: it takes the plan's steps and tells what became of each.

#[cfg(any(feature = "ipvs", feature = "testing", test))]
mod carry_out;
mod cleanup;
mod data_plane;
mod drain;
#[cfg(any(feature = "testing", test))]
mod fake;
#[cfg(feature = "ipvs")]
pub(crate) mod kernel;
mod owed;
pub mod plan;
#[cfg(feature = "ipvs")]
mod probe;
mod retire;
pub mod rules;
#[cfg(any(feature = "ipvs", feature = "testing", test))]
pub(crate) mod virtual_servers;

pub use cleanup::{Cleanup, Heir, cleanup, hand_over};
pub use data_plane::Ipvs;
#[cfg(any(feature = "testing", test))]
pub use fake::{FakeBackend, FakeNode};
#[cfg(feature = "ipvs")]
pub use kernel::{IpvsBackend, IpvsRemains, ROUTE_PROTOCOL, Watching, watch};
#[cfg(feature = "ipvs")]
pub use probe::{is_loaded, probe};
pub use retire::Retiring;

use std::collections::HashMap;

use ipvs::{RealServer, RealServerKey, Statistics, VirtualServerKey};

use crate::mode::ipvs::plan::{NodeState, Plan};
use crate::mode::{ApplyReport, BackendError};

/// A data plane of this node. Every call is carried out before it returns.
pub trait Backend {
    /// Reads what the node has, but for the real servers of its virtual servers, whose lists stay
    /// empty. Virtual servers include those of others: [`NodeState::retain_ours`] leaves them out.
    ///
    /// # Errors
    ///
    /// If some part cannot be read. Nothing is changed by then.
    fn outline(&mut self) -> Result<NodeState, BackendError>;

    /// The real servers of a virtual server, sorted by key. `None` if there is no such virtual
    /// server.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    fn real_servers(
        &mut self,
        virtual_server: &VirtualServerKey,
    ) -> Result<Option<Vec<RealServer>>, BackendError>;

    /// Reads what the node has: [`outline`](Self::outline), with the real servers.
    ///
    /// # Errors
    ///
    /// As those of its parts.
    fn observe(&mut self) -> Result<NodeState, BackendError> {
        let mut node = self.outline()?;
        let keys: Vec<_> = node.virtual_servers.keys().copied().collect();
        self.read_real_servers(&mut node, &keys)?;
        Ok(node)
    }

    /// Takes into what is known of a node what its kernel has now of these virtual servers' real
    /// servers; which of them that changed. A virtual server that is gone is left out from then on.
    ///
    /// # Errors
    ///
    /// If some cannot be read. Those before it are taken in.
    fn read_real_servers(
        &mut self,
        node: &mut NodeState,
        keys: &[VirtualServerKey],
    ) -> Result<Vec<VirtualServerKey>, BackendError> {
        let mut changed = Vec::new();
        for key in keys {
            let Some(state) = node.virtual_servers.get_mut(key) else {
                continue;
            };
            match self.real_servers(key)? {
                Some(real_servers) if real_servers == state.real_servers => continue,
                Some(real_servers) => state.real_servers = real_servers,
                None => _ = node.virtual_servers.remove(key),
            }
            changed.push(*key);
        }
        Ok(changed)
    }

    /// Carries out a plan in its order. A step that fails does not keep the others from being
    /// taken, but for later ones for the same virtual server in another part of the node.
    fn apply(&mut self, plan: &Plan) -> ApplyReport;

    /// How many connections each real server of a virtual server has, whatever their state. None
    /// if the virtual server is gone.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    fn connections(
        &mut self,
        virtual_server: &VirtualServerKey,
    ) -> Result<HashMap<RealServerKey, u64>, BackendError>;

    /// What each virtual server has carried. A backend that does not count says nothing.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn statistics(&mut self) -> Result<Vec<(VirtualServerKey, Statistics)>, BackendError> {
        Ok(Vec::new())
    }

    /// Removes the packet-filter rules with their sets, if there are any.
    ///
    /// # Errors
    ///
    /// If they cannot be removed.
    fn remove_ruleset(&mut self) -> Result<(), BackendError>;
}
