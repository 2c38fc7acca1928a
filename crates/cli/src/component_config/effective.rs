//! The settings in effect, in the form of a configuration file.

use std::time::Duration;

use proxier::desired::Config;

use super::decode::{API_VERSION, KIND};
use crate::args::{
    self, BindAddress, Cli, LogFormat, Mode, NodeArgs, NodePortAddresses, Periods, Timeout,
};
use crate::kube_proxy::{
    ClientConnection, Conntrack, DetectLocal, GoDuration, KubeProxyConfiguration, Logging,
};

/// kube-proxy's default (pkg/proxy/apis/config/v1alpha1 `defaults.go`).
const BIND_ADDRESS: &str = "0.0.0.0";

/// The settings in effect, with defaults. Fields without effect have the file's values.
pub(crate) fn effective(cli: &Cli, config: &Config) -> KubeProxyConfiguration {
    let args = &cli.run.node;
    let theirs = &args.kube_proxy;
    let file = theirs.file.as_deref().cloned().unwrap_or_default();
    let mut effective = KubeProxyConfiguration {
        kind: KIND.to_owned(),
        api_version: API_VERSION.to_owned(),
        mode: cli.run.mode().name().to_owned(),
        hostname_override: config.node_name.to_string(),
        bind_address: theirs
            .bind_address
            .map_or_else(|| BIND_ADDRESS.to_owned(), |ip| ip.to_string()),
        healthz_bind_address: served_at(args.monitor.healthz_bind_address),
        metrics_bind_address: served_at(args.monitor.metrics_bind_address),
        client_connection: ClientConnection {
            kubeconfig: args
                .source
                .kubeconfig
                .as_ref()
                .map_or_else(String::new, |path| path.display().to_string()),
            ..file.client_connection.clone()
        },
        logging: Logging {
            format: match cli.log.log_format {
                Some(LogFormat::Json) => "json",
                _ => "text",
            }
            .to_owned(),
            verbosity: cli.log.verbosity.unwrap_or_default(),
            ..file.logging.clone()
        },
        oom_score_adj: theirs.oom_score_adj.map(i32::from),
        conntrack: conntrack(args),
        node_port_addresses: args.nodeport_addresses.iter().map(text_of).collect(),
        ..file
    };
    pods(&mut effective, args, config);
    ipvs(&mut effective, args);
    by_mode(&mut effective, cli);
    // In a file with mode nftables, no addresses means the primary ones.
    if effective.mode == "nftables" && effective.node_port_addresses.is_empty() {
        effective.node_port_addresses = ["0.0.0.0/0", "::/0"].map(str::to_owned).into();
    }
    effective
}

fn pods(effective: &mut KubeProxyConfiguration, args: &NodeArgs, config: &Config) {
    let text = |name: Option<proxier::desired::InterfaceName>| {
        name.map_or_else(String::new, |name| name.to_string())
    };
    effective.detect_local_mode = match args.detect_local_mode {
        args::DetectLocal::ClusterCidr => "ClusterCIDR",
        args::DetectLocal::NodeCidr => "NodeCIDR",
        args::DetectLocal::BridgeInterface => "BridgeInterface",
        args::DetectLocal::InterfaceNamePrefix => "InterfaceNamePrefix",
    }
    .to_owned();
    effective.detect_local = DetectLocal {
        bridge_interface: text(args.pod_bridge_interface),
        interface_name_prefix: text(args.pod_interface_name_prefix),
    };
    let networks = config.cluster_cidrs.iter().map(ToString::to_string);
    effective.cluster_cidr = networks.collect::<Vec<_>>().join(",");
}

fn ipvs(effective: &mut KubeProxyConfiguration, args: &NodeArgs) {
    let seconds = |Timeout(seconds): Timeout| {
        let duration = Duration::from_secs(seconds.unwrap_or_default().into());
        go(duration)
    };
    let ipvs = &mut effective.ipvs;
    ipvs.scheduler = args.ipvs_scheduler.to_string();
    ipvs.exclude_cidrs = args.exclude_cidrs.iter().map(ToString::to_string).collect();
    ipvs.strict_arp = args.strict_arp;
    ipvs.tcp_timeout = seconds(args.ipvs_tcp_timeout);
    ipvs.tcp_fin_timeout = seconds(args.ipvs_tcpfin_timeout);
    ipvs.udp_timeout = seconds(args.ipvs_udp_timeout);
}

/// kube-proxy has these settings once per mode; in svcproxy they apply to all modes.
fn by_mode(effective: &mut KubeProxyConfiguration, cli: &Cli) {
    let args = &cli.run.node;
    let Periods { audit, min_sync } = cli.run.periods();
    effective.iptables.masquerade_all = args.masquerade_all;
    effective.iptables.masquerade_bit = Some(args.masquerade_bit.into());
    let (sync, min) = match cli.run.mode() {
        Mode::Ipvs => (
            &mut effective.ipvs.sync_period,
            &mut effective.ipvs.min_sync_period,
        ),
        Mode::Iptables => (
            &mut effective.iptables.sync_period,
            &mut effective.iptables.min_sync_period,
        ),
        Mode::Nftables => (
            &mut effective.nftables.sync_period,
            &mut effective.nftables.min_sync_period,
        ),
        // kube-proxy has no section for it.
        Mode::Userspace => return,
    };
    (*sync, *min) = (go(audit), go(min_sync));
}

fn conntrack(args: &NodeArgs) -> Conntrack {
    let given = &args.kube_proxy.conntrack;
    let count = |count: Option<u32>| count.map(|count| i32::try_from(count).unwrap_or(i32::MAX));
    Conntrack {
        // 0 keeps the kernel's value.
        max_per_core: count(given.max_per_core.or(given.min.is_none().then_some(0))),
        min: count(given.min),
        tcp_established_timeout: Some(given.tcp_established.unwrap_or_default()),
        tcp_close_wait_timeout: Some(given.tcp_close_wait.unwrap_or_default()),
        tcp_be_liberal: given.tcp_be_liberal,
        udp_timeout: given.udp.unwrap_or_default(),
        udp_stream_timeout: given.udp_stream.unwrap_or_default(),
    }
}

fn served_at(BindAddress(address): BindAddress) -> String {
    address.map_or_else(String::new, |address| address.to_string())
}

fn text_of(addresses: &NodePortAddresses) -> String {
    match addresses {
        NodePortAddresses::Primary => "primary".to_owned(),
        NodePortAddresses::Localhost => "localhost".to_owned(),
        NodePortAddresses::All => "all".to_owned(),
        NodePortAddresses::In(network) => network.to_string(),
    }
}

fn go(duration: Duration) -> GoDuration {
    GoDuration::from_nanos(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}
