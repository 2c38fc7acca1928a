//! Metrics of what the program knows beside the loop: conditions, and lost log lines.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

type Counts = Box<dyn Fn() -> BTreeMap<&'static str, u64> + Send + Sync>;
type Count = Box<dyn Fn() -> u64 + Send + Sync>;

/// Functions that return the current numbers. Clones share them.
#[derive(Clone, Default)]
pub(super) struct ProgramCollector(Arc<Asked>);

#[derive(Default)]
struct Asked {
    conditions: OnceLock<Counts>,
    log_lines_lost: OnceLock<Count>,
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
        Ok(())
    }
}
