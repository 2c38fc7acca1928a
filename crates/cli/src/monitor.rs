//! Metrics and health of the running proxy, and where they are served.

use ipvs::Family;
use proxier::desired::Config;
use proxier::metrics::{Monitor, Options, Pages, ProxyServer};
use serde_json::{Value, json};

use crate::args::{MonitorArgs, ServiceMetrics};

/// The servers, for as long as they are to serve.
pub(crate) struct Servers {
    _metrics: Option<ProxyServer>,
    _health: Option<ProxyServer>,
}

/// What is told, of a node with these settings.
pub(crate) fn monitor(args: &MonitorArgs, config: &Config) -> Monitor {
    let families = config.node_ips.iter().map(Family::of).collect();
    let mut options = Options::new(families);
    options.all_services = args.service_metrics == ServiceMetrics::All;
    options.service_limit = args.service_metrics_limit;
    Monitor::new(options)
}

/// Serves it where the flags say. Nothing that fails here keeps the proxy from its work.
pub(crate) fn serve(args: &MonitorArgs, monitor: &Monitor, config: &Config) -> Servers {
    let or_warn = |what, server: std::io::Result<ProxyServer>| {
        server
            .inspect_err(|error| tracing::warn!("{what} is not served: {error}"))
            .ok()
    };
    let pages = Pages::new(configz(config).to_string(), version().to_string());
    let metrics = args
        .metrics_bind_address
        .0
        .map(|address| ProxyServer::metrics(address, monitor.clone(), pages));
    let health = args
        .healthz_bind_address
        .0
        .map(|address| ProxyServer::health(address, monitor.clone()));
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

/// The settings in force at the start, under the names of `KubeProxyConfiguration` where it has
/// one.
fn configz(config: &Config) -> Value {
    let list = |networks: &[ipnet::IpNet]| -> Vec<String> {
        networks.iter().map(ToString::to_string).collect()
    };
    json!({
        "svcproxy": {
            "hostnameOverride": &*config.node_name,
            "nodeIPs": config.node_ips,
            "zone": config.zone.as_deref(),
            "clusterCIDR": list(&config.cluster_cidrs).join(","),
            "serviceCIDRs": list(&config.service_cidrs),
            "nodePortAddresses": list(&config.node_port_addresses),
            "drainTimeoutSeconds": config.drain_timeout.as_secs(),
            "masqueradeAll": config.masquerade_all,
            "ipvs": {
                "scheduler": config.scheduler.to_string(),
                "excludeCIDRs": list(&config.exclude_cidrs),
                "strictARP": config.strict_arp,
            },
        },
    })
}
