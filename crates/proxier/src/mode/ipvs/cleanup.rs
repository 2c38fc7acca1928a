//! Removes everything that svcproxy owns.

use std::iter;

use ipvs::VirtualServerKey;

use super::Backend;
use super::retire::Busy;
use crate::mode::ipvs::plan::Plan;
use crate::mode::{ApplyReport, BackendError};

/// The report of a [`cleanup`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Cleanup {
    /// The planned removal of virtual servers and routes.
    pub plan: Plan,
    /// The results of its steps.
    pub applied: ApplyReport,
}

/// Removes everything that a backend created: the virtual servers that the nftables sets record,
/// the routes with svcproxy's protocol number, and then the rules with their sets.
///
/// If a step fails, the rules and sets stay, because they record the ownership: call cleanup again.
///
/// # Errors
///
/// If the node cannot be read, or the rules cannot be removed.
pub fn cleanup<B: Backend + ?Sized>(backend: &mut B) -> Result<Cleanup, BackendError> {
    let mut node = backend.outline()?;
    node.retain_recorded_and(iter::empty());
    let plan = Plan::removal(&node);
    let applied = backend.apply(&plan);
    if applied.failures.is_empty() {
        backend.remove_ruleset()?;
    }
    Ok(Cleanup { plan, applied })
}

/// The kind of proxy that is in effect now.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Heir<'a> {
    /// A proxy whose rules translate addresses before svcproxy sees a packet.
    Rules,
    /// A proxy over IPVS that has taken over these virtual servers, and has made their addresses
    /// local.
    Ipvs(&'a dyn Fn(&VirtualServerKey) -> bool),
}

/// Removes everything that a backend created, on a node where another proxy is already in effect.
/// The virtual servers that it has taken over stay. The others get no new connections, and drain:
/// `wait` is called until all connections have ended, or until it returns false.
///
/// # Errors
///
/// If the node cannot be read, or the rules cannot be removed.
pub fn hand_over<B: Backend + ?Sized>(
    backend: &mut B,
    heir: Heir<'_>,
    mut wait: impl FnMut() -> bool,
) -> Result<Cleanup, BackendError> {
    let mut node = backend.outline()?;
    node.retain_recorded_and(iter::empty());
    let mut plan = Plan::default();
    let mut applied = ApplyReport::default();
    if let Heir::Ipvs(has) = heir {
        node.virtual_servers.retain(|key, _| !has(key));
        // While svcproxy's rules mark packets, the other proxy's virtual servers do not see them.
        let mut ways = node.clone();
        ways.virtual_servers.clear();
        plan = Plan::removal(&ways);
        applied = backend.apply(&plan);
        backend.remove_ruleset()?;
        node.routes.clear();
        node.policy_routes.clear();
    }
    let mut busy = Busy::of(&node);
    while busy.is_left(backend)? && wait() {}
    let rest = Plan::removal(&node);
    applied.append(backend.apply(&rest), plan.steps().len());
    plan.append(rest);
    if matches!(heir, Heir::Rules) && applied.failures.is_empty() {
        backend.remove_ruleset()?;
    }
    Ok(Cleanup { plan, applied })
}
