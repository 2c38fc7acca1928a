//! Metrics and health of the running proxy, and their HTTP servers.

pub(crate) mod configz;
pub(crate) mod health_checks;
pub(crate) mod trail;

use std::sync::Arc;

use ipvs::Family;
use proxier::Runtime;
use proxier::desired::Config;
use proxier::observe::metrics::{Monitor, Options, Pages, ProxyServer};
use serde_json::{Value, json};

use crate::args::{MonitorArgs, RunArgs, ServiceMetrics};
use crate::notices::Conditions;
use crate::observe::configz::Configz;
use crate::settings;

/// The servers. Dropping this stops them.
pub(crate) struct Servers {
    _metrics: Option<ProxyServer>,
    _health: Option<ProxyServer>,
}

/// The metrics of a node with these settings.
pub(crate) fn monitor(args: &RunArgs, config: &Config) -> Monitor {
    let mut families: Vec<_> = config.node_ips.iter().map(Family::of).collect();
    if families.is_empty() {
        // The Node object will decide the families.
        families.extend([Family::V4, Family::V6]);
    }
    let mut options = Options::new(families);
    options.health_timeout = settings::health_timeout(args.periods().audit);
    options.all_services = args.node.monitor.service_metrics == ServiceMetrics::All;
    options.service_limit = args.node.monitor.service_metrics_limit;
    let monitor = Monitor::new(options);
    monitor.set_build(env!("CARGO_PKG_VERSION"), COMMIT);
    monitor
}

/// Starts the servers at the addresses of the flags. A failure is logged and does not stop the
/// proxy.
pub(crate) fn serve(
    args: &MonitorArgs,
    runtime: &Runtime,
    monitor: &Monitor,
    configz: Configz,
    conditions: Conditions,
    node: Arc<str>,
) -> Servers {
    let or_warn = |what, server: std::io::Result<ProxyServer>| {
        server
            .inspect_err(|error| tracing::warn!("{what} is not served: {error}"))
            .ok()
    };
    let pages = Pages::new(move || configz.text(), version().to_string());
    let pages = pages.with_conditions(move || conditions.json(&node));
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
const COMMIT: &str = match option_env!("SVCPROXY_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

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
