//! Fields with an effect: checked as kube-proxy checks them, and put in place of svcproxy's flags.
//!
//! Checks and defaults: pkg/proxy/apis/config/validation `validation.go` and
//! pkg/proxy/apis/config/v1alpha1 `defaults.go`.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use ipvs::Family;
use proxier::source::kube::Encoding;

use super::{FieldError, Note};
use crate::args::{
    BindAddress, ConntrackArgs, DEFAULT_HEALTHZ, DEFAULT_METRICS, DetectLocal, LogArgs, LogFormat,
    NodeArgs, NodePortAddresses, SyncArgs, Timeout, content_type, node_name, node_port_addresses,
    scheduler,
};
use crate::kube_proxy::{ClientConnection, Conntrack, GoDuration, KubeProxyConfiguration, Logging};

/// kube-proxy's default limits of tracked connections: per processor, and the minimum.
const MAX_PER_CORE: u32 = 32 * 1024;
const MIN: u32 = 128 * 1024;
/// kube-proxy's default bit.
const MASQUERADE_BIT: u8 = 14;

/// Replaces the flags by the settings of the file.
pub(super) fn apply(
    config: &KubeProxyConfiguration,
    args: &mut NodeArgs,
    log: &mut LogArgs,
) -> Result<Vec<Note>, Vec<FieldError>> {
    let mut fields = Checker::default();
    fields.check("mode", mode_name(&config.mode));
    args.kube_proxy.proxy_mode = Some(config.mode.clone());
    let connection = &config.client_connection;
    args.source.kube_api_content_type = fields.encoding(connection);
    let kubeconfig = &connection.kubeconfig;
    args.source.kubeconfig = (!kubeconfig.is_empty()).then(|| kubeconfig.into());
    fields.node(config, args);
    fields.pods(config, args);
    // Another mode's section must not prevent a start: kube-proxy does not check it. An empty mode
    // means ipvs here, so that a wrong scheduler is an error.
    let is_ipvs = matches!(&*config.mode, "ipvs" | "");
    fields.section(is_ipvs, |fields| fields.ipvs(config, args));
    fields.periods(config, &mut args.sync);
    fields.other_sections(config);
    fields.conntrack(&config.conntrack, &mut args.kube_proxy.conntrack);
    fields.logging(&config.logging, log);
    fields.unused(config);
    if !fields.errors.is_empty() {
        return Err(fields.errors);
    }
    fields.notes.extend(mode(&config.mode, "mode"));
    Ok(fields.notes)
}

/// Notes if svcproxy maps kube-proxy's mode to another one.
pub(super) fn mode(mode: &str, setting: &str) -> Option<Note> {
    match mode {
        "ipvs" | "iptables" | "nftables" | "userspace" => None,
        "" => Some(Note::info(format!(
            "{setting} is empty, which means iptables in kube-proxy; svcproxy uses mode ipvs"
        ))),
        mode => Some(Note::warning(format!(
            "{setting} is {mode}, a mode that svcproxy does not have; it uses mode ipvs"
        ))),
    }
}

/// Disables the servers whose port is 0 (`addressFromDeprecatedFlags` in kube-proxy's
/// `options.go`). Notes on ports without effect.
pub(super) fn ports(args: &mut NodeArgs) -> Vec<Note> {
    let (ports, addresses) = (&args.kube_proxy, &mut args.monitor);
    let flags = [
        (
            "--healthz-port",
            ports.healthz_port,
            &mut addresses.healthz_bind_address,
        ),
        (
            "--metrics-port",
            ports.metrics_port,
            &mut addresses.metrics_bind_address,
        ),
    ];
    let mut notes = Vec::new();
    for (flag, port, address) in flags {
        match port {
            None => {}
            Some(0) => *address = BindAddress(None),
            Some(_) => notes.push(Note::info(format!(
                "{flag} has no effect: the bind address includes the port"
            ))),
        }
    }
    notes
}

fn mode_name(mode: &str) -> Result<(), String> {
    match mode {
        "" | "ipvs" | "iptables" | "nftables" | "userspace" => Ok(()),
        mode => Err(format!(
            "{mode:?} must be ipvs, iptables, nftables, userspace or empty"
        )),
    }
}

#[derive(Default)]
struct Checker {
    errors: Vec<FieldError>,
    notes: Vec<Note>,
}

impl Checker {
    /// The value. An error is recorded.
    fn check<T>(&mut self, path: &str, value: Result<T, impl Display>) -> Option<T> {
        value
            .map_err(|error| self.errors.push(FieldError::new(path, error)))
            .ok()
    }

    fn parse<T: FromStr>(&mut self, path: &str, text: &str, what: &str) -> Option<T> {
        let value = text.parse();
        self.check(path, value.map_err(|_| format!("{text:?} is not {what}")))
    }

    /// Parses each item of a list.
    fn each<T>(
        &mut self,
        path: &str,
        items: &[String],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let item = |(index, item): (usize, &String)| {
            let error = |error| format!("{item:?}: {error}");
            self.check(&format!("{path}[{index}]"), parse(item).map_err(error))
        };
        items.iter().enumerate().filter_map(item).collect()
    }

    /// The encoding in which to request objects. client-go prefers the accepted types to the content
    /// type (`setAcceptHeader` in rest/request.go).
    fn encoding(&mut self, connection: &ClientConnection) -> Encoding {
        let accepted = &connection.accept_content_types;
        let encoding = if accepted.is_empty() {
            let path = "clientConnection.contentType";
            self.check(path, content_type(&connection.content_type))
        } else {
            let known = accepted.split(',').find_map(Encoding::of_media_type);
            let error = || format!("{accepted:?} has neither Protocol Buffers nor JSON");
            let path = "clientConnection.acceptContentTypes";
            self.check(path, known.ok_or_else(error))
        };
        encoding.unwrap_or_default()
    }

    fn not_negative(&mut self, path: &str, duration: GoDuration) {
        if duration.is_negative() {
            let error = format!("{duration} must not be negative");
            self.errors.push(FieldError::new(path, error));
        }
    }

    /// Checks a section of the file. If it is not the section of the file's mode, errors become
    /// warnings, and the fields have their defaults.
    fn section(&mut self, is_used: bool, check: impl FnOnce(&mut Self)) {
        let before = self.errors.len();
        check(self);
        if !is_used {
            let errors = self.errors.drain(before..);
            self.notes.extend(errors.map(|error| {
                Note::warning(format!(
                    "{error}; ignored, it belongs to another mode's section"
                ))
            }));
        }
    }

    fn node(&mut self, config: &KubeProxyConfiguration, args: &mut NodeArgs) {
        // The flag takes precedence, as kube-proxy's --hostname-override does.
        if args.node_name.is_none() && !config.hostname_override.is_empty() {
            args.node_name = self.check("hostnameOverride", node_name(&config.hostname_override));
        }
        let bind = &mut args.kube_proxy.bind_address;
        *bind = None;
        if !config.bind_address.is_empty() {
            *bind = self.parse("bindAddress", &config.bind_address, "an IP address");
        }
        let (healthz, metrics) = (&config.healthz_bind_address, &config.metrics_bind_address);
        // The defaults are of the bind address's family (`getDefaultAddresses`).
        let (default_healthz, default_metrics) = match bind {
            Some(IpAddr::V6(_)) => ("[::]:10256", "[::1]:10249"),
            _ => (DEFAULT_HEALTHZ, DEFAULT_METRICS),
        };
        args.monitor.healthz_bind_address =
            self.served_at::<10256>("healthzBindAddress", healthz, default_healthz);
        args.monitor.metrics_bind_address =
            self.served_at::<10249>("metricsBindAddress", metrics, default_metrics);
        args.kube_proxy.oom_score_adj = config.oom_score_adj.and_then(|score| {
            let checked = i16::try_from(score).ok();
            let checked = checked.filter(|score| (-1000..=1000).contains(score));
            let error = format!("{score} must be within -1000 and 1000");
            self.check("oomScoreAdj", checked.ok_or(error))
        });
        args.nodeport_addresses = self.each(
            "nodePortAddresses",
            &config.node_port_addresses,
            node_port_addresses,
        );
        if config.mode == "nftables" && config.node_port_addresses.is_empty() {
            args.nodeport_addresses.push(NodePortAddresses::Primary);
        }
    }

    /// An address with a port, or without one; empty is the default.
    fn served_at<const PORT: u16>(&mut self, path: &str, text: &str, default: &str) -> BindAddress {
        let text = if text.is_empty() { default } else { text };
        let error = format!("{text:?} is not an IP address with a port");
        let address = BindAddress::parse::<PORT>(text).map_err(|_| error);
        self.check(path, address).unwrap_or(BindAddress(None))
    }

    fn pods(&mut self, config: &KubeProxyConfiguration, args: &mut NodeArgs) {
        let detect = match &*config.detect_local_mode {
            "" | "ClusterCIDR" => Ok(DetectLocal::ClusterCidr),
            "NodeCIDR" => Ok(DetectLocal::NodeCidr),
            "BridgeInterface" => Ok(DetectLocal::BridgeInterface),
            "InterfaceNamePrefix" => Ok(DetectLocal::InterfaceNamePrefix),
            other => Err(format!(
                "{other:?} is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix"
            )),
        };
        let detect = self.check("detectLocalMode", detect);
        args.detect_local_mode = detect.unwrap_or(DetectLocal::ClusterCidr);
        args.pod_bridge_interface = None;
        args.pod_interface_name_prefix = None;
        let names = &config.detect_local;
        match args.detect_local_mode {
            DetectLocal::BridgeInterface => {
                let name = names.bridge_interface.parse();
                args.pod_bridge_interface = self.check("detectLocal.bridgeInterface", name);
            }
            DetectLocal::InterfaceNamePrefix => {
                let name = names.interface_name_prefix.parse();
                args.pod_interface_name_prefix =
                    self.check("detectLocal.interfaceNamePrefix", name);
            }
            DetectLocal::ClusterCidr | DetectLocal::NodeCidr => {}
        }
        args.cluster_cidrs.clear();
        if !config.cluster_cidr.is_empty() {
            args.cluster_cidrs = self.cluster_cidrs(&config.cluster_cidr);
        }
        // The section of the file's mode.
        let (section, bit, all) = match &*config.mode {
            "nftables" => (
                "nftables",
                config.nftables.masquerade_bit,
                config.nftables.masquerade_all,
            ),
            _ => (
                "iptables",
                config.iptables.masquerade_bit,
                config.iptables.masquerade_all,
            ),
        };
        args.masquerade_all = all;
        args.masquerade_bit = self.masquerade_bit(section, bit);
        if config.iptables.snat_node_internal_ip == Some(true) {
            self.notes.push(Note::warning(
                "iptables.snatNodeInternalIP has no effect: connections are masqueraded with the \
                 address of the interface that they leave by",
            ));
        }
    }

    /// One network, or one per family.
    fn cluster_cidrs(&mut self, text: &str) -> Vec<IpNet> {
        let texts: Vec<_> = text.split(',').map(str::to_owned).collect();
        let network = |text: &str| {
            text.trim()
                .parse()
                .map_err(|_| "not a network (10.244.0.0/16)".to_owned())
        };
        let cidrs: Vec<IpNet> = self.each("clusterCIDR", &texts, network);
        let one_family = || match &*cidrs {
            [one, other] => Family::of(&one.addr()) == Family::of(&other.addr()),
            _ => false,
        };
        if texts.len() > 2 || one_family() {
            let error = format!("{text:?} must be one network, or one of each family");
            self.errors.push(FieldError::new("clusterCIDR", error));
        }
        cidrs
    }

    fn ipvs(&mut self, config: &KubeProxyConfiguration, args: &mut NodeArgs) {
        let ipvs = &config.ipvs;
        let name = &ipvs.scheduler;
        let error = |error| format!("{name:?}: {error}");
        let scheduler = self.check("ipvs.scheduler", scheduler(name).map_err(error));
        args.ipvs_scheduler = scheduler.unwrap_or(args.ipvs_scheduler);
        args.strict_arp = ipvs.strict_arp;
        let network = |text: &str| {
            text.parse()
                .map_err(|_| "not a network (192.0.2.0/24)".to_owned())
        };
        args.exclude_cidrs = self.each("ipvs.excludeCIDRs", &ipvs.exclude_cidrs, network);
        let timeouts = [
            (
                "ipvs.tcpTimeout",
                ipvs.tcp_timeout,
                &mut args.ipvs_tcp_timeout,
            ),
            (
                "ipvs.tcpFinTimeout",
                ipvs.tcp_fin_timeout,
                &mut args.ipvs_tcpfin_timeout,
            ),
            (
                "ipvs.udpTimeout",
                ipvs.udp_timeout,
                &mut args.ipvs_udp_timeout,
            ),
        ];
        for (path, duration, timeout) in timeouts {
            let error = |error| format!("{duration}: {error}");
            let checked = self.check(path, Timeout::of(duration).map_err(error));
            *timeout = checked.unwrap_or(*timeout);
        }
    }

    /// Checks the sections that neither the mode nor its replacement uses.
    fn other_sections(&mut self, config: &KubeProxyConfiguration) {
        let (ipvs, iptables, nftables) = (&config.ipvs, &config.iptables, &config.nftables);
        let mode = match &*config.mode {
            "iptables" | "nftables" => &*config.mode,
            _ => "ipvs",
        };
        let periods = [
            ("ipvs", ipvs.sync_period, ipvs.min_sync_period),
            ("iptables", iptables.sync_period, iptables.min_sync_period),
            ("nftables", nftables.sync_period, nftables.min_sync_period),
        ];
        self.section(false, |fields| {
            for (section, sync, min_sync) in periods {
                if section != mode {
                    fields.periods_of(section, sync, min_sync);
                }
            }
            // Mode ipvs uses the bit of the section iptables.
            if mode == "nftables" {
                fields.masquerade_bit("iptables", iptables.masquerade_bit);
            } else {
                fields.masquerade_bit("nftables", nftables.masquerade_bit);
            }
        });
    }

    fn periods_of(&mut self, section: &str, sync: GoDuration, min_sync: GoDuration) {
        self.not_negative(&format!("{section}.minSyncPeriod"), min_sync);
        if !sync.is_zero() && (sync.is_negative() || sync < min_sync) {
            let error = format!("{sync} must be more than 0 and not less than minSyncPeriod");
            let path = format!("{section}.syncPeriod");
            self.errors.push(FieldError::new(path, error));
        }
    }

    /// The bit, or kube-proxy's default.
    fn masquerade_bit(&mut self, section: &str, bit: Option<i32>) -> u8 {
        let Some(bit) = bit else {
            return MASQUERADE_BIT;
        };
        let checked = u8::try_from(bit).ok().filter(|bit| *bit < 32);
        let error = format!("{bit} must be within 0 and 31");
        let checked = self.check(&format!("{section}.masqueradeBit"), checked.ok_or(error));
        checked.unwrap_or(MASQUERADE_BIT)
    }

    /// Checks the periods of the file's mode, as kube-proxy does.
    fn periods(&mut self, config: &KubeProxyConfiguration, args: &mut SyncArgs) {
        let (ipvs, iptables, nftables) = (&config.ipvs, &config.iptables, &config.nftables);
        let ipvs = ("ipvs", ipvs.sync_period, ipvs.min_sync_period);
        let iptables = ("iptables", iptables.sync_period, iptables.min_sync_period);
        let nftables = ("nftables", nftables.sync_period, nftables.min_sync_period);
        let checked = match &*config.mode {
            "iptables" => iptables,
            "nftables" => nftables,
            _ => ipvs,
        };
        let (section, sync, min_sync) = checked;
        self.periods_of(section, sync, min_sync);
        let set = |period: GoDuration| period.duration().filter(|period| !period.is_zero());
        *args = SyncArgs {
            ipvs_sync_period: set(ipvs.1),
            ipvs_min_sync_period: set(ipvs.2),
            iptables_sync_period: set(iptables.1),
            iptables_min_sync_period: set(iptables.2),
            nftables_sync_period: set(nftables.1),
            nftables_min_sync_period: set(nftables.2),
            // svcproxy's own flag, which takes precedence.
            audit_interval: args.audit_interval,
        };
    }

    /// As in kube-proxy, absent fields have defaults, and 0 keeps the kernel's value.
    fn conntrack(&mut self, config: &Conntrack, args: &mut ConntrackArgs) {
        let count = |fields: &mut Self, path, value: Option<i32>, default| {
            let checked = u32::try_from(value.unwrap_or_default());
            let error = |_| format!("{} must not be negative", value.unwrap_or_default());
            let checked = fields.check(path, checked.map_err(error));
            value.map_or(Some(default), |_| checked)
        };
        let established = config.tcp_established_timeout;
        let close_wait = config.tcp_close_wait_timeout;
        *args = ConntrackArgs {
            max_per_core: count(
                self,
                "conntrack.maxPerCore",
                config.max_per_core,
                MAX_PER_CORE,
            ),
            min: count(self, "conntrack.min", config.min, MIN),
            tcp_established: established.or(Some(GoDuration::from_secs(24 * 3600))),
            tcp_close_wait: close_wait.or(Some(GoDuration::from_secs(3600))),
            tcp_be_liberal: config.tcp_be_liberal,
            udp: Some(config.udp_timeout),
            udp_stream: Some(config.udp_stream_timeout),
        };
        let timeouts = [
            ("conntrack.tcpEstablishedTimeout", args.tcp_established),
            ("conntrack.tcpCloseWaitTimeout", args.tcp_close_wait),
            ("conntrack.udpTimeout", args.udp),
            ("conntrack.udpStreamTimeout", args.udp_stream),
        ];
        for (path, timeout) in timeouts {
            self.not_negative(path, timeout.unwrap_or_default());
        }
    }

    /// Flags take precedence, as in kube-proxy.
    fn logging(&mut self, config: &Logging, args: &mut LogArgs) {
        let format = match &*config.format {
            "" => Ok(None),
            "text" => Ok(Some(LogFormat::Text)),
            "json" => Ok(Some(LogFormat::Json)),
            other => Err(format!("{other:?} is neither text nor json")),
        };
        let format = self.check("logging.format", format).flatten();
        args.log_format = args.log_format.or(format);
        args.verbosity = args.verbosity.or(Some(config.verbosity));
    }

    /// Checks the fields without effect, too.
    fn unused(&mut self, config: &KubeProxyConfiguration) {
        self.not_negative("configSyncPeriod", config.config_sync_period);
        if config.client_connection.burst < 0 {
            let error = format!("{} must not be negative", config.client_connection.burst);
            let error = FieldError::new("clientConnection.burst", error);
            self.errors.push(error);
        }
    }
}

impl ConntrackArgs {
    /// The settings of connection tracking on a node with this number of processors.
    pub(crate) fn settings(&self, processors: u32) -> proxier::desired::Conntrack {
        let seconds = |timeout: Option<GoDuration>| {
            let seconds = timeout?.duration()?.as_secs();
            u32::try_from(seconds).ok().filter(|seconds| *seconds > 0)
        };
        let mut settings = proxier::desired::Conntrack::default();
        if self.max_per_core.or(self.min).is_some() && self.max_per_core != Some(0) {
            let scaled = self
                .max_per_core
                .unwrap_or(MAX_PER_CORE)
                .saturating_mul(processors);
            settings.max = Some(scaled.max(self.min.unwrap_or(MIN)));
        }
        settings.tcp_established = seconds(self.tcp_established);
        settings.tcp_close_wait = seconds(self.tcp_close_wait);
        settings.tcp_be_liberal = self.tcp_be_liberal;
        settings.udp = seconds(self.udp);
        settings.udp_stream = seconds(self.udp_stream);
        settings
    }
}
