//! The main command: sync the node with the Services, and keep it in sync.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use ::ipvs::VirtualServerKey;
use anyhow::Context;
use proxier::desired::Config;
use proxier::discovery::dns::Dns;
use proxier::mode::iptables::{
    self, Flavour, Iptables, IptablesKernel, PassageWatch, kill_programs,
};
use proxier::mode::ipvs::{self, Ipvs, IpvsKernel};
use proxier::mode::nftables::{Nftables, NftablesKernel};
use proxier::mode::userspace;
use proxier::mode::userspace::{ProxyView, Userspace, UserspaceProxy};
use proxier::mode::{Counts, DataPlane, NodeError, PlanSteps};
use proxier::notice::{Notice, Reason};
use proxier::observe::metrics::Monitor;
use proxier::reconcile::{Cause, Event, Intervals, Observed, SyncKind, SyncReport};
use proxier::source::Extent;
use proxier::source::watch::Watch;
use proxier::takeover::KubeProxy;
use proxier::{Proxier, Runtime};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{DiagnosticLog, log_failures};
use crate::args::{Cli, Mode, NodeArgs, RunArgs, usage_error};
use crate::history::History;
use crate::host::HostWatch;
use crate::lock::WriterLock;
use crate::logging::{Progress, chain, lines_lost};
use crate::mode::{Choice, Lookout};
use crate::notices::{Conditions, Notices, Reporter};
use crate::observe::trail::Trail;
use crate::observe::{About, Configz, Health};
use crate::page;
use crate::passage::Passages;
use crate::source::Source;
use crate::takeover::{EarlierProxies, EarlierProxy, OfKubeProxy, other_mode};
use crate::{Ending, description, inventory, node, observe, settings};

/// `svcproxy --mode MODE`
pub(crate) fn run(cli: &Cli) -> anyhow::Result<Ending> {
    let args = &cli.run;
    if let Some(address) = args.dns.own_upstream() {
        usage_error(&format!(
            "--dns-upstream {address} is also a --dns-address: each question would come back"
        ));
    }
    let _lock = WriterLock::take(args.lock.wait_lock)?;
    if args.once && args.mode() == Mode::Userspace {
        usage_error(
            "--once cannot be used with mode userspace, which serves only while svcproxy runs",
        );
    }
    let mut config = node::config(&args.node)?;
    settings::set_oom_score(args.node.kube_proxy.oom_score_adj);
    if args.once {
        // The process ends at once, so nothing would end the drain.
        config.drain_timeout = Duration::ZERO;
    }
    let choice = Choice::make(&args.mode, args.mode(), &config)?;
    let mut source = Source::new(&args.node.source, &config.node_name);
    if !args.dns.dns_address.is_empty() {
        source = source.extent(Extent::Named);
    }
    // The source's thread, which posts Events, does not live long enough.
    let events = if args.once { None } else { source.events() };
    let notices = Notices::new(&config.node_name, events);
    choice.report(&notices);
    let runtime = match choice.in_effect {
        Mode::Userspace => Runtime::for_traffic(),
        _ => Runtime::start(),
    };
    let runtime = runtime.context("cannot start the threads for HTTP and the API server")?;
    let start = Start {
        runtime,
        cli,
        choice,
        source,
        notices,
    };
    let config = Arc::new(config);
    match start.choice.in_effect {
        Mode::Ipvs => {
            let data_plane = Ipvs::new(open_ipvs(args)?).inheriting(of_kube_proxy());
            let proxier = Proxier::new(config, data_plane);
            if args.once {
                return start.once(proxier);
            }
            start.follow(proxier, |following, mut proxier| {
                let _watching = following.watch();
                let _ = following.serve(&mut proxier);
            })
        }
        Mode::Iptables => {
            let kernel = IptablesKernel::open()?.proc_sys(&args.mode.proc_sys);
            tracing::info!("mode iptables uses {}", kernel.flavour());
            let flavour = kernel.flavour();
            let proxier = Proxier::new(config, Iptables::new(kernel));
            if args.once {
                return start.once(proxier);
            }
            start.follow(proxier, |following, proxier| {
                let watching = following.watch_chains(flavour);
                following.serve_until_ipvs(proxier, watching);
            })
        }
        Mode::Nftables => {
            let kernel = NftablesKernel::open()?.proc_sys(&args.mode.proc_sys);
            let proxier = Proxier::new(config, Nftables::new(kernel));
            if args.once {
                return start.once(proxier);
            }
            start.follow(proxier, |following, proxier| {
                let watching = following.watch();
                following.serve_until_ipvs(proxier, watching);
            })
        }
        Mode::Userspace => {
            let proxy = userspace_proxy(&args.node, &start.runtime)?;
            let view = proxy.view();
            let proxier = Proxier::new(config, Userspace::new(proxy));
            start.follow(proxier, |following, mut proxier| {
                following.monitor.follow_proxy(view.clone());
                following.proxy = Some(view);
                let _watching = userspace::watch(following.drift()).inspect_err(not_watched);
                let _ = following.serve(&mut proxier);
            })
        }
    }
}

/// The proxy of mode userspace.
pub(crate) fn userspace_proxy(
    args: &NodeArgs,
    runtime: &Runtime,
) -> Result<UserspaceProxy, NodeError> {
    Ok(UserspaceProxy::open(runtime)?.listen(args.listen.iter().copied()))
}

fn open_ipvs(args: &RunArgs) -> Result<IpvsKernel, NodeError> {
    Ok(IpvsKernel::open()?.proc_sys(&args.mode.proc_sys))
}

/// The virtual servers that kube-proxy left on this node.
fn of_kube_proxy() -> Vec<VirtualServerKey> {
    let found = KubeProxy::open().and_then(|mut kube_proxy| kube_proxy.virtual_servers());
    found.unwrap_or_else(|error| {
        // They are only reported then, as those of any other program.
        tracing::debug!(
            "cannot recognise kube-proxy's virtual servers: {}",
            chain(&error)
        );
        Vec::new()
    })
}

/// Everything that may have left state on this node: kube-proxy, and svcproxy's other modes.
fn earlier_proxies(mode: Mode, config: &Config, notices: Notices) -> EarlierProxies {
    let of_kube_proxy: Box<dyn EarlierProxy> = Box::<OfKubeProxy>::default();
    let of_other_modes = other_mode::earlier_proxies(mode, config);
    let all = [of_kube_proxy].into_iter().chain(of_other_modes);
    EarlierProxies::new(all, mode, notices)
}

/// The parts that every mode needs to start.
struct Start<'a> {
    cli: &'a Cli,
    choice: Choice,
    source: Source,
    notices: Notices,
    runtime: Runtime,
}

impl<'a> Start<'a> {
    fn once<B: DataPlane>(self, mut proxier: Proxier<B>) -> anyhow::Result<Ending> {
        let reading = self.source.read()?;
        DiagnosticLog::default().log(&reading.diagnostics);
        let invalid = reading.has_errors();
        let progress = Progress::start(|| "programming the node".to_owned());
        let report = proxier
            .handle(reading.changes)?
            .context("nothing was changed: not every object could be read")?;
        drop(progress);
        let config = proxier.desired().config();
        let mut earlier_proxies =
            earlier_proxies(self.choice.in_effect, config, self.notices.clone());
        log_sync(&report, true);
        Reporter::new(self.notices, Conditions::default()).follow(&proxier, &report);
        earlier_proxies.follow(&proxier, &report);
        Passages::default().follow(self.choice.in_effect, config);
        let is_success = report.is_complete() && earlier_proxies.are_gone();
        let invalid = invalid || proxier.node_error().is_some();
        Ok(match (is_success, invalid) {
            (false, _) => Ending::Failed,
            (true, true) => Ending::InvalidInput,
            (true, false) => Ending::Done,
        })
    }

    /// Runs the proxy until a signal stops it.
    fn follow<B: DataPlane>(
        self,
        proxier: Proxier<B>,
        serve: impl FnOnce(&mut Following<'a>, Proxier<B>),
    ) -> anyhow::Result<Ending> {
        let Self {
            cli,
            choice,
            source,
            notices,
            runtime,
        } = self;
        let (events, received) = mpsc::channel();
        stop_on_signal(events.clone())?;
        let args = &cli.run.node;
        let config = proxier.desired().config();
        let monitor = observe::monitor(&cli.run, config);
        monitor.inspect_by(events.clone());
        let history = args.monitor.serves_page().then(History::default);
        if let Some(history) = &history {
            notices.record_in(history.clone());
        }
        let conditions = Conditions::default();
        let counted = conditions.clone();
        monitor.follow_conditions(move || counted.counts());
        monitor.follow_log(lines_lost);
        let node_name = config.node_name.clone();
        let configz = Configz::new(cli, config);
        let mut following = Following {
            lookout: None,
            proxy: None,
            has_synced: false,
            progress: Some(progress(&monitor, &source)),
            passages: Passages::default(),
            host_watch: HostWatch::new(&cli.run.mode.proc_sys),
            trail: Trail::new(history.clone()),
            health: Health::new(runtime.clone(), config, monitor.clone()),
            reporter: Reporter::new(notices.clone(), conditions.clone()),
            args: &cli.run,
            intervals: settings::intervals(cli.run.periods()),
            configz: configz.clone(),
            choice: choice.clone(),
            notices,
            monitor: monitor.clone(),
            events: events.clone(),
            received,
        };
        following.serve_by(choice);
        let _servers = observe::serve(
            &args.monitor,
            &runtime,
            &monitor,
            configz.clone(),
            conditions.clone(),
            About {
                node: node_name,
                source: source.name(),
                history,
            },
        );
        let file = args.kube_proxy.config.as_deref();
        let follow = |file| follow_settings(file, cli, config, &monitor, &configz, events.clone());
        let _settings = file.map(follow).transpose()?;
        let queue = monitor.clone();
        let dns = cli.run.dns.config(config);
        let dns = dns.map(|config| Dns::start(&runtime, config)).transpose();
        let dns = dns.context("cannot start the DNS server")?;
        if let Some(dns) = &dns {
            monitor.follow_dns(dns.watch_state());
            conditions.follow_dns(dns.watch_state());
        }
        let mut diagnostics = DiagnosticLog::default();
        let causes = following.trail.causes();
        let source = source.follow(&runtime, move |reading| {
            diagnostics.log(&reading.diagnostics);
            conditions.read(&reading.diagnostics);
            causes.read(&reading);
            // Names do not wait for the sync.
            if let Some(dns) = &dns {
                dns.apply(&reading.changes);
            }
            queue.queued(&reading.changes);
            // The receiver is gone only when svcproxy is about to end.
            let _ = events.send(Event::Changes(reading.changes));
        })?;
        source.report_to(&monitor);
        let mode = following.choice.in_effect;
        serve(&mut following, proxier);
        match mode {
            Mode::Userspace => tracing::info!("stopped; connections have ended"),
            _ => tracing::info!("stopped; the data plane stays in effect"),
        }
        Ok(Ending::Done)
    }
}

/// What a start waits for: the first list, and then the first sync.
fn progress(monitor: &Monitor, source: &Source) -> Progress {
    let (monitor, source) = (monitor.clone(), source.name());
    Progress::start(move || match monitor.status().pending {
        0 => format!("reading {source}"),
        pending => format!("programming the node, {pending} objects"),
    })
}

/// A run until a signal stops it, in one mode after another.
struct Following<'a> {
    args: &'a RunArgs,
    intervals: Intervals,
    configz: Configz,
    choice: Choice,
    /// Some during a fallback.
    lookout: Option<Lookout>,
    /// Some in mode userspace.
    proxy: Option<ProxyView>,
    has_synced: bool,
    /// Some until the first sync.
    progress: Option<Progress>,
    passages: Passages,
    host_watch: HostWatch,
    trail: Trail,
    notices: Notices,
    monitor: Monitor,
    health: Health,
    reporter: Reporter,
    events: Sender<Event>,
    received: Receiver<Event>,
}

impl Following<'_> {
    /// Reports the mode in effect everywhere: log, metrics, health.
    fn serve_by(&mut self, choice: Choice) {
        self.monitor
            .set_mode(choice.in_effect.name(), choice.wanted.name());
        self.monitor.set_fallback(choice.fallback());
        self.lookout = Lookout::new(&self.args.mode, &choice);
        self.choice = choice;
    }

    /// Runs the loop until a signal stops it. Breaks earlier if the requested mode can run now.
    fn serve<B: DataPlane>(&mut self, proxier: &mut Proxier<B>) -> ControlFlow<()> {
        let config = proxier.desired().config();
        let mut earlier_proxies =
            earlier_proxies(self.choice.in_effect, config, self.notices.clone());
        let intervals = &mut self.intervals;
        let (mode, passages) = (self.choice.in_effect, &mut self.passages);
        let host = &mut self.host_watch;
        let progress = &mut self.progress;
        proxier::reconcile::run(proxier, &self.received, intervals, |proxier, observed| {
            self.monitor.observed(proxier, &observed);
            let round = match observed {
                Observed::Round(round) => round,
                Observed::Inspect => {
                    self.monitor.answer(|service| match &self.proxy {
                        Some(proxy) if service.is_empty() => inventory::page(proxy),
                        _ if page::is_list(service) => page::list(service, proxier),
                        _ => description::page(service, proxier),
                    });
                    return ControlFlow::Continue(());
                }
                Observed::Drain => {
                    earlier_proxies.look();
                    proxier.set_draining_beside(earlier_proxies.are_draining());
                    return ControlFlow::Continue(());
                }
                _ => return ControlFlow::Continue(()),
            };
            *progress = None;
            match round.result {
                Ok(report) => {
                    self.trail.follow(proxier, report);
                    log_sync(report, !std::mem::replace(&mut self.has_synced, true));
                    if round.cause == Cause::Audit {
                        report_drift(report, &self.notices);
                    }
                    self.reporter.follow(proxier, report);
                    earlier_proxies.follow(proxier, report);
                    proxier.set_draining_beside(earlier_proxies.are_draining());
                    if report.kind == SyncKind::Full || round.cause == Cause::Audit {
                        passages.follow(mode, proxier.desired().config());
                    }
                    if report.kind == SyncKind::Full {
                        let now =
                            host.conditions(mode, proxier.desired(), earlier_proxies.are_gone());
                        self.reporter.follow_host(now, proxier.store());
                    }
                }
                Err(error) => {
                    tracing::error!("nothing was changed: {}", chain(error));
                    self.reporter.follow_without_sync(proxier);
                }
            }
            self.reporter.follow_dns();
            self.health.follow(proxier.desired());
            let config = proxier.desired().config();
            self.configz.follow(config);
            let mut lookout = self.lookout.as_mut();
            let lookout = lookout.take_if(|_| round.cause == Cause::Audit);
            if lookout.is_some_and(|lookout| lookout.look(config, &self.notices)) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
    }

    /// Starts an audit as soon as another program changes the rules or routes of mode ipvs or
    /// nftables, or the chains of iptables that lead to svcproxy's rules there.
    fn watch(&self) -> (Option<ipvs::Watching>, Option<PassageWatch>) {
        let passages = self.passages.watch(self.drift());
        (
            ipvs::watch(self.drift()).inspect_err(not_watched).ok(),
            passages.inspect_err(not_watched).ok(),
        )
    }

    /// Starts an audit as soon as another program changes the chains of iptables mode.
    fn watch_chains(&self, flavour: Flavour) -> Option<iptables::Watching> {
        let watching = iptables::watch(flavour, self.drift());
        let watching = watching.inspect_err(not_watched).ok()?;
        if watching.is_none() {
            tracing::info!(
                "{flavour} has no notifications: only audits notice changes by other programs"
            );
        }
        watching
    }

    fn drift(&self) -> impl FnMut() + Send + 'static {
        let events = self.events.clone();
        move || {
            // The receiver is gone only when svcproxy is about to end.
            let _ = events.send(Event::Drift);
        }
    }

    /// Runs another mode and, as soon as possible and allowed, mode ipvs.
    fn serve_until_ipvs<B: DataPlane>(&mut self, mut proxier: Proxier<B>, watching: impl Sized) {
        while self.serve(&mut proxier).is_break() {
            match open_ipvs(self.args) {
                Ok(kernel) => {
                    drop(watching);
                    let mut proxier = proxier.with_data_plane(Ipvs::new(kernel));
                    self.serve_by(self.choice.upgraded());
                    // An empty change starts a sync at once.
                    let _ = self.events.send(Event::Changes(Vec::new()));
                    let _watching = self.watch();
                    let _ = self.serve(&mut proxier);
                    return;
                }
                Err(error) => tracing::error!(
                    "cannot switch to mode ipvs, mode {} stays in effect: {}",
                    self.choice.in_effect.name(),
                    chain(&error)
                ),
            }
        }
    }
}

fn not_watched(error: &NodeError) {
    let error = chain(error);
    tracing::warn!("cannot watch for changes by other programs, only audits notice them: {error}");
}

/// Applies changes of the configuration file, if there is one.
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
        monitor.set_health_timeout(settings::health_timeout(settings.intervals.audit));
        configz.reconfigure(&cli, &settings.config);
        let _ = events.send(Event::Settings(settings));
    });
    watch.context("cannot watch the configuration file")
}

/// How long programs may run on after the first signal: the DaemonSet gives svcproxy 10 seconds.
const PROGRAMS_GRACE: Duration = Duration::from_secs(5);

/// Ends the loop at the first signal; at a second one the process ends as it is.
fn stop_on_signal(events: Sender<Event>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot handle signals")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut is_stopping = false;
            for signal in &mut signals {
                let is_heard = events.send(Event::Stop).is_ok();
                // The loop handles the first signal only after the current sync, which may hang.
                if is_stopping || !is_heard {
                    kill_programs();
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
                if !is_stopping {
                    // Without this thread, a hanging program is killed at its own time limit.
                    let _ = thread::Builder::new().spawn(kill_programs_soon);
                }
                is_stopping = true;
            }
        })
        .context("cannot start the thread that waits for signals")?;
    Ok(())
}

/// Kills the programs that still run after a time, and those that are started later, until the
/// process ends.
fn kill_programs_soon() {
    thread::sleep(PROGRAMS_GRACE);
    loop {
        kill_programs();
        thread::sleep(Duration::from_secs(1));
    }
}

/// Reports what an audit repaired: one log line for each step, up to a limit, and one notice of the
/// Node.
fn report_drift<P: PlanSteps>(report: &SyncReport<P>, notices: &Notices) {
    const LINES: usize = 20;
    const NAMED: usize = 3;
    // Rejected and failed steps repair nothing, and rejected ones return at each audit.
    let failed = report.applied.failures.iter().map(|failure| failure.step);
    let refused = report.applied.refused.iter().map(|refused| refused.step);
    let undone: BTreeSet<_> = failed.chain(refused).collect();
    let steps = report.plan.steps().iter().enumerate();
    let repaired = steps.filter(|(place, step)| !undone.contains(place) && !P::tidies(step));
    let repaired: Vec<_> = repaired.map(|(place, _)| place).collect();
    let count = repaired.len();
    if count == 0 {
        return;
    }
    let steps = repaired.into_iter().take(LINES);
    let steps: Vec<_> = steps.filter_map(|place| report.plan.step(place)).collect();
    for step in &steps {
        tracing::info!(%step, "repaired drift");
    }
    if count > LINES {
        tracing::info!(left_out = count - LINES, "repaired drift");
    }
    let named: Vec<_> = steps.iter().take(NAMED).map(String::as_str).collect();
    let more = if count > NAMED { "; …" } else { "" };
    let message = format!(
        "another program changed the node; repaired in {count} steps: {}{more}",
        named.join("; ")
    );
    notices.send(&Notice::of_node(Reason::DriftRepaired, message));
}

/// Logs a sync. The first one is at level info, the others are routine.
fn log_sync<P: PlanSteps>(report: &SyncReport<P>, is_first: bool) {
    log_failures(&report.plan, &report.applied);
    if report.kind == SyncKind::Drained {
        tracing::debug!(real_servers = report.plan.count(), "drained");
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
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                full = report.kind == SyncKind::Full,
                steps = report.plan.count(),
                failed = report.applied.failures.len(),
                left_out = report.applied.refused.len(),
                ipvs_changes,
                transactions,
                elements,
                routes,
                sysctls,
                flows,
                "synced"
            )
        };
    }
    if is_first {
        log!(info);
    } else {
        log!(debug);
    }
}
