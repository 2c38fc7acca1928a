//! Metrics and health of the running proxy, and where they are served.

pub(crate) mod configz;
pub(crate) mod health_checks;
pub(crate) mod trail;

use ipvs::Family;
use proxier::Runtime;
use proxier::desired::Config;
use proxier::observe::metrics::{Monitor, Options, Pages, ProxyServer};
use serde_json::{Value, json};

use crate::args::{MonitorArgs, RunArgs, ServiceMetrics};
use crate::observe::configz::Configz;
use crate::settings;

/// The servers, for as long as they are to serve.
pub(crate) struct Servers {
    _metrics: Option<ProxyServer>,
    _health: Option<ProxyServer>,
}

/// What is told, of a node with these settings.
pub(crate) fn monitor(args: &RunArgs, config: &Config) -> Monitor {
    let mut families: Vec<_> = config.node_ips.iter().map(Family::of).collect();
    if families.is_empty() {
        // The Node will tell.
        families.extend([Family::V4, Family::V6]);
    }
    let mut options = Options::new(families);
    options.health_timeout = settings::health_timeout(args.periods().audit);
    options.all_services = args.node.monitor.service_metrics == ServiceMetrics::All;
    options.service_limit = args.node.monitor.service_metrics_limit;
    Monitor::new(options)
}

/// Serves it where the flags say. Nothing that fails here keeps the proxy from its work.
pub(crate) fn serve(
    args: &MonitorArgs,
    runtime: &Runtime,
    monitor: &Monitor,
    configz: Configz,
) -> Servers {
    let or_warn = |what, server: std::io::Result<ProxyServer>| {
        server
            .inspect_err(|error| tracing::warn!("{what} is not served: {error}"))
            .ok()
    };
    let pages = Pages::new(move || configz.text(), version().to_string());
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

/// The form of the API server's `/version`.
fn version() -> Value {
    json!({
        "major": env!("CARGO_PKG_VERSION_MAJOR"),
        "minor": env!("CARGO_PKG_VERSION_MINOR"),
        "gitVersion": concat!("v", env!("CARGO_PKG_VERSION")),
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
