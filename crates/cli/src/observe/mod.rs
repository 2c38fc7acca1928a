//! Metrics, health and settings of the running proxy, and their HTTP servers.

pub(crate) mod trail;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use ipnet::IpNet;
use ipvs::Family;
use jiff::Timestamp;
use proxier::Runtime;
use proxier::desired::{Config, DesiredState, HealthCheck, PodInterfaces};
use proxier::observe::health::{HealthError, ServiceHealth};
use proxier::observe::metrics::{Monitor, Options, Pages, ProxyServer, Status};
use serde_json::{Value, json};

use crate::args::{Cli, MonitorArgs, RunArgs, ServiceMetrics};
use crate::history::History;
use crate::logging::chain;
use crate::notices::Conditions;
use crate::page::Page;
use crate::running::{Running, SourceState};
use crate::{component_config, settings};

/// The servers. Dropping this stops them.
pub(crate) struct Servers {
    _metrics: Option<ProxyServer>,
    _health: Option<ProxyServer>,
}

/// The metrics of a node with these settings.
pub(crate) fn monitor(args: &RunArgs, config: &Config) -> Monitor {
    let mut families = vec![Family::V4, Family::V6];
    // Otherwise the Node object will decide the families.
    if !config.node_ips.is_empty() {
        families.retain(|family| config.serves(*family));
    }
    let mut options = Options::new(families);
    options.health_timeout = settings::health_timeout(args.periods().audit);
    options.all_services = args.node.monitor.service_metrics == ServiceMetrics::All;
    options.service_limit = args.node.monitor.service_metrics_limit;
    let monitor = Monitor::new(options);
    monitor.set_build(env!("CARGO_PKG_VERSION"), COMMIT);
    monitor
}

/// What the pages say of this process.
pub(crate) struct About {
    pub(crate) node: Arc<str>,
    /// The source of Services, for people.
    pub(crate) source: String,
    /// The last changes, if the page for people is served.
    pub(crate) history: Option<History>,
}

/// Starts the servers at the addresses of the flags. A failure is logged and does not stop the
/// proxy.
pub(crate) fn serve(
    args: &MonitorArgs,
    runtime: &Runtime,
    monitor: &Monitor,
    configz: Configz,
    conditions: Conditions,
    about: About,
) -> Servers {
    let About {
        node,
        source,
        history,
    } = about;
    let or_warn = |what, server: std::io::Result<ProxyServer>| {
        server
            .inspect_err(|error| tracing::warn!("{what} is not served: {error}"))
            .ok()
    };
    let pages = Pages::new(move || configz.text(), version().to_string());
    let (listed, of_node) = (conditions.clone(), Arc::clone(&node));
    let pages = pages.with_conditions(move || conditions.json(&of_node));
    let own = Arc::new(OwnState::new(source));
    let (described, state) = (monitor.clone(), Arc::clone(&own));
    let mut pages = pages.with_status(move || state.text(&described.status()));
    if let Some(history) = history {
        let described = monitor.clone();
        let running = move || own.running(&described.status());
        let page = Page::new(node, running, listed, history);
        pages = pages.with_site(crate::page::fixed, move |request| page.answer(request));
    }
    let metrics = args
        .metrics_bind_address
        .0
        .map(|address| ProxyServer::metrics(runtime, address, monitor.clone(), pages));
    let health = args
        .healthz_bind_address
        .0
        .map(|address| ProxyServer::health(runtime, address, monitor.clone()));
    Servers {
        _metrics: metrics.and_then(|server| or_warn("--metrics-bind-address", server)),
        _health: health.and_then(|server| or_warn("--healthz-bind-address", server)),
    }
}

/// The commit that svcproxy was built from, if the environment of the build named it.
pub(crate) const COMMIT: &str = match option_env!("SVCPROXY_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// What does not change while the process runs, for the page `/status`.
struct OwnState {
    started: Timestamp,
    source: String,
}

impl OwnState {
    fn new(source: String) -> Self {
        let started = Timestamp::now();
        Self { started, source }
    }

    fn text(&self, status: &Status) -> String {
        serde_json::to_string(&self.running(status)).unwrap_or_else(|_| "{}".to_owned())
    }

    fn running(&self, status: &Status) -> Running {
        let source = status.source.as_ref();
        let failing = source.map(|source| source.failures.clone());
        let failing = failing.unwrap_or_default().into_iter();
        Running {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: COMMIT.to_owned(),
            pid: std::process::id(),
            started_at: self.started,
            time: Timestamp::now(),
            mode: status.mode.to_owned(),
            mode_wanted: status.wanted.to_owned(),
            fallback_reason: status.fallback.as_ref().map(|of| of.reason.clone()),
            healthy: status.healthy,
            source: SourceState {
                name: self.source.clone(),
                connected: source.map(|source| source.connected_since.is_some()),
                last_heard: status.heard.and_then(timestamp),
                failing: failing
                    .map(|(kind, error)| (kind.to_owned(), error))
                    .collect(),
            },
            last_sync: status.synced.and_then(timestamp),
            pending_changes: status.pending,
            dns: status.dns.clone(),
        }
    }
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(time).ok()
}

/// The version, in the format of the API server's `/version`.
fn version() -> Value {
    json!({
        "major": env!("CARGO_PKG_VERSION_MAJOR"),
        "minor": env!("CARGO_PKG_VERSION_MINOR"),
        "gitVersion": concat!("v", env!("CARGO_PKG_VERSION")),
        "gitCommit": COMMIT,
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// The key of kube-proxy's settings (`kubeproxyconfig.GroupName`).
const KUBE_PROXY: &str = "kubeproxy.config.k8s.io";

/// The page, kept up to date. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Configz(Arc<Mutex<Parts>>);

#[derive(Debug)]
struct Parts {
    kube_proxy: Value,
    own: Value,
    /// The settings that `own` shows.
    shown: Config,
    /// The paths of the manifests.
    manifests: Vec<PathBuf>,
    /// The networks of `--listen`.
    listen: Vec<IpNet>,
}

impl Configz {
    pub(crate) fn new(cli: &Cli, config: &Config) -> Self {
        let paths = cli.run.node.source.manifests.iter();
        // A command that reads them may have another working directory.
        let paths = paths.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
        let manifests: Vec<_> = paths.collect();
        let listen = cli.run.node.listen.clone();
        Self(Arc::new(Mutex::new(Parts {
            kube_proxy: document(cli, config),
            own: own_settings(config, &manifests, &listen),
            shown: config.clone(),
            manifests,
            listen,
        })))
    }

    /// Updates the page with new settings. Those that need a restart stay unchanged.
    pub(crate) fn reconfigure(&self, cli: &Cli, config: &Config) {
        let mut new = document(cli, config);
        self.with(|parts| {
            for name in settings::taking_a_restart(cli) {
                let pointer = format!("/{}", name.replace('.', "/"));
                let old = parts.kube_proxy.pointer(&pointer);
                if let (Some(old), Some(new)) = (old, new.pointer_mut(&pointer)) {
                    new.clone_from(old);
                }
            }
            parts.kube_proxy = new;
        });
    }

    /// Updates the page with the settings in effect, including those from the API.
    pub(crate) fn follow(&self, config: &Config) {
        self.with(|parts| {
            if parts.shown != *config {
                parts.own = own_settings(config, &parts.manifests, &parts.listen);
                parts.shown.clone_from(config);
            }
        });
    }

    pub(crate) fn text(&self) -> String {
        self.with(|parts| {
            json!({ KUBE_PROXY: parts.kube_proxy, "svcproxy": parts.own }).to_string()
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Parts) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn document(cli: &Cli, config: &Config) -> Value {
    serde_json::to_value(component_config::effective(cli, config)).unwrap_or_default()
}

/// Settings without a field in kube-proxy's configuration, and those from the API.
fn own_settings(config: &Config, manifests: &[PathBuf], listen: &[IpNet]) -> Value {
    let list =
        |networks: &[IpNet]| -> Vec<String> { networks.iter().map(ToString::to_string).collect() };
    let (named, prefix) = match &config.pod_interfaces {
        Some(PodInterfaces::Named(name)) => (Some(name.as_str()), None),
        Some(PodInterfaces::Prefixed(prefix)) => (None, Some(prefix.as_str())),
        _ => (None, None),
    };
    json!({
        "excludeCIDRs": list(&config.exclude_cidrs),
        "masqueradeAll": config.masquerade_all,
        "podInterface": named,
        "podInterfacePrefix": prefix,
        "nodeName": &*config.node_name,
        "nodeIPs": config.node_ips,
        "zone": config.zone.as_deref(),
        "clusterCIDRs": list(&config.cluster_cidrs),
        "serviceCIDRs": list(&config.service_cidrs),
        "nodePortNetworks": list(&config.node_port_networks()),
        "drainTimeoutSeconds": config.drain_timeout.as_secs(),
        "masqueradeMark": format!("{:#x}", config.marks.masquerade()),
        "markMask": format!("{:#x}", config.marks.mask()),
        "denyExternalIPs": config.deny_external_ips,
        "denyEndpoints": list(&config.deny_endpoints),
        "listen": list(listen),
        "manifests": manifests,
    })
}

/// The server, and the checks that it serves.
pub(crate) struct Health {
    runtime: Runtime,
    monitor: Monitor,
    /// The networks of the addresses that it listens on.
    networks: Vec<IpNet>,
    server: ServiceHealth,
    /// The checks in effect; `None` if a port could not be opened.
    checks: Option<Vec<HealthCheck>>,
    reported: Reported,
}

/// The errors that were logged and have not ended.
#[derive(Default)]
struct Reported(BTreeSet<String>);

impl Reported {
    /// The errors that are new since the last call: ports are tried again at each sync. Two Services
    /// with one port are a problem of the desired state, which is reported as such.
    fn follow(&mut self, errors: &[HealthError]) -> Vec<String> {
        let errors = errors.iter();
        let own = errors.filter(|error| !matches!(error, HealthError::PortTaken { .. }));
        let now: BTreeSet<_> = own.map(|error| chain(error)).collect();
        let new = now.difference(&self.0).cloned().collect();
        self.0 = now;
        new
    }
}

impl Health {
    pub(crate) fn new(runtime: Runtime, config: &Config, monitor: Monitor) -> Self {
        let networks = config.node_port_networks();
        Self {
            server: server(&runtime, &networks, &monitor),
            runtime,
            monitor,
            networks,
            checks: Some(Vec::new()),
            reported: Reported::default(),
        }
    }

    /// Updates the checks. Ports that could not be opened are tried again.
    pub(crate) fn follow(&mut self, desired: &DesiredState) {
        let networks = desired.config().node_port_networks();
        if networks != self.networks {
            self.server = server(&self.runtime, &networks, &self.monitor);
            self.networks = networks;
            self.checks = Some(Vec::new());
        }
        let as_before = self
            .checks
            .as_ref()
            .is_some_and(|checks| desired.health_checks().eq(checks));
        if as_before {
            return;
        }
        let checks: Vec<_> = desired.health_checks().cloned().collect();
        let errors = self.server.sync(checks.iter().cloned());
        for error in self.reported.follow(&errors) {
            tracing::warn!("{error}");
        }
        self.checks = errors.is_empty().then_some(checks);
    }
}

fn server(runtime: &Runtime, networks: &[IpNet], monitor: &Monitor) -> ServiceHealth {
    let monitor = monitor.clone();
    ServiceHealth::new(runtime.clone(), networks.to_vec())
        .healthy_while(move || monitor.is_healthy())
}

#[cfg(test)]
mod tests {
    use std::io;

    use proxier::model::ObjectName;

    use super::*;

    #[test]
    fn a_health_check_port_that_cannot_be_opened_is_reported_once() {
        let name = |name| ObjectName::new("default", name).unwrap();
        let refused = |service| HealthError::Listen {
            service: name(service),
            address: ([0, 0, 0, 0], 30_080).into(),
            source: io::ErrorKind::AddrInUse.into(),
        };
        let mut reported = Reported::default();
        let new = reported.follow(&[refused("b")]);
        assert_eq!(new.len(), 1);
        assert!(new[0].contains("default/b"), "{new:?}");
        assert_eq!(reported.follow(&[refused("b")]), [""; 0]);
        assert_eq!(reported.follow(&[refused("b"), refused("c")]).len(), 1);
        // It ends, and returns.
        assert_eq!(reported.follow(&[]), [""; 0]);
        assert_eq!(reported.follow(&[refused("b")]).len(), 1);
        let taken = HealthError::PortTaken {
            service: name("d"),
            port: 30_080.try_into().unwrap(),
            by: name("b"),
        };
        assert_eq!(reported.follow(&[refused("b"), taken]), [""; 0]);
    }
}
