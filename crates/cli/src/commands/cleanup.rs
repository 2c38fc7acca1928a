//! `svcproxy cleanup`.

use std::thread;
use std::time::{Duration, Instant};

use proxier::mode::BackendError;
use proxier::mode::iptables::IptablesBackend;
use proxier::mode::ipvs;
use proxier::mode::ipvs::{Backend, Cleanup, Replacement, Retiring};
use proxier::takeover::{KubeProxy, Presence};

use super::log_failures;
use crate::Ending;
use crate::args::LockArgs;
use crate::lock::WriterLock;
use crate::passage;
use crate::takeover::other_mode::ipvs_mode;

/// How often to check whether connections have ended.
const PAUSE: Duration = Duration::from_millis(500);

/// Removes what svcproxy created on this node, in either mode. If kube-proxy runs there, waits for
/// at most `drain_timeout` until connections have ended.
pub(crate) fn cleanup(lock: &LockArgs, drain_timeout: Duration) -> anyhow::Result<Ending> {
    let _lock = WriterLock::take(lock.wait_lock)?;
    let ending = of_ipvs(drain_timeout)?;
    let chains = IptablesBackend::remove_all()? + passage::remove()?;
    if chains > 0 {
        tracing::info!(chains, "removed svcproxy's iptables chains");
    }
    Ok(ending)
}

fn of_ipvs(drain_timeout: Duration) -> anyhow::Result<Ending> {
    let mut ipvs = ipvs_mode()?;
    let cleanup = match KubeProxy::open()?.presence()? {
        Presence::Servers(servers) => {
            tracing::info!("kube-proxy is running on this node: keeping its virtual servers");
            let has = |key: &_| servers.has(key);
            retire(&mut *ipvs, Replacement::Ipvs(&has), drain_timeout)?
        }
        Presence::Rules => {
            tracing::info!("kube-proxy is running on this node: waiting for connections to end");
            retire(&mut *ipvs, Replacement::Rules, drain_timeout)?
        }
        _ => ipvs::cleanup(&mut *ipvs)?,
    };
    log_failures(&cleanup.plan, &cleanup.applied);
    let failed = cleanup.applied.failures.len();
    if failed > 0 {
        tracing::error!(failed, "not everything could be removed; try again");
        return Ok(Ending::Failed);
    }
    tracing::info!(
        removed = cleanup.plan.steps().len(),
        "removed svcproxy's state"
    );
    Ok(Ending::Done)
}

/// Waits for the end of connections, and removes what is left.
fn retire(
    ipvs: &mut dyn Backend,
    replacement: Replacement<'_>,
    drain_timeout: Duration,
) -> Result<Cleanup, BackendError> {
    let (mut retiring, mut cleanup) =
        Retiring::begin(ipvs, replacement, drain_timeout, Instant::now())?;
    loop {
        if let Some(rest) = retiring.finish(ipvs, Instant::now())? {
            cleanup.append(rest);
            return Ok(cleanup);
        }
        thread::sleep(PAUSE);
    }
}
