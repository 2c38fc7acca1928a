//! The settings of a configuration file, as they are in effect.

use std::fmt::Display;

use crate::args::{
    Cli, ConntrackArgs, KubeProxyArgs, LogArgs, Mode, MonitorArgs, NodeArgs, Periods, SourceArgs,
};

/// A setting under its name in `KubeProxyConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    /// The value as text.
    pub(super) value: String,
    /// Whether a change needs a restart.
    pub(super) wants_restart: bool,
}

fn live(name: &'static str, value: impl Display) -> Field {
    Field {
        name,
        value: value.to_string(),
        wants_restart: false,
    }
}

fn at_start(name: &'static str, value: impl Display) -> Field {
    Field {
        wants_restart: true,
        ..live(name, value)
    }
}

/// All settings, always in the same order, without those that exist on the command line only.
/// `mode` is the mode in effect, which may differ from the current file.
pub(super) fn fields(cli: &Cli, mode: Mode) -> Vec<Field> {
    let NodeArgs {
        monitor,
        kube_proxy,
        source,
        node_name,
        strict_arp,
        detect_local_mode,
        cluster_cidrs,
        pod_bridge_interface,
        pod_interface_name_prefix,
        masquerade_all,
        masquerade_bit,
        nodeport_addresses,
        exclude_cidrs,
        ipvs_scheduler,
        ipvs_tcp_timeout,
        ipvs_tcpfin_timeout,
        ipvs_udp_timeout,
        sync: _,
        node_ips: _,
        zone: _,
        mark_mask: _,
        service_cidrs: _,
        drain_timeout: _,
    } = &cli.run.node;
    let Periods { audit, min_sync } = cli.run.node.sync.periods(mode);
    let KubeProxyArgs {
        bind_address,
        oom_score_adj,
        conntrack,
        ..
    } = kube_proxy;
    let ConntrackArgs {
        max_per_core,
        min,
        tcp_established,
        tcp_close_wait,
        tcp_be_liberal,
        udp,
        udp_stream,
    } = conntrack;
    let MonitorArgs {
        metrics_bind_address,
        healthz_bind_address,
        service_metrics: _,
        service_metrics_limit: _,
    } = monitor;
    let SourceArgs {
        kubeconfig,
        manifests: _,
        master: _,
        timeout: _,
    } = source;
    let LogArgs {
        log_format,
        verbosity,
    } = &cli.log;
    let kubeconfig = kubeconfig.as_ref().map(|path| path.display());
    let timeout = |timeout: &crate::args::Timeout| optional(timeout.0.map(|s| format!("{s}s")));
    vec![
        at_start("mode", cli.run.mode().name()),
        at_start("hostnameOverride", optional(node_name.as_ref())),
        at_start("clientConnection.kubeconfig", optional(kubeconfig)),
        at_start("healthzBindAddress", optional(healthz_bind_address.0)),
        at_start("metricsBindAddress", optional(metrics_bind_address.0)),
        at_start("logging.format", format_args!("{log_format:?}")),
        at_start("logging.verbosity", optional(*verbosity)),
        live("bindAddress", optional(*bind_address)),
        live("clusterCIDR", list(cluster_cidrs)),
        live("detectLocalMode", format_args!("{detect_local_mode:?}")),
        live(
            "detectLocal.bridgeInterface",
            optional(pod_bridge_interface.as_ref()),
        ),
        live(
            "detectLocal.interfaceNamePrefix",
            optional(pod_interface_name_prefix.as_ref()),
        ),
        live("nodePortAddresses", format_args!("{nodeport_addresses:?}")),
        live("masqueradeAll", masquerade_all),
        live("masqueradeBit", masquerade_bit),
        live("syncPeriod", format_args!("{audit:?}")),
        live("minSyncPeriod", format_args!("{min_sync:?}")),
        live("oomScoreAdj", optional(*oom_score_adj)),
        live("ipvs.scheduler", ipvs_scheduler),
        live("ipvs.strictARP", strict_arp),
        live("ipvs.excludeCIDRs", list(exclude_cidrs)),
        live("ipvs.tcpTimeout", timeout(ipvs_tcp_timeout)),
        live("ipvs.tcpFinTimeout", timeout(ipvs_tcpfin_timeout)),
        live("ipvs.udpTimeout", timeout(ipvs_udp_timeout)),
        live("conntrack.maxPerCore", optional(*max_per_core)),
        live("conntrack.min", optional(*min)),
        live(
            "conntrack.tcpEstablishedTimeout",
            optional(*tcp_established),
        ),
        live("conntrack.tcpCloseWaitTimeout", optional(*tcp_close_wait)),
        live("conntrack.tcpBeLiberal", tcp_be_liberal),
        live("conntrack.udpTimeout", optional(*udp)),
        live("conntrack.udpStreamTimeout", optional(*udp_stream)),
    ]
}

fn optional(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn list(values: &[impl Display]) -> String {
    let values: Vec<_> = values.iter().map(ToString::to_string).collect();
    optional((!values.is_empty()).then(|| values.join(",")))
}
