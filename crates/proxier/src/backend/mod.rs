//! Carrying a [`Plan`] out, and reading back what a node has.
//!
//! A backend makes no choices: it takes the plan's steps and tells what became of each.

#[cfg(any(feature = "ipvs", feature = "testing", test))]
mod carry_out;
mod cleanup;
#[cfg(any(feature = "ipvs", feature = "iptables"))]
pub(crate) mod conntrack;
mod error;
#[cfg(any(feature = "testing", test))]
mod fake;
#[cfg(feature = "iptables")]
pub(crate) mod iptables_backend;
#[cfg(feature = "ipvs")]
pub(crate) mod ipvs_backend;
#[cfg(all(feature = "ipvs", feature = "iptables"))]
mod kube_proxy;
#[cfg(any(feature = "ipvs", feature = "iptables"))]
mod nfnetlink;
mod report;
mod retire;
#[cfg(feature = "ipvs")]
mod rtnetlink;
#[cfg(any(feature = "ipvs", feature = "iptables"))]
pub(crate) mod sysctl;
#[cfg(any(feature = "ipvs", feature = "testing", test))]
mod virtual_servers;

pub use cleanup::{Cleanup, Heir, cleanup, hand_over};
pub use error::BackendError;
#[cfg(any(feature = "testing", test))]
pub use fake::{FakeBackend, FakeNode};
#[cfg(feature = "iptables")]
pub use iptables_backend::{Flavour, IptablesBackend, Refusal};
#[cfg(feature = "ipvs")]
pub use ipvs_backend::{IpvsBackend, IpvsRemains, ROUTE_PROTOCOL};
#[cfg(all(feature = "ipvs", feature = "iptables"))]
pub use kube_proxy::{KubeProxy, Presence, Removal, Removed, Servers, Successor};
pub use report::{ApplyReport, Counts, Failure, Reconciled, Refused};
pub use retire::Retiring;

use std::collections::HashMap;

use ipvs::{RealServerKey, Statistics, VirtualServerKey};

use crate::plan::{NodeState, Plan};

/// A data plane of this node. Every call is carried out before it returns.
pub trait Backend {
    /// Reads what the node has. Virtual servers include those of others:
    /// [`NodeState::retain_ours`] leaves them out.
    ///
    /// # Errors
    ///
    /// If some part cannot be read. Nothing is changed by then.
    fn observe(&mut self) -> Result<NodeState, BackendError>;

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
