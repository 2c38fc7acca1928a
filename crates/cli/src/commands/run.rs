//! The main job: bring the node in line with the Services there are, and keep it so.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use proxier::Proxier;
use proxier::backend::{Counts, IptablesBackend, IpvsBackend};
use proxier::data_plane::{DataPlane, PlanSteps};
use proxier::desired::Config;
use proxier::metrics::Monitor;
use proxier::proxier::{SyncKind, SyncReport};
use proxier::run::{Event, Observed};
use proxier::watch::Watch;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{chain, log_diagnostics, log_failures};
use crate::Ending;
use crate::args::{Cli, Mode};
use crate::configz::Configz;
use crate::health::Health;
use crate::notices::{Notices, Standing};
use crate::predecessor::Predecessors;
use crate::source::Source;
use crate::{monitor, node, settings};

/// `svcproxy --mode MODE`
pub(crate) fn run(cli: &Cli) -> anyhow::Result<Ending> {
    let args = &cli.run;
    let mut config = node::config(&args.node)?;
    settings::set_oom_score(args.node.kube_proxy.oom_score_adj);
    if args.once {
        // Nobody will be there to see the connections end.
        config.drain_timeout = Duration::ZERO;
    }
    let mut source = Source::new(&args.node.source, &config.node_name);
    // Nobody posts Events in the little time that a single sync takes.
    let events = if args.once { None } else { source.events() };
    let notices = Notices::new(&config.node_name, events);
    match args.mode() {
        Mode::Ipvs => {
            let backend = IpvsBackend::open()?.proc_sys(&args.proc_sys);
            start(
                cli,
                Proxier::new(Arc::new(config), backend),
                source,
                notices,
            )
        }
        Mode::Iptables => {
            let backend = IptablesBackend::open()?.proc_sys(&args.proc_sys);
            tracing::info!("the data plane is {}", backend.flavour());
            start(
                cli,
                Proxier::new(Arc::new(config), backend),
                source,
                notices,
            )
        }
    }
}

fn start<B: DataPlane>(
    cli: &Cli,
    proxier: Proxier<B>,
    source: Source,
    notices: Notices,
) -> anyhow::Result<Ending> {
    if cli.run.once {
        once(proxier, source, notices)
    } else {
        follow(proxier, source, cli, notices)
    }
}

fn once<B: DataPlane>(
    mut proxier: Proxier<B>,
    source: Source,
    notices: Notices,
) -> anyhow::Result<Ending> {
    let reading = source.read()?;
    log_diagnostics(&reading.diagnostics);
    let invalid = reading.has_errors();
    let report = proxier
        .handle(reading.changes)?
        .context("not every kind of object could be read")?;
    let mut predecessors = Predecessors::all(notices.clone());
    log_sync(&report);
    Standing::new(notices).follow(&proxier, &report.notices);
    predecessors.follow(&proxier, &report);
    let is_success = report.is_success() && predecessors.are_gone();
    let invalid = invalid || proxier.node_error().is_some();
    Ok(match (is_success, invalid) {
        (false, _) => Ending::Failed,
        (true, true) => Ending::InvalidInput,
        (true, false) => Ending::Done,
    })
}

fn follow<B: DataPlane>(
    mut proxier: Proxier<B>,
    source: Source,
    cli: &Cli,
    notices: Notices,
) -> anyhow::Result<Ending> {
    let (events, received) = mpsc::channel();
    stop_on_signal(events.clone())?;
    let args = &cli.run.node;
    let config = proxier.desired().config();
    let monitor = monitor::monitor(args, config);
    let mode = cli.run.mode().name();
    monitor.set_mode(mode, mode);
    monitor.inspect_by(events.clone());
    let configz = Configz::new(cli, config);
    let _servers = monitor::serve(&args.monitor, &monitor, configz.clone());
    let mut health = Health::new(config, monitor.clone());
    let file = args.kube_proxy.config.as_deref();
    let follow = |file| follow_settings(file, cli, config, &monitor, &configz, events.clone());
    let _settings = file.map(follow).transpose()?;
    let queue = monitor.clone();
    let following = source.follow(move |reading| {
        log_diagnostics(&reading.diagnostics);
        queue.queued(&reading.changes);
        // The receiver is gone only when we are about to end.
        let _ = events.send(Event::Changes(reading.changes));
    })?;
    following.tell(&monitor);
    let mut predecessors = Predecessors::all(notices.clone());
    let mut standing = Standing::new(notices);
    let intervals = settings::intervals(args.audit_interval);
    proxier::run::run(&mut proxier, &received, intervals, |proxier, observed| {
        monitor.observed(proxier, &observed);
        let Observed::Round(round) = observed else {
            return;
        };
        match round.result {
            Ok(report) => {
                log_sync(report);
                standing.follow(proxier, &report.notices);
                predecessors.follow(proxier, report);
            }
            Err(error) => {
                tracing::error!("nothing was changed: {}", chain(error));
                standing.follow(proxier, &[]);
            }
        }
        health.follow(proxier.desired());
        configz.follow(proxier.desired().config());
    });
    tracing::info!("stopped; the data plane stays as it is");
    Ok(Ending::Done)
}

/// Has changes of the configuration file applied, where there is one.
fn follow_settings(
    file: &Path,
    cli: &Cli,
    config: &Config,
    monitor: &Monitor,
    configz: &Configz,
    events: Sender<Event>,
) -> anyhow::Result<Watch> {
    let (monitor, configz) = (monitor.clone(), configz.clone());
    let watch = settings::follow(file, cli, &config.node_name, move |cli, settings| {
        let args = &cli.run.node;
        settings::set_oom_score(args.kube_proxy.oom_score_adj);
        monitor.set_health_timeout(settings::health_timeout(args.audit_interval));
        configz.reconfigure(&cli, &settings.config);
        let _ = events.send(Event::Settings(settings));
    });
    watch.context("the configuration file cannot be followed")
}

/// Ends the loop at the first signal; at a second one the process ends as it is.
fn stop_on_signal(events: Sender<Event>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot handle signals")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in &mut signals {
                if events.send(Event::Stop).is_err() {
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
            }
        })
        .context("cannot start the thread that waits for signals")?;
    Ok(())
}

/// Says what was done.
fn log_sync<P: PlanSteps>(report: &SyncReport<P>) {
    log_failures(&report.plan, &report.applied);
    if report.kind == SyncKind::Drained {
        tracing::info!(real_servers = report.plan.count(), "drained");
        return;
    }
    let Counts {
        ipvs_changes,
        transactions,
        elements,
        routes,
        sysctls,
        flows,
        ..
    } = report.applied.counts;
    tracing::info!(
        full = report.kind == SyncKind::Full,
        steps = report.plan.count(),
        failed = report.applied.failures.len(),
        ipvs_changes,
        transactions,
        elements,
        routes,
        sysctls,
        flows,
        "synced"
    );
}
