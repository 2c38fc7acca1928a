//! Metrics of what the program knows beside the loop: conditions, lost log lines, and the
//! connection to an API server, if there is one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::discovery::DnsState;
use crate::observe::health::Moment;
use crate::source::ConnectionState;

type Counts = Box<dyn Fn() -> BTreeMap<&'static str, u64> + Send + Sync>;
type AskDns = Box<dyn Fn() -> DnsState + Send + Sync>;
type Count = Box<dyn Fn() -> u64 + Send + Sync>;

/// Functions that return the current numbers. Clones share them.
#[derive(Clone, Default)]
pub(super) struct ProgramCollector(Arc<Asked>);

#[derive(Default)]
struct Asked {
    conditions: OnceLock<Counts>,
    log_lines_lost: OnceLock<Count>,
    dns: OnceLock<AskDns>,
}

impl ProgramCollector {
    /// Sets the function. Only the first call counts.
    pub(super) fn ask_conditions(&self, ask: Counts) {
        let _ = self.0.conditions.set(ask);
    }

    /// Sets the function. Only the first call counts.
    pub(super) fn ask_log_lines_lost(&self, ask: Count) {
        let _ = self.0.log_lines_lost.set(ask);
    }

    /// Sets the function. Only the first call counts.
    /// The addresses of the DNS server.
    pub(super) fn dns_addresses(&self) -> BTreeMap<SocketAddr, Option<String>> {
        let state = self.0.dns.get().map(|dns| dns());
        state.unwrap_or_default().addresses
    }

    pub(super) fn ask_dns(&self, ask: AskDns) {
        let _ = self.0.dns.set(ask);
    }

    pub(super) fn conditions(&self) -> BTreeMap<&'static str, u64> {
        self.0.conditions.get().map(|ask| ask()).unwrap_or_default()
    }
}

impl fmt::Debug for ProgramCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramCollector").finish_non_exhaustive()
    }
}

impl Collector for ProgramCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut conditions = encoder.encode_descriptor(
            "svcproxy_conditions",
            "Conditions, by reason: problems of Services, the node and manifests that persist",
            None,
            MetricType::Gauge,
        )?;
        for (reason, count) in self.conditions() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(conditions.encode_family(&[("reason", reason)])?)?;
        }
        if let Some(lost) = self.0.log_lines_lost.get() {
            ConstCounter::new(lost()).encode(encoder.encode_descriptor(
                "svcproxy_log_lines_lost",
                "Log lines dropped because standard error took no more",
                None,
                MetricType::Counter,
            )?)?;
        }
        if let Some(dns) = self.0.dns.get() {
            encode_dns(&dns(), &mut encoder)?;
        }
        Ok(())
    }
}

fn encode_dns(dns: &DnsState, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let mut listening = encoder.encode_descriptor(
        "svcproxy_dns_listening",
        "1 if the address of the DNS server is served, 0 if it cannot be served now",
        None,
        MetricType::Gauge,
    )?;
    for (address, error) in &dns.addresses {
        let labels = [("address", address.to_string())];
        let is_served = i64::from(error.is_none());
        ConstGauge::new(is_served).encode(listening.encode_family(&labels)?)?;
    }
    let mut answers = encoder.encode_descriptor(
        "svcproxy_dns_answers",
        "Answers to DNS queries, by response code",
        None,
        MetricType::Counter,
    )?;
    for (code, count) in &dns.answers {
        ConstCounter::new(*count).encode(answers.encode_family(&[("rcode", *code)])?)?;
    }
    for (name, help, count) in [
        (
            "svcproxy_dns_forward_failures",
            "DNS queries that no upstream server answered",
            dns.forward_failures,
        ),
        (
            "svcproxy_dns_refused_connections",
            "TCP connections for DNS that were closed because there were too many",
            dns.refused_connections,
        ),
        (
            "svcproxy_dns_restarts",
            "Times that the DNS server of an address failed and was started again",
            dns.restarts,
        ),
    ] {
        let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(count).encode(counter)?;
    }
    Ok(())
}

/// A function that returns the state of the connection. Clones share it.
#[derive(Clone, Default)]
pub(super) struct SourceCollector(Arc<OnceLock<Ask>>);

type Ask = Box<dyn Fn() -> ConnectionState + Send + Sync>;

impl SourceCollector {
    /// Sets the function. Only the first call counts.
    pub(super) fn ask(&self, ask: Ask) {
        let _ = self.0.set(ask);
    }

    pub(super) fn state(&self) -> Option<ConnectionState> {
        self.0.get().map(|ask| ask())
    }
}

impl fmt::Debug for SourceCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SourceCollector")
            .field(&self.state())
            .finish()
    }
}

impl Collector for SourceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(state) = self.state() else {
            return Ok(());
        };
        let up = ConstGauge::new(i64::from(state.connected_since.is_some()));
        up.encode(encoder.encode_descriptor(
            "svcproxy_source_up",
            "1 while every kind of object is watched",
            None,
            MetricType::Gauge,
        )?)?;
        let heard = state.last_heard.and_then(|heard| {
            let heard = Moment::now().wall_of(heard);
            heard.duration_since(UNIX_EPOCH).ok()
        });
        if let Some(heard) = heard {
            ConstGauge::new(heard.as_secs_f64()).encode(encoder.encode_descriptor(
                "svcproxy_source_last_heard_timestamp_seconds",
                "Time of the last answer of the API server",
                None,
                MetricType::Gauge,
            )?)?;
        }
        let mut requests = encoder.encode_descriptor(
            "rest_client_requests",
            "Requests to the API server, by status code, method and host",
            None,
            MetricType::Counter,
        )?;
        for (of, count) in &state.requests {
            let labels = [
                ("code", of.code.as_str()),
                ("host", of.host.as_str()),
                ("method", of.method.as_str()),
            ];
            ConstCounter::new(*count).encode(requests.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
