//! Metrics of the proxy of mode userspace.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::mode::userspace::{ProxyCounts, ProxyView};

/// The proxy, once there is one. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct ProxiedCollector(Arc<OnceLock<ProxyView>>);

/// Name, help, the name of a label, and series: the label's value and the number.
type Metric = (&'static str, &'static str, &'static str, &'static [Series]);
type Series = (&'static str, fn(&ProxyCounts) -> u64);

const COUNTERS: [Metric; 5] = [
    (
        "svcproxy_proxied_connections",
        "TCP connections and UDP flows that mode userspace connected to an endpoint",
        "protocol",
        &[("tcp", |n| n.connections), ("udp", |n| n.flows)],
    ),
    (
        "svcproxy_proxied_bytes",
        "Bytes that mode userspace carried, from clients (in) and to them (out)",
        "direction",
        &[("in", |n| n.bytes_in), ("out", |n| n.bytes_out)],
    ),
    (
        "svcproxy_proxied_retries",
        "Connections tried at another endpoint, because one did not answer",
        "",
        &[("", |n| n.retries)],
    ),
    (
        "svcproxy_proxied_refused",
        "Connections and flows that reached no endpoint",
        "cause",
        &[
            ("unreachable", |n| n.unreachable),
            ("without_endpoint", |n| n.without_endpoint),
            ("denied", |n| n.denied),
            ("over_limit", |n| n.over_limit),
        ],
    ),
    (
        "svcproxy_proxied_pauses",
        "Pauses of listeners, because the process had no open file or memory left",
        "",
        &[("", |n| n.pauses)],
    ),
];

const GAUGES: [Metric; 2] = [
    (
        "svcproxy_proxied_open",
        "Open TCP connections and UDP flows of mode userspace",
        "protocol",
        &[("tcp", |n| n.open_connections), ("udp", |n| n.open_flows)],
    ),
    (
        "svcproxy_proxied_open_limit",
        "The most of them at a time, which follows from the limit of open files",
        "protocol",
        &[("tcp", |n| n.most_connections), ("udp", |n| n.most_flows)],
    ),
];

impl ProxiedCollector {
    /// Sets the proxy. Only the first call counts.
    pub(super) fn follow(&self, proxy: ProxyView) {
        let _ = self.0.set(proxy);
    }
}

impl Collector for ProxiedCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(proxy) = self.0.get() else {
            return Ok(());
        };
        let counts = proxy.counts();
        for (name, help, label, series) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value, get) in series {
                let counter = ConstCounter::new(get(&counts));
                match label {
                    "" => counter.encode(family.encode_family(&NONE)?)?,
                    label => counter.encode(family.encode_family(&[(label, *value)])?)?,
                }
            }
        }
        for (name, help, label, series) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (value, get) in series {
                let number = i64::try_from(get(&counts)).unwrap_or(i64::MAX);
                ConstGauge::new(number).encode(family.encode_family(&[(label, *value)])?)?;
            }
        }
        Ok(())
    }
}

const NONE: [(&str, &str); 0] = [];
