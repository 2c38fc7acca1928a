//! Flags that svcproxy accepts only for compatibility with kube-proxy.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use super::{go_bool, go_int};
use crate::kube_proxy::{GoDuration, KubeProxyConfiguration, Takes, all_flags};

const KUBE_PROXY: &str = "Compatibility with kube-proxy (docs/kube-proxy.md)";

/// The settings that `--config` covers, as argument and flag. Not in the list: kube-proxy's flags
/// that take precedence over the file (`Complete` in options.go), and flags that only svcproxy has.
pub(crate) const COVERED: &[(&str, &str)] = &[
    ("kubeconfig", "kubeconfig"),
    ("kube_api_content_type", "kube-api-content-type"),
    ("proxy_mode", "proxy-mode"),
    ("bind_address", "bind-address"),
    ("oom_score_adj", "oom-score-adj"),
    ("max_per_core", "conntrack-max-per-core"),
    ("min", "conntrack-min"),
    ("tcp_established", "conntrack-tcp-timeout-established"),
    ("tcp_close_wait", "conntrack-tcp-timeout-close-wait"),
    ("tcp_be_liberal", "conntrack-tcp-be-liberal"),
    ("udp", "conntrack-udp-timeout"),
    ("udp_stream", "conntrack-udp-timeout-stream"),
    ("strict_arp", "strict-arp"),
    ("detect_local_mode", "detect-local-mode"),
    ("cluster_cidrs", "cluster-cidr"),
    ("pod_bridge_interface", "pod-bridge-interface"),
    ("pod_interface_name_prefix", "pod-interface-name-prefix"),
    ("masquerade_all", "masquerade-all"),
    ("masquerade_bit", "masquerade-bit"),
    ("nodeport_addresses", "nodeport-addresses"),
    ("exclude_cidrs", "exclude-cidrs"),
    ("ipvs_scheduler", "ipvs-scheduler"),
    ("ipvs_tcp_timeout", "ipvs-tcp-timeout"),
    ("ipvs_tcpfin_timeout", "ipvs-tcpfin-timeout"),
    ("ipvs_udp_timeout", "ipvs-udp-timeout"),
    ("ipvs_sync_period", "ipvs-sync-period"),
    ("ipvs_min_sync_period", "ipvs-min-sync-period"),
    ("iptables_sync_period", "iptables-sync-period"),
    ("iptables_min_sync_period", "iptables-min-sync-period"),
    ("healthz_bind_address", "healthz-bind-address"),
    ("metrics_bind_address", "metrics-bind-address"),
    ("healthz_port", "healthz-port"),
    ("metrics_port", "metrics-port"),
];

/// kube-proxy's flags: to run svcproxy from kube-proxy's manifests, it is enough to change the
/// image and the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct KubeProxyArgs {
    #[command(flatten)]
    given: Given,

    /// kube-proxy's configuration file (KubeProxyConfiguration); flags that it covers are ignored, as
    /// in kube-proxy
    #[arg(long, value_name = "FILE", help_heading = KUBE_PROXY)]
    pub(crate) config: Option<PathBuf>,

    /// The content of the file.
    #[arg(skip)]
    pub(crate) file: Option<Box<KubeProxyConfiguration>>,

    /// Data plane, as kube-proxy names it: empty means IPVS
    #[arg(
        long,
        value_name = "MODE",
        value_parser = ["", "ipvs", "iptables", "nftables", "userspace"],
        hide = true
    )]
    pub(crate) proxy_mode: Option<String>,

    /// This node's address of its family, instead of that of its Node object; 0.0.0.0 and :: mean
    /// none
    #[arg(long, value_name = "IP", hide = true)]
    pub(crate) bind_address: Option<IpAddr>,

    /// OOM score adjustment of svcproxy, -1000 (never killed) to 1000 (killed first)
    #[arg(
        long,
        value_name = "NUMBER",
        value_parser = oom_score_adj,
        hide = true
    )]
    pub(crate) oom_score_adj: Option<i16>,

    /// 0 disables the health server; other values have no effect, as the bind address has a port
    #[arg(long, value_name = "PORT", value_parser = go_int, hide = true)]
    pub(crate) healthz_port: Option<i32>,

    /// 0 disables the metrics server; other values have no effect, as the bind address has a port
    #[arg(long, value_name = "PORT", value_parser = go_int, hide = true)]
    pub(crate) metrics_port: Option<i32>,

    #[command(flatten)]
    pub(crate) conntrack: ConntrackArgs,
}

impl KubeProxyArgs {
    /// The given flags that have no effect, or no effect with `--config`.
    pub(crate) fn given(&self) -> &[&'static str] {
        &self.given.0
    }
}

/// Sysctls of connection tracking; absent ones stay unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct ConntrackArgs {
    /// Maximum number of tracked connections per processor; 0 keeps the kernel's value
    #[arg(long = "conntrack-max-per-core", value_name = "NUMBER", value_parser = count, hide = true)]
    pub(crate) max_per_core: Option<u32>,

    /// Minimum of the limit of tracked connections, regardless of --conntrack-max-per-core
    #[arg(long = "conntrack-min", value_name = "NUMBER", value_parser = count, hide = true)]
    pub(crate) min: Option<u32>,

    /// How long idle TCP connections are tracked
    #[arg(
        long = "conntrack-tcp-timeout-established",
        value_name = "DURATION",
        hide = true
    )]
    pub(crate) tcp_established: Option<GoDuration>,

    /// How long TCP connections in CLOSE_WAIT are tracked
    #[arg(
        long = "conntrack-tcp-timeout-close-wait",
        value_name = "DURATION",
        hide = true
    )]
    pub(crate) tcp_close_wait: Option<GoDuration>,

    /// Accept TCP packets outside of the window
    #[arg(
        long = "conntrack-tcp-be-liberal",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value_t = false,
        value_parser = go_bool,
        action = ArgAction::Set,
        hide = true
    )]
    pub(crate) tcp_be_liberal: bool,

    /// How long UDP flows without replies are tracked
    #[arg(long = "conntrack-udp-timeout", value_name = "DURATION", hide = true)]
    pub(crate) udp: Option<GoDuration>,

    /// How long UDP flows with replies are tracked
    #[arg(
        long = "conntrack-udp-timeout-stream",
        value_name = "DURATION",
        hide = true
    )]
    pub(crate) udp_stream: Option<GoDuration>,
}

fn oom_score_adj(text: &str) -> Result<i16, String> {
    let score = i16::try_from(go_int(text)?).ok();
    let score = score.filter(|score| (-1000..=1000).contains(score));
    score.ok_or_else(|| "must be within -1000 and 1000".to_owned())
}

fn count(text: &str) -> Result<u32, String> {
    u32::try_from(go_int(text)?).map_err(|_| "must not be negative".to_owned())
}

/// The flags without effect come from a table; their values are checked anyway.
#[derive(Debug, Clone)]
struct Given(Vec<&'static str>);

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        all_flags().fold(command, |command, flag| {
            let arg = Arg::new(flag.name).long(flag.name).hide(true);
            command.arg(match flag.takes {
                Takes::Switch => arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
                    .value_parser(go_bool),
                Takes::Integer => arg.value_parser(go_int),
                Takes::Number => arg.value_parser(clap::value_parser!(f32)),
                Takes::Duration => arg.value_parser(|text: &str| text.parse::<GoDuration>()),
                Takes::Text => arg.action(ArgAction::Append),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut given = Self(Vec::new());
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        let flags = all_flags().map(|flag| (flag.name, flag.name));
        let flags = flags.chain(COVERED.iter().copied());
        let given = flags.filter(|(argument, _)| {
            matches.value_source(argument) == Some(ValueSource::CommandLine)
        });
        self.0 = given.map(|(_, flag)| flag).collect();
        Ok(())
    }
}
