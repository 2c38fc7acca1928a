//! Removing all that is ours.

use std::iter;

use ipvs::VirtualServerKey;

use super::Backend;
use super::retire::Busy;
use crate::mode::ipvs::plan::Plan;
use crate::mode::{ApplyReport, BackendError};

/// What a [`cleanup`] did.
#[derive(Debug)]
#[non_exhaustive]
pub struct Cleanup {
    /// The virtual servers and routes that were to be removed.
    pub plan: Plan,
    /// What became of them.
    pub applied: ApplyReport,
}

/// Removes everything a backend made: the virtual servers that the packet filter's sets record
/// as ours, the routes that carry our protocol number, and then the rules with their sets.
///
/// If a step fails the rules and sets stay, since they are the record of what is ours: cleanup
/// can be done again.
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

/// Who carries the traffic by now.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Heir<'a> {
    /// A proxy with rules that translate addresses before anything of ours sees a packet.
    Rules,
    /// A proxy over IPVS, which has taken over these virtual servers, and made their addresses
    /// local by itself.
    Ipvs(&'a dyn Fn(&VirtualServerKey) -> bool),
}

/// Removes everything a backend made on a node where another proxy carries the traffic already.
/// The virtual servers that it has taken over stay. The others take no new connections, and may
/// end those that they have: `wait` is called until they have, or until it answers that the time
/// is up.
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
        // As long as our rules mark packets, its own virtual servers do not see them.
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
