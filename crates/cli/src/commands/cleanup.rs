//! `svcproxy cleanup`.

use proxier::backend::{self, IptablesBackend};

use super::log_failures;
use crate::Ending;
use crate::other_mode::ipvs_mode;

/// Removes what svcproxy made on this node, in either mode.
pub(crate) fn cleanup() -> anyhow::Result<Ending> {
    let ending = of_ipvs()?;
    let chains = IptablesBackend::remove_all()?;
    if chains > 0 {
        tracing::info!(chains, "removed what svcproxy made in iptables");
    }
    Ok(ending)
}

fn of_ipvs() -> anyhow::Result<Ending> {
    let cleanup = backend::cleanup(&mut *ipvs_mode()?)?;
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
