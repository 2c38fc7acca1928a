//! `svcproxy cleanup`.

use ipvs::ErrorKind;
use proxier::backend::{self, BackendError, IptablesBackend, IpvsBackend};

use super::log_failures;
use crate::Ending;

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
    let mut ipvs = match IpvsBackend::open() {
        Err(BackendError::Ipvs(error)) if *error.kind() == ErrorKind::Unsupported => {
            tracing::info!("this kernel has no IPVS, and so nothing of svcproxy's there");
            return Ok(Ending::Done);
        }
        opened => opened?,
    };
    let cleanup = backend::cleanup(&mut ipvs)?;
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
