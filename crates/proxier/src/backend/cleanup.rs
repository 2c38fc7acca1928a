//! Removing all that is ours.

use std::iter;

use super::{ApplyReport, Backend, BackendError};
use crate::plan::Plan;

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
    let mut node = backend.observe()?;
    node.retain_recorded_and(iter::empty());
    let plan = Plan::removal(&node);
    let applied = backend.apply(&plan);
    if applied.failures.is_empty() {
        backend.remove_ruleset()?;
    }
    Ok(Cleanup { plan, applied })
}
