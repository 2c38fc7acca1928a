//! The fields of `KubeProxyConfiguration`, kubeproxy.config.k8s.io/v1alpha1.
//!
//! Names and types are those of k8s.io/kube-proxy/config/v1alpha1 `types.go`, as of Kubernetes
//! 1.36; `logging` is k8s.io/component-base/logs/api/v1, `clientConnection` its config/v1alpha1. As
//! in Go's JSON, an absent or null field has the type's zero value, which means the default.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use super::GoDuration;

/// A struct of the configuration. All of its fields are optional.
macro_rules! fields {
    ($(#[$attribute:meta])* $name:ident { $($field:ident $(as $json:literal)?: $type:ty,)* }) => {
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        $(#[$attribute])*
        pub(crate) struct $name {
            $($(#[serde(rename = $json)])? pub(crate) $field: $type,)*
        }
    };
}

fields! {
    /// The file.
    KubeProxyConfiguration {
        kind: String,
        api_version: String,
        feature_gates: BTreeMap<String, bool>,
        client_connection: ClientConnection,
        logging: Logging,
        hostname_override: String,
        bind_address: String,
        healthz_bind_address: String,
        metrics_bind_address: String,
        bind_address_hard_fail: bool,
        enable_profiling: bool,
        show_hidden_metrics_for_version: String,
        mode: String,
        iptables: IpTables,
        ipvs: Ipvs,
        nftables: NfTables,
        winkernel: Winkernel,
        detect_local_mode: String,
        detect_local: DetectLocal,
        cluster_cidr as "clusterCIDR": String,
        node_port_addresses: Vec<String>,
        oom_score_adj: Option<i32>,
        conntrack: Conntrack,
        config_sync_period: GoDuration,
        port_range: String,
        windows_run_as_service: bool,
    }
}

fields! {
    ClientConnection {
        kubeconfig: String,
        accept_content_types: String,
        content_type: String,
        qps: f32,
        burst: i32,
    }
}

fields! {
    Logging {
        format: String,
        flush_frequency: FlushFrequency,
        verbosity: u32,
        vmodule: Vec<VModule>,
        options: LoggingOptions,
    }
}

fields! {
    /// A log level for some source files.
    VModule {
        file_pattern: String,
        verbosity: u32,
    }
}

fields! {
    LoggingOptions {
        text: LoggingStream,
        json: LoggingStream,
    }
}

fields! {
    LoggingStream {
        split_stream: bool,
        info_buffer_size: Quantity,
    }
}

fields! {
    IpTables {
        masquerade_bit: Option<i32>,
        masquerade_all: bool,
        localhost_node_ports: Option<bool>,
        snat_node_internal_ip as "snatNodeInternalIP": Option<bool>,
        sync_period: GoDuration,
        min_sync_period: GoDuration,
    }
}

fields! {
    Ipvs {
        sync_period: GoDuration,
        min_sync_period: GoDuration,
        scheduler: String,
        exclude_cidrs as "excludeCIDRs": Vec<String>,
        strict_arp as "strictARP": bool,
        tcp_timeout: GoDuration,
        tcp_fin_timeout: GoDuration,
        udp_timeout: GoDuration,
    }
}

fields! {
    NfTables {
        masquerade_bit: Option<i32>,
        masquerade_all: bool,
        sync_period: GoDuration,
        min_sync_period: GoDuration,
    }
}

fields! {
    Winkernel {
        network_name: String,
        source_vip: String,
        enable_dsr as "enableDSR": bool,
        root_hns_endpoint_name: String,
        forward_health_check_vip: bool,
    }
}

fields! {
    DetectLocal {
        bridge_interface: String,
        interface_name_prefix: String,
    }
}

fields! {
    Conntrack {
        max_per_core: Option<i32>,
        min: Option<i32>,
        tcp_established_timeout: Option<GoDuration>,
        tcp_close_wait_timeout: Option<GoDuration>,
        tcp_be_liberal: bool,
        udp_timeout: GoDuration,
        udp_stream_timeout: GoDuration,
    }
}

/// A duration, or nanoseconds as a number (component-base's `TimeOrMetaDuration`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct FlushFrequency(GoDuration);

impl<'de> Deserialize<'de> for FlushFrequency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Number(number) if number.is_i64() => {
                let nanos = number.as_i64().unwrap_or_default();
                Ok(Self(GoDuration::from_nanos(nanos)))
            }
            other => GoDuration::deserialize(other)
                .map(Self)
                .map_err(de::Error::custom),
        }
    }
}

/// A quantity as in resource.Quantity: a number, or a text such as 64Ki.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Quantity(String);

impl Default for Quantity {
    fn default() -> Self {
        Self("0".to_owned())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Number(number) => Ok(Self(number.to_string())),
            Value::String(text) if is_quantity(&text) => Ok(Self(text)),
            other => Err(de::Error::custom(format!(
                "{other} is not a quantity (64Ki)"
            ))),
        }
    }
}

/// The grammar of k8s.io/apimachinery/pkg/api/resource `quantity.go`.
fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 15] = [
        "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "n", "u", "m", "k", "M", "G", "T", "P",
    ];
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = digits.split_at(end.unwrap_or(digits.len()));
    let exponent = |suffix: &str| {
        let exponent = suffix.strip_prefix(['e', 'E'])?;
        exponent.parse::<i32>().ok()
    };
    number.parse::<f64>().is_ok()
        && (SUFFIXES.contains(&suffix) || suffix == "E" || exponent(suffix).is_some())
}
