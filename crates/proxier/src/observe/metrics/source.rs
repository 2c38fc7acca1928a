//! Metrics of the connection to an API server, if there is one.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::observe::health::Moment;
use crate::source::ConnectionState;

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
