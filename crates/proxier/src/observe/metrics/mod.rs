//! Metrics, health, version and settings of the proxy, over HTTP.
//!
//! The source and the loop report to a [`Monitor`]; clients read from it. A scrape is answered from
//! the last snapshot, and waits for the loop at most 100 ms.
//! `docs/metrics.md` describes each metric.

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod kube_proxy;
mod own;
mod process;
mod program;
#[cfg(feature = "userspace")]
mod proxied;
mod questions;
mod server;
mod site;
mod status;
mod traffic;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipvs::Family;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Proxier;
use crate::desired::{DesiredState, FrontendKind};
use crate::discovery::DnsState;
use crate::mode::DataPlane;
use crate::model::ObjectName;
use crate::observe::health::{ChangeCounts, Fallback, HealthReport, Moment, ProxyHealth};
use crate::reconcile::{Event, Observed, Round, SyncReport};
use crate::source::ConnectionState;
use crate::store::{Change, Trigger};
use kube_proxy::KubeProxyMetrics;
use own::OwnMetrics;
use process::ProcessCollector;
use program::{ProgramCollector, SourceCollector};
#[cfg(feature = "userspace")]
use proxied::ProxiedCollector;
use questions::Questions;
use traffic::{Traffic, TrafficCollector};

pub use server::{Pages, ProxyServer};
pub use site::{Document, NoAnswer, Request};
pub use status::Status;

/// How long a scrape waits for the loop to read the node. An idle loop reads it at once. If the
/// loop is busy, the scrape returns the last snapshot.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long scrapes share one text if the loop has read nothing since: many simultaneous clients
/// cost as much as one.
const SHARED: Duration = Duration::from_secs(1);

/// Limit of triggers kept while syncs fail.
const MOST_TRIGGERS: usize = 10_000;

/// Labels of a metric and their values.
type Labels<const COUNT: usize> = [(&'static str, Cow<'static, str>); COUNT];

fn labels<const COUNT: usize>(pairs: [(&'static str, &'static str); COUNT]) -> Labels<COUNT> {
    pairs.map(|(label, value)| (label, value.into()))
}

/// Settings of a [`Monitor`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The families that the node serves.
    pub families: Vec<Family>,
    /// How long a change may be pending before the proxy is unhealthy.
    pub health_timeout: Duration,
    /// Export the traffic of all Services, not only of those with the label
    /// `svcproxy.io/metrics: "true"`.
    pub all_services: bool,
    /// Limit of Services whose traffic is exported.
    pub service_limit: usize,
}

impl Options {
    /// Traffic of labelled Services, at most 1000; a health timeout of two minutes, which is twice
    /// the default audit interval.
    pub fn new(families: Vec<Family>) -> Self {
        Self {
            families,
            health_timeout: Duration::from_secs(120),
            all_services: false,
            service_limit: 1000,
        }
    }
}

/// Metrics and health of one proxy. Clones share their state.
///
/// ```
/// use proxier::observe::metrics::{Monitor, Options};
/// use proxier::model::Family;
/// use proxier::store::Change;
///
/// let monitor = Monitor::new(Options::new(vec![Family::V4]));
/// monitor.set_mode("ipvs", "ipvs");
/// monitor.queued(&[Change::ServicesReplaced(vec![])]);
/// let text = monitor.scrape();
/// assert!(text.contains("svcproxy_proxy_mode{mode=\"ipvs\"} 1\n"));
/// ```
#[derive(Debug, Clone)]
pub struct Monitor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    registry: Registry,
    kube_proxy: KubeProxyMetrics,
    own: OwnMetrics,
    health: Mutex<ProxyHealth>,
    traffic: Arc<Mutex<Traffic>>,
    source: SourceCollector,
    program: ProgramCollector,
    #[cfg(feature = "userspace")]
    proxied: ProxiedCollector,
    /// Triggers of changes that are not applied yet.
    triggers: Mutex<Vec<Trigger>>,
    mode: Mutex<Modes>,
    /// The loop, the only one that reads the kernel.
    events: Mutex<Option<Sender<Event>>>,
    /// What the loop last read for scrapes.
    snapshot: watch::Sender<Snapshot>,
    /// The text of the last scrape.
    text: Mutex<Option<Text>>,
    questions: Questions,
}

/// The mode in effect and the requested one; empty before they are known.
#[derive(Debug, Clone, Copy, Default)]
struct Modes {
    in_effect: &'static str,
    wanted: &'static str,
}

/// The state of the snapshots, which the loop reads only for scrapes.
#[derive(Debug, Clone, Copy, Default)]
struct Snapshot {
    /// The number of snapshots so far.
    number: u64,
    /// When the last one was read; `None` before the first.
    read: Option<Instant>,
    /// Whether the loop was asked for another one and has not read it yet.
    is_asked_for: bool,
}

/// The text of a scrape.
#[derive(Debug, Clone)]
struct Text {
    snapshot: u64,
    encoded: Instant,
    text: Bytes,
}

impl Monitor {
    /// A monitor for a proxy that starts up now.
    pub fn new(options: Options) -> Self {
        let mut registry = Registry::default();
        let families = options.families.clone();
        let kube_proxy = KubeProxyMetrics::new(families.clone(), Moment::now().wall, &mut registry);
        let own = OwnMetrics::new(&mut registry);
        let traffic = Arc::<Mutex<Traffic>>::default();
        registry.register_collector(Box::new(TrafficCollector(Arc::clone(&traffic))));
        let source = SourceCollector::default();
        registry.register_collector(Box::new(source.clone()));
        let program = ProgramCollector::default();
        registry.register_collector(Box::new(program.clone()));
        #[cfg(feature = "userspace")]
        let proxied = ProxiedCollector::default();
        #[cfg(feature = "userspace")]
        registry.register_collector(Box::new(proxied.clone()));
        registry.register_collector(Box::new(ProcessCollector));
        Self(Arc::new(Inner {
            health: Mutex::new(ProxyHealth::new(options.health_timeout, families)),
            options,
            registry,
            kube_proxy,
            own,
            traffic,
            source,
            program,
            #[cfg(feature = "userspace")]
            proxied,
            triggers: Mutex::default(),
            mode: Mutex::default(),
            events: Mutex::default(),
            snapshot: watch::Sender::default(),
            text: Mutex::default(),
            questions: Questions::default(),
        }))
    }

    /// Makes the loop at the other end of this channel read the node for each scrape.
    pub fn inspect_by(&self, events: Sender<Event>) {
        *lock(&self.0.events) = Some(events);
    }

    /// Reports the state of the source, as metrics and in the body of the health paths. Only the
    /// first call counts.
    pub fn follow_source(&self, state: impl Fn() -> ConnectionState + Send + Sync + 'static) {
        self.0.source.ask(Box::new(state));
    }

    /// Reports the numbers of conditions by reason, as metrics and in the body of the health paths.
    /// Only the first call counts.
    pub fn follow_conditions(
        &self,
        state: impl Fn() -> BTreeMap<&'static str, u64> + Send + Sync + 'static,
    ) {
        self.0.program.ask_conditions(Box::new(state));
    }

    /// Reports the number of lost log lines as a metric. Only the first call counts.
    pub fn follow_log(&self, lost: impl Fn() -> u64 + Send + Sync + 'static) {
        self.0.program.ask_log_lines_lost(Box::new(lost));
    }

    /// Reports what a DNS server counts as metrics. Only the first call counts.
    pub fn follow_dns(&self, state: impl Fn() -> DnsState + Send + Sync + 'static) {
        self.0.program.ask_dns(Box::new(state));
    }

    /// Reports the numbers of mode userspace's proxy as metrics. Only the first call counts.
    #[cfg(feature = "userspace")]
    pub fn follow_proxy(&self, proxy: crate::mode::userspace::ProxyView) {
        self.0.proxied.follow(proxy);
    }

    /// Records the version and the commit of the program.
    pub fn set_build(&self, version: &'static str, commit: &'static str) {
        self.0.own.set_build(version, commit);
    }

    /// Records the mode in effect and the requested one.
    pub fn set_mode(&self, in_effect: &'static str, wanted: &'static str) {
        *lock(&self.0.mode) = Modes { in_effect, wanted };
        self.0.own.set_mode(in_effect, wanted);
    }

    /// Changes [`Options::health_timeout`].
    pub fn set_health_timeout(&self, timeout: Duration) {
        lock(&self.0.health).set_timeout(timeout);
    }

    /// Records a fallback, or its end.
    pub fn set_fallback(&self, fallback: Option<Fallback>) {
        lock(&self.0.health).set_fallback(fallback);
    }

    /// Records changes. Call it before they are sent to the loop.
    pub fn queued(&self, changes: &[Change]) {
        let counts = ChangeCounts::from_iter(changes);
        let now = Moment::now();
        lock(&self.0.health).queued(counts, now.instant);
        self.0.kube_proxy.queued(counts, now.wall);
    }

    /// Records what the loop reports to its observer.
    pub fn observed<B: DataPlane>(
        &self,
        proxier: &mut Proxier<B>,
        observed: &Observed<'_, B::Plan>,
    ) {
        match observed {
            Observed::Round(round) => self.round(proxier, round),
            Observed::Inspect => self.inspect(proxier),
            Observed::Drain => {}
        }
    }

    fn round<B: DataPlane>(&self, proxier: &Proxier<B>, round: &Round<'_, B::Plan>) {
        let now = Moment::now();
        let Inner {
            kube_proxy, own, ..
        } = &*self.0;
        own.round(round);
        let mut triggers = lock(&self.0.triggers);
        if let Ok(report) = round.result {
            kube_proxy.round(round, report, now.wall);
            let room = MOST_TRIGGERS.saturating_sub(triggers.len());
            triggers.extend(report.triggers.iter().take(room));
        }
        let mut health = lock(&self.0.health);
        let node = proxier.store().node();
        health.set_node_eligible(node.is_none_or(|node| node.eligible));
        // Health is whether syncs are in time, as in kube-proxy. One Service that fails is a condition:
        // it would else keep load balancers from a node that serves all others. What all Services
        // share is another matter: the success of one of them does not show that it is right again.
        let is_timely = round.result.is_ok_and(SyncReport::is_timely);
        if is_timely && proxier.is_settled() {
            health.synced(round.started, now);
            kube_proxy.programmed(&std::mem::take(&mut *triggers), now.wall);
        }
    }

    /// Reads what only scrapes need.
    fn inspect<B: DataPlane>(&self, proxier: &mut Proxier<B>) {
        self.0.own.inspect(proxier);
        let counts = without_local_endpoints(proxier.desired());
        for &family in self.0.kube_proxy.families() {
            for policy in ["internal", "external"] {
                let count = counts.get(&(family, policy)).map_or(0, BTreeSet::len);
                self.0.kube_proxy.no_local_endpoints(family, policy, count);
            }
        }
        self.read_traffic(proxier);
        self.0.snapshot.send_modify(|snapshot| {
            *snapshot = Snapshot {
                number: snapshot.number + 1,
                read: Some(Instant::now()),
                is_asked_for: false,
            };
        });
    }

    /// Reads the kernel only if a Service's traffic is exported.
    fn read_traffic<B: DataPlane>(&self, proxier: &mut Proxier<B>) {
        if !B::COUNTS_TRAFFIC {
            return;
        }
        let Options {
            all_services,
            service_limit,
            ..
        } = self.0.options;
        let services = proxier.store().services().map(|view| view.service);
        let asking = services
            .filter(|service| !service.cluster_ips.is_empty() && (all_services || service.metrics));
        let wanted: BTreeSet<_> = asking.map(|service| service.name.clone()).collect();
        let none = wanted.is_empty();
        let mut traffic = lock(&self.0.traffic);
        traffic.choose(wanted, service_limit);
        self.0.own.services_left_out(traffic.left_out());
        if none {
            return;
        }
        match proxier.carried() {
            Ok(Some(carried)) => traffic.add(carried, |key| proxier.has_virtual_server(key)),
            // After a failure, keep the previous values.
            Ok(None) => {}
            Err(error) => self.0.own.error(&error),
        }
    }

    /// Whether changes are applied in time.
    pub fn is_healthy(&self) -> bool {
        lock(&self.0.health).report(Moment::now()).healthy
    }

    /// The answer of `/healthz`, `/livez` or `/readyz`.
    fn health<T>(&self, answer: impl FnOnce(&HealthReport<'_>) -> T) -> T {
        let source = self.0.source.state();
        let conditions = self.0.program.conditions();
        let health = lock(&self.0.health);
        let report = health.report(Moment::now()).with_conditions(&conditions);
        answer(&match &source {
            Some(source) => report.with_source(source),
            None => report,
        })
    }

    /// All metrics in Prometheus's text format, version 0.0.4, as of the last snapshot. Asks the
    /// loop for the next one.
    pub fn scrape(&self) -> String {
        self.ask_loop();
        self.encode()
    }

    /// As [`scrape`](Self::scrape), but first waits a short time for the loop to read the node.
    async fn scrape_fresh(&self) -> Bytes {
        let mut snapshots = self.0.snapshot.subscribe();
        if self.ask_loop() {
            let _ = timeout(
                PATIENCE,
                snapshots.wait_for(|snapshot| !snapshot.is_asked_for),
            )
            .await;
        }
        self.shared_text()
    }

    /// Returns one text to all simultaneous scrapes.
    fn shared_text(&self) -> Bytes {
        let mut last = lock(&self.0.text);
        let snapshot = self.0.snapshot.borrow().number;
        let is_current =
            |text: &&Text| text.snapshot == snapshot && text.encoded.elapsed() < SHARED;
        if let Some(text) = last.as_ref().filter(is_current) {
            return text.text.clone();
        }
        let text = Bytes::from(self.encode());
        *last = Some(Text {
            snapshot,
            encoded: Instant::now(),
            text: text.clone(),
        });
        text
    }

    fn encode(&self) -> String {
        self.0.kube_proxy.pending(lock(&self.0.health).pending());
        if let Some(read) = self.0.snapshot.borrow().read {
            self.0.own.snapshot_age(read.elapsed());
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode_registry(&mut text, &self.0.registry);
        classic(&text)
    }

    /// Asks the loop for a snapshot, unless one is pending. False if there is no loop.
    fn ask_loop(&self) -> bool {
        let events = lock(&self.0.events);
        let Some(events) = &*events else {
            return false;
        };
        let mut is_new = false;
        self.0.snapshot.send_if_modified(|snapshot| {
            is_new = !std::mem::replace(&mut snapshot.is_asked_for, true);
            // Only a new snapshot wakes the waiting scrapes.
            false
        });
        !is_new || events.send(Event::Inspect).is_ok()
    }
}

/// Services with traffic policy `Local` that have endpoints, but none on this node.
fn without_local_endpoints(
    desired: &DesiredState,
) -> BTreeMap<(Family, &'static str), BTreeSet<&ObjectName>> {
    let mut services = BTreeMap::<_, BTreeSet<_>>::new();
    for frontend in desired.frontends() {
        let policy = match &frontend.external {
            Some(here) if here.is_empty() => "external",
            None if frontend.kind == FrontendKind::ClusterIp && frontend.lacks_local_backends() => {
                "internal"
            }
            _ => continue,
        };
        let of = services.entry((frontend.key.family(), policy)).or_default();
        of.insert(&frontend.owner.service);
    }
    services
}

/// The encoder writes OpenMetrics, in which a counter's metadata lack `_total`. Scrapers of
/// kube-proxy may know only the older format.
fn classic(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let mut words = line.splitn(4, ' ');
        let (hash, keyword, name, rest) = (words.next(), words.next(), words.next(), words.next());
        let _ = match (hash, keyword, name, rest) {
            (Some("#"), Some(keyword), Some(name), Some(rest))
                if rest == "counter" || lines.peek().is_some_and(|next| is_counter(next, name)) =>
            {
                writeln!(classic, "# {keyword} {name}_total {rest}")
            }
            _ => writeln!(classic, "{line}"),
        };
    }
    classic
}

fn is_counter(line: &str, name: &str) -> bool {
    let of_name = line
        .strip_prefix("# TYPE ")
        .and_then(|line| line.strip_prefix(name));
    of_name == Some(" counter")
}

/// Ignores poisoning: after a panic elsewhere, a number is wrong at worst.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
