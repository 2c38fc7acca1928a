//! `svcproxy cleanup`.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use ipvs::VirtualServerKey;
use proxier::mode::iptables::{Flavour, IptablesKernel, Transaction};
use proxier::mode::ipvs::plan::{Plan, Step};
use proxier::mode::ipvs::rules::TABLE;
use proxier::mode::ipvs::{self as ipvs_mode, Cleanup, Kernel, Replacement, Retiring};
use proxier::mode::nftables::NftablesKernel;
use proxier::mode::userspace;
use proxier::mode::{NodeError, PlanSteps, StepKind};
use proxier::takeover::{FirstSync, KubeProxy, Presence};
use serde::Serialize;

use super::{json, log_failures};
use crate::Ending;
use crate::args::{CleanupArgs, StatusFormat};
use crate::lock::{self, WriterLock};
use crate::logging::{Progress, Shown, chain};
use crate::passage;
use crate::takeover::other_mode::{is_without_netfilter, open_ipvs};

/// How often to check whether connections have ended, and what kube-proxy has.
const PAUSE: Duration = Duration::from_millis(500);
/// How long to wait for kube-proxy's first sync.
const PATIENCE: Duration = Duration::from_secs(120);

/// Removes what svcproxy created on this node, in any mode. If kube-proxy runs there, waits for
/// its first sync, and then for at most the drain timeout until connections have ended.
pub(crate) fn cleanup(args: &CleanupArgs) -> anyhow::Result<Ending> {
    if args.dry_run {
        return dry_run(args);
    }
    let _lock = WriterLock::take(args.lock.wait_lock)?;
    let _progress = Progress::start(|| "removing what svcproxy created".to_owned());
    if is_without_filters() {
        return of_userspace(args);
    }
    let mut done = of_ipvs(args)?;
    let is_success = done.failed.is_empty();
    let chains = IptablesKernel::removals()?
        .iter()
        .chain(&passage::removals()?)
        .flat_map(chains)
        .collect::<Vec<_>>();
    let count = IptablesKernel::remove_all()? + passage::remove()?;
    if count > 0 {
        tracing::info!(chains = count, "removed svcproxy's iptables chains");
    }
    done.removed.extend(chains);
    let tables = nftables_tables()?;
    if NftablesKernel::open()?.remove_all()? > 0 {
        tracing::info!(
            tables = tables.len(),
            "removed svcproxy's tables of mode nftables"
        );
    }
    done.removed.extend(tables);
    if let Some(format) = args.output {
        done.print(format)?;
    }
    Ok(match is_success {
        true => Ending::Done,
        false => Ending::Failed,
    })
}

/// Whether only mode userspace can have run here.
fn is_without_filters() -> bool {
    NftablesKernel::open().is_err_and(|error| is_without_netfilter(&error))
}

/// Removes the routes of mode userspace, or lists them.
fn of_userspace(args: &CleanupArgs) -> anyhow::Result<Ending> {
    let routes = match args.dry_run {
        true => userspace::routes()?,
        false => userspace::remove_routes()?,
    };
    let item = |route: String| Item {
        kind: StepKind::Route.name(),
        step: format!("delete route {route}"),
    };
    let removed = Removed {
        dry_run: args.dry_run,
        kube_proxy: name(&Presence::Absent),
        removed: routes.into_iter().map(item).collect(),
        ..Removed::default()
    };
    let default = args.dry_run.then_some(StatusFormat::Text);
    if let Some(format) = args.output.or(default) {
        removed.print(format)?;
    }
    Ok(Ending::Done)
}

/// The tables of mode nftables.
fn nftables_tables() -> anyhow::Result<Vec<Item>> {
    let mut kernel = NftablesKernel::open()?;
    let tables = kernel.tables()?.into_iter();
    let item = |family| Item {
        kind: StepKind::Rules.name(),
        step: format!("delete table {family} {TABLE}"),
    };
    Ok(tables.map(item).collect())
}

/// What was removed, or would be.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Removed {
    /// Whether nothing was changed.
    dry_run: bool,
    /// What kube-proxy has on this node: `absent`, `rules` or `servers`.
    kube_proxy: &'static str,
    removed: Vec<Item>,
    /// Virtual servers that kube-proxy has taken over.
    kept: Vec<String>,
    failed: Vec<Failed>,
}

/// A thing that is removed.
#[derive(Debug, Serialize)]
struct Item {
    /// As in the metric `svcproxy_drift_steps_total`: `virtual_server`, `route`, `rules`, ….
    kind: &'static str,
    step: String,
}

/// A thing that could not be removed.
#[derive(Debug, Serialize)]
struct Failed {
    step: String,
    error: String,
}

impl Removed {
    fn print(&self, format: StatusFormat) -> anyhow::Result<()> {
        match format {
            StatusFormat::Json => json(self),
            StatusFormat::Text => Ok(self.write(&mut io::stdout().lock())?),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for Item { step, .. } in &self.removed {
            writeln!(out, "{}", Shown(step))?;
        }
        for kept in &self.kept {
            writeln!(out, "keep {} (kube-proxy has taken it over)", Shown(kept))?;
        }
        for Failed { step, error } in &self.failed {
            writeln!(out, "failed: {}: {}", Shown(step), Shown(error))?;
        }
        let count = self.removed.len();
        match self.dry_run {
            true => writeln!(out, "{count} to remove; nothing was changed"),
            false => writeln!(out, "{count} removed"),
        }
    }
}

/// Prints what would be removed now. Needs no lock, because it changes nothing.
fn dry_run(args: &CleanupArgs) -> anyhow::Result<Ending> {
    if let Some(writer) = lock::writer() {
        tracing::warn!("svcproxy runs ({writer}): cleanup fails until it ends");
    }
    if is_without_filters() {
        return of_userspace(args);
    }
    let mut ipvs = open_ipvs()?;
    let removal = ipvs_mode::removal(&mut *ipvs)?;
    let presence = KubeProxy::open()?.presence()?;
    let mut found = Removed {
        dry_run: true,
        kube_proxy: name(&presence),
        ..Removed::default()
    };
    for step in removal.plan.steps() {
        let taken_over = match (&presence, step.virtual_server()) {
            (Presence::Servers(servers), Some(key)) => Some(key).filter(|key| servers.has(key)),
            _ => None,
        };
        match taken_over {
            Some(key) => found.kept.push(key.to_string()),
            None => found.removed.push(item(step)),
        }
    }
    found.removed.extend(removal.has_rules.then(table));
    let rules = [IptablesKernel::removals()?, passage::removals()?];
    found
        .removed
        .extend(rules.iter().flatten().flat_map(chains));
    found.removed.extend(nftables_tables()?);
    found.print(args.output.unwrap_or(StatusFormat::Text))?;
    Ok(Ending::Done)
}

const fn name(presence: &Presence) -> &'static str {
    match presence {
        Presence::Servers(_) => "servers",
        Presence::Rules(_) => "rules",
        _ => "absent",
    }
}

fn item(step: &Step) -> Item {
    Item {
        kind: Plan::kind(step).name(),
        step: step.to_string(),
    }
}

fn table() -> Item {
    Item {
        kind: StepKind::Rules.name(),
        step: format!("delete nftables table inet {TABLE}"),
    }
}

/// The chains of a transaction that removes them, and the rules that lead to them.
fn chains((flavour, removal): &(Flavour, Transaction)) -> Vec<Item> {
    let family = removal.family;
    let changed = removal.changed().into_iter();
    changed
        .map(|chain| Item {
            kind: StepKind::Rules.name(),
            step: format!("delete rules of svcproxy in {flavour} ({family}): {chain}"),
        })
        .collect()
}

fn of_ipvs(args: &CleanupArgs) -> anyhow::Result<Removed> {
    let drain_timeout = Duration::from_secs(args.drain_timeout);
    let mut ipvs = open_ipvs()?;
    let own = ipvs_mode::own_virtual_servers(&mut *ipvs)?;
    let has_rules = ipvs_mode::removal(&mut *ipvs)?.has_rules;
    let mut kube_proxy = KubeProxy::open()?;
    let mut presence = kube_proxy.presence()?;
    let serves = !own.is_empty() || serves_without_ipvs()?;
    if presence != Presence::Absent && !args.now && serves {
        presence = wait_for_sync(&mut kube_proxy, presence, own.clone())?;
    }
    let mut done = Removed {
        kube_proxy: name(&presence),
        ..Removed::default()
    };
    let cleanup = match presence {
        Presence::Servers(servers) => {
            tracing::info!("kube-proxy is running on this node: keeping its virtual servers");
            let has = |key: &_| servers.has(key);
            let mut kept: Vec<_> = own.iter().filter(|key| has(key)).collect();
            kept.sort_unstable();
            done.kept = kept.into_iter().map(ToString::to_string).collect();
            retire(&mut *ipvs, Replacement::Ipvs(&has), drain_timeout)?
        }
        Presence::Rules(_) => {
            tracing::info!("kube-proxy is running on this node: waiting for connections to end");
            retire(&mut *ipvs, Replacement::Rules, drain_timeout)?
        }
        _ => ipvs_mode::cleanup(&mut *ipvs)?,
    };
    log_failures(&cleanup.plan, &cleanup.applied);
    let failures = &cleanup.applied.failures;
    done.failed = failures
        .iter()
        .map(|failure| Failed {
            step: cleanup.plan.step(failure.step).unwrap_or_default(),
            error: chain(&failure.error),
        })
        .collect();
    let failed = cleanup.applied.failed_steps();
    let steps = cleanup.plan.steps().iter().enumerate();
    let removed = steps.filter(|(index, _)| !failed.contains(index));
    done.removed = removed.map(|(_, step)| item(step)).collect();
    if !done.failed.is_empty() {
        let failed = done.failed.len();
        tracing::error!(failed, "not everything could be removed; try again");
        return Ok(done);
    }
    done.removed.extend(has_rules.then(table));
    tracing::info!(
        removed = cleanup.plan.steps().len(),
        "removed svcproxy's state"
    );
    Ok(done)
}

/// Whether rules of svcproxy's other modes serve this node.
fn serves_without_ipvs() -> anyhow::Result<bool> {
    Ok(!nftables_tables()?.is_empty() || !IptablesKernel::removals()?.is_empty())
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
    ipvs: &mut dyn Kernel,
    replacement: Replacement<'_>,
    drain_timeout: Duration,
) -> Result<Cleanup, NodeError> {
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
