//! kube-proxy's settings that have no effect in svcproxy, and the reasons.

const WATCHES: &str = "svcproxy holds a few watches, which need no limit or resync";
const GATES: &str = "svcproxy has none of kube-proxy's feature gates";
const PROFILING: &str = "there are no profiling handlers";
const HIDDEN_METRICS: &str = "no metric is hidden";
const LOG: &str = "the log is one stream without a buffer to set; SVCPROXY_LOG filters it";
const LOOPBACK: &str = "loopback addresses never serve node ports";
const WINDOWS: &str = "for Windows";
const RETRIED: &str = "svcproxy retries an address in use, and works meanwhile";
const USERSPACE: &str = "it is for the userspace mode of earlier versions";
const CGROUPS: &str = "the container runtime or the service manager sets the cgroup";
const KLOG: &str = "the log goes to standard error in one stream";
const LIMIT: &str = "conntrack.maxPerCore and conntrack.min, or their flags, set the limit";
const CLEANUP: &str = "--cleanup or the command cleanup removes svcproxy's rules";

/// Fields: each is a leaf of the configuration, or a whole map or list.
pub(crate) const FIELDS: &[(&str, &str)] = &[
    ("featureGates", GATES),
    ("clientConnection.qps", WATCHES),
    ("clientConnection.burst", WATCHES),
    ("logging.flushFrequency", LOG),
    ("logging.vmodule", LOG),
    ("logging.options.text.splitStream", LOG),
    ("logging.options.text.infoBufferSize", LOG),
    ("logging.options.json.splitStream", LOG),
    ("logging.options.json.infoBufferSize", LOG),
    ("bindAddressHardFail", RETRIED),
    ("enableProfiling", PROFILING),
    ("showHiddenMetricsForVersion", HIDDEN_METRICS),
    ("iptables.localhostNodePorts", LOOPBACK),
    ("winkernel.networkName", WINDOWS),
    ("winkernel.sourceVip", WINDOWS),
    ("winkernel.enableDSR", WINDOWS),
    ("winkernel.rootHnsEndpointName", WINDOWS),
    ("winkernel.forwardHealthCheckVip", WINDOWS),
    ("configSyncPeriod", WATCHES),
    ("portRange", USERSPACE),
    ("windowsRunAsService", WINDOWS),
];

/// Fields of earlier versions of kube-proxy, which current ones do not know either.
pub(crate) const OBSOLETE_FIELDS: &[(&str, &str)] = &[
    ("conntrack.max", LIMIT),
    ("resourceContainer", CGROUPS),
    ("udpIdleTimeout", USERSPACE),
];

/// The value that a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, or `=true`, `=false`.
    Switch,
    Integer,
    Number,
    Duration,
    Text,
}

/// A flag of kube-proxy.
#[derive(Debug)]
pub(crate) struct Flag {
    /// The name without dashes.
    pub(crate) name: &'static str,
    pub(crate) takes: Takes,
    pub(crate) why: &'static str,
}

const fn flag(name: &'static str, takes: Takes, why: &'static str) -> Flag {
    Flag { name, takes, why }
}

/// Flags, of cmd/kube-proxy/app `options.go` and component-base's `logs/api/v1/options.go`.
pub(crate) const FLAGS: &[Flag] = &[
    flag("feature-gates", Takes::Text, GATES),
    flag("bind-address-hard-fail", Takes::Switch, RETRIED),
    flag("kube-api-qps", Takes::Number, WATCHES),
    flag("kube-api-burst", Takes::Integer, WATCHES),
    flag("config-sync-period", Takes::Duration, WATCHES),
    flag("profiling", Takes::Switch, PROFILING),
    flag(
        "show-hidden-metrics-for-version",
        Takes::Text,
        HIDDEN_METRICS,
    ),
    flag("iptables-localhost-nodeports", Takes::Switch, LOOPBACK),
    flag("vmodule", Takes::Text, LOG),
    flag("log-flush-frequency", Takes::Duration, LOG),
    flag("log-text-split-stream", Takes::Switch, LOG),
    flag("log-text-info-buffer-size", Takes::Text, LOG),
    flag("log-json-split-stream", Takes::Switch, LOG),
    flag("log-json-info-buffer-size", Takes::Text, LOG),
];

/// Flags of earlier versions of kube-proxy: klog's until 1.25, and those of removed features.
pub(crate) const OBSOLETE_FLAGS: &[Flag] = &[
    flag("add-dir-header", Takes::Switch, KLOG),
    flag("alsologtostderr", Takes::Switch, KLOG),
    flag("log-backtrace-at", Takes::Text, KLOG),
    flag("log-dir", Takes::Text, KLOG),
    flag("log-file", Takes::Text, KLOG),
    flag("log-file-max-size", Takes::Text, KLOG),
    flag("logtostderr", Takes::Switch, KLOG),
    flag("one-output", Takes::Switch, KLOG),
    flag("skip-headers", Takes::Switch, KLOG),
    flag("skip-log-headers", Takes::Switch, KLOG),
    flag("stderrthreshold", Takes::Text, KLOG),
    flag("cleanup-ipvs", Takes::Switch, CLEANUP),
    flag("cleanup-iptables", Takes::Switch, CLEANUP),
    flag("conntrack-max", Takes::Integer, LIMIT),
    flag("proxy-port-range", Takes::Text, USERSPACE),
    flag("resource-container", Takes::Text, CGROUPS),
    flag("udp-timeout", Takes::Duration, USERSPACE),
];

/// All flags that have no effect.
pub(crate) fn all_flags() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().chain(OBSOLETE_FLAGS)
}
