//! kube-proxy's settings that have no effect here, and why.

use serde_json::Value;

use super::{Fields, Note};
use crate::args::NodeArgs;

const IN_PLACE: &str = "each change is applied at once, and costs work for its Service alone";
const WATCHES: &str = "a handful of watches needs no limit, no content type and no resync";
const GATES: &str = "kube-proxy's feature gates mean nothing here";
const PROFILING: &str = "there are no profiling handlers";
const HIDDEN_METRICS: &str = "no metric is hidden";
const LOG: &str = "the log is unbuffered, and filtered by SVCPROXY_LOG";
const LOOPBACK: &str = "loopback addresses never serve node ports";
const WINDOWS: &str = "for Windows";
const AUDIT: &str = "--audit-interval is for all modes";
const PORT: &str = "the address is given with its port";
const RETRIED: &str = "an address that is taken is tried again, and keeps nothing else from work";
const GONE: &str = "kube-proxy itself takes no notice of it any more";

/// Fields, each a leaf of the configuration, or all of a map or a list.
pub(super) const FIELDS: &[(&str, &str)] = &[
    ("featureGates", GATES),
    ("clientConnection.acceptContentTypes", WATCHES),
    ("clientConnection.contentType", WATCHES),
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
    ("iptables.minSyncPeriod", IN_PLACE),
    ("ipvs.minSyncPeriod", IN_PLACE),
    ("nftables.minSyncPeriod", IN_PLACE),
    ("winkernel.networkName", WINDOWS),
    ("winkernel.sourceVip", WINDOWS),
    ("winkernel.enableDSR", WINDOWS),
    ("winkernel.rootHnsEndpointName", WINDOWS),
    ("winkernel.forwardHealthCheckVip", WINDOWS),
    ("configSyncPeriod", WATCHES),
    ("portRange", GONE),
    ("windowsRunAsService", WINDOWS),
    ("udpIdleTimeout", GONE),
];

/// What follows a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, or `=true`, `=false`.
    Switch,
    Integer,
    Number,
    Duration,
    Text,
}

/// A flag of kube-proxy's.
#[derive(Debug)]
pub(crate) struct Flag {
    /// Without the dashes.
    pub(crate) name: &'static str,
    pub(crate) takes: Takes,
    why: &'static str,
}

const fn flag(name: &'static str, takes: Takes, why: &'static str) -> Flag {
    Flag { name, takes, why }
}

/// Flags, of cmd/kube-proxy/app `options.go` and component-base's `logs/api/v1/options.go`.
pub(crate) const FLAGS: &[Flag] = &[
    flag("feature-gates", Takes::Text, GATES),
    flag("healthz-port", Takes::Integer, PORT),
    flag("metrics-port", Takes::Integer, PORT),
    flag("bind-address-hard-fail", Takes::Switch, RETRIED),
    flag("kube-api-content-type", Takes::Text, WATCHES),
    flag("kube-api-qps", Takes::Number, WATCHES),
    flag("kube-api-burst", Takes::Integer, WATCHES),
    flag("config-sync-period", Takes::Duration, WATCHES),
    flag("profiling", Takes::Switch, PROFILING),
    flag(
        "show-hidden-metrics-for-version",
        Takes::Text,
        HIDDEN_METRICS,
    ),
    flag("ipvs-min-sync-period", Takes::Duration, IN_PLACE),
    flag("iptables-min-sync-period", Takes::Duration, IN_PLACE),
    flag("iptables-sync-period", Takes::Duration, AUDIT),
    flag("iptables-localhost-nodeports", Takes::Switch, LOOPBACK),
    flag("vmodule", Takes::Text, LOG),
    flag("log-flush-frequency", Takes::Duration, LOG),
    flag("log-text-split-stream", Takes::Switch, LOG),
    flag("log-text-info-buffer-size", Takes::Text, LOG),
    flag("log-json-split-stream", Takes::Switch, LOG),
    flag("log-json-info-buffer-size", Takes::Text, LOG),
];

/// Notes of the flags that were given in vain.
pub(super) fn flags(args: &NodeArgs) -> Vec<Note> {
    let given = args.kube_proxy.given();
    let inert = |name: &str| FLAGS.iter().find(|flag| flag.name == name);
    let without = given
        .iter()
        .filter_map(|name| Some(format!("--{name} has no effect: {}", inert(name)?.why)));
    let mut notes: Vec<_> = without.map(Note::info).collect();
    if args.kube_proxy.config.is_some() {
        let covered = given.iter().filter(|name| inert(name).is_none());
        notes.extend(
            covered.map(|name| Note::warning(format!("--{name} is ignored: --config covers it"))),
        );
    }
    notes
}

/// Notes of the fields that are set in vain.
pub(super) fn fields(fields: &Fields) -> Vec<Note> {
    let mut notes = Vec::new();
    for (path, why) in FIELDS {
        match fields.get(path) {
            Some(Value::Object(entries)) => notes.extend(
                entries
                    .keys()
                    .map(|key| Note::info(format!("{path}.{key} has no effect: {why}"))),
            ),
            Some(_) => notes.push(Note::info(format!("{path} has no effect: {why}"))),
            None => {}
        }
    }
    notes
}
