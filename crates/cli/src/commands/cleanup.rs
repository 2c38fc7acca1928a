//! `svcproxy cleanup`.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use ipvs::VirtualServerKey;
use proxier::mode::BackendError;
use proxier::mode::iptables::IptablesBackend;
use proxier::mode::ipvs::{self as ipvs_mode, Backend, Cleanup, Replacement, Retiring};
use proxier::takeover::{FirstSync, KubeProxy, Presence};

use super::log_failures;
use crate::Ending;
use crate::args::CleanupArgs;
use crate::lock::WriterLock;
use crate::passage;
use crate::takeover::other_mode::open_ipvs;

/// How often to check whether connections have ended, and what kube-proxy has.
const PAUSE: Duration = Duration::from_millis(500);
/// How long to wait for kube-proxy's first sync.
const PATIENCE: Duration = Duration::from_secs(120);

/// Removes what svcproxy created on this node, in either mode. If kube-proxy runs there, waits for
/// its first sync, and then for at most the drain timeout until connections have ended.
pub(crate) fn cleanup(args: &CleanupArgs) -> anyhow::Result<Ending> {
    let _lock = WriterLock::take(args.lock.wait_lock)?;
    let ending = of_ipvs(args)?;
    let chains = IptablesBackend::remove_all()? + passage::remove()?;
    if chains > 0 {
        tracing::info!(chains, "removed svcproxy's iptables chains");
    }
    Ok(ending)
}

fn of_ipvs(args: &CleanupArgs) -> anyhow::Result<Ending> {
    let drain_timeout = Duration::from_secs(args.drain_timeout);
    let mut ipvs = open_ipvs()?;
    let own = ipvs_mode::own_virtual_servers(&mut *ipvs)?;
    let mut kube_proxy = KubeProxy::open()?;
    let mut presence = kube_proxy.presence()?;
    if presence != Presence::Absent && !args.now && !own.is_empty() {
        presence = wait_for_sync(&mut kube_proxy, presence, own)?;
    }
    let cleanup = match presence {
        Presence::Servers(servers) => {
            tracing::info!("kube-proxy is running on this node: keeping its virtual servers");
            let has = |key: &_| servers.has(key);
            retire(&mut *ipvs, Replacement::Ipvs(&has), drain_timeout)?
        }
        Presence::Rules(_) => {
            tracing::info!("kube-proxy is running on this node: waiting for connections to end");
            retire(&mut *ipvs, Replacement::Rules, drain_timeout)?
        }
        _ => ipvs_mode::cleanup(&mut *ipvs)?,
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

/// Waits until kube-proxy serves what svcproxy serves: before, `cleanup` would take virtual servers
/// away that kube-proxy is about to take over, and cut their connections.
fn wait_for_sync(
    kube_proxy: &mut KubeProxy,
    presence: Presence,
    own: Vec<VirtualServerKey>,
) -> anyhow::Result<Presence> {
    let begin = Instant::now();
    let mut sync = FirstSync::new(own, presence, begin);
    if !sync.is_complete(begin) {
        tracing::info!("waiting for the first sync of kube-proxy; --now skips this");
    }
    while !sync.is_complete(Instant::now()) {
        if begin.elapsed() >= PATIENCE {
            bail!(
                "nothing was removed: after {} s, kube-proxy has not completed its first sync; try \
                 again when it serves all Services, or pass --now",
                PATIENCE.as_secs()
            );
        }
        thread::sleep(PAUSE);
        sync.observe(kube_proxy.presence()?, Instant::now());
    }
    Ok(sync.into_presence())
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
