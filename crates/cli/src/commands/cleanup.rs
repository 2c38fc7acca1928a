//! `svcproxy cleanup`.

use proxier::backend::{self, IpvsBackend};

use super::log_failures;
use crate::Ending;

/// Removes what svcproxy made on this node.
pub(crate) fn cleanup() -> anyhow::Result<Ending> {
    let cleanup = backend::cleanup(&mut IpvsBackend::open()?)?;
    log_failures(&cleanup.plan, &cleanup.applied);
    let failed = cleanup.applied.failures.len();
    if failed > 0 {
        tracing::error!(failed, "not everything could be removed; try again");
        return Ok(Ending::Failed);
    }
    tracing::info!(
        removed = cleanup.plan.steps().len(),
        "removed what svcproxy made"
    );
    Ok(Ending::Done)
}
