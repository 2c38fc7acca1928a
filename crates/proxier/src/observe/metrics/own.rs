//! Metrics that kube-proxy does not have.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::{Labels, labels, lock};
use crate::Proxier;
use crate::mode::{DataPlane, NodeError, PlanSteps, StepKind};
use crate::reconcile::{Cause, Round, SyncKind, SyncReport};

#[derive(Debug, Default)]
pub(super) struct OwnMetrics {
    build: Family<Labels<2>, Gauge>,
    mode: Family<Labels<1>, Gauge>,
    mode_wanted: Family<Labels<1>, Gauge>,
    sync_failures: Counter,
    kernel_errors: Family<Labels<2>, Counter>,
    audits: Counter,
    drift: Family<Labels<1>, Counter>,
    virtual_servers: VirtualServers,
    real_servers: Family<Labels<1>, Gauge>,
    problems: Gauge,
    services_left_out: Gauge,
    snapshot_age: Gauge<f64, AtomicU64>,
}

impl OwnMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.register(registry.sub_registry_with_prefix("svcproxy"));
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "build_info",
            "1 for the version and the commit of svcproxy",
            self.build.clone(),
        );
        registry.register("proxy_mode", "1 for the mode in effect", self.mode.clone());
        registry.register(
            "proxy_mode_wanted",
            "1 for the requested mode",
            self.mode_wanted.clone(),
        );
        registry.register(
            "sync_failures",
            "Syncs that failed in part or in whole and are retried",
            self.sync_failures.clone(),
        );
        registry.register(
            "kernel_errors",
            "Operations that the kernel rejected",
            self.kernel_errors.clone(),
        );
        registry.register(
            "audits",
            "Completed audits: full comparisons of the node with the desired state",
            self.audits.clone(),
        );
        registry.register(
            "drift_steps",
            "Steps in which audits repaired drift (changes by other programs)",
            self.drift.clone(),
        );
        for kind in StepKind::ALL {
            self.drift(kind, 0);
        }
        registry.register_collector(Box::new(self.virtual_servers.clone()));
        registry.register(
            "real_servers",
            "svcproxy's real servers on this node; draining ones wait for their connections to end",
            self.real_servers.clone(),
        );
        registry.register(
            "problems",
            "Conditions: what Services request and do not get",
            self.problems.clone(),
        );
        registry.register(
            "service_metrics_left_out",
            "Services over the limit that request traffic metrics and do not get them",
            self.services_left_out.clone(),
        );
        registry.register(
            "snapshot_age_seconds",
            "Age of the last snapshot of virtual servers, real servers, problems and Services' traffic",
            self.snapshot_age.clone(),
        );
    }

    pub(super) fn set_build(&self, version: &'static str, commit: &'static str) {
        let build = labels([("version", version), ("commit", commit)]);
        self.build.get_or_create(&build).set(1);
    }

    pub(super) fn set_mode(&self, in_effect: &'static str, wanted: &'static str) {
        for (gauge, mode) in [(&self.mode, in_effect), (&self.mode_wanted, wanted)] {
            gauge.clear();
            gauge.get_or_create(&labels([("mode", mode)])).set(1);
        }
    }

    pub(super) fn round<P: PlanSteps>(&self, round: &Round<'_, P>) {
        if !round.is_success() {
            self.sync_failures.inc();
        }
        let goes_on = |report: &SyncReport<P>| report.kind == SyncKind::Slice;
        if round.cause == Cause::Audit && !round.result.is_ok_and(goes_on) {
            self.audits.inc();
        }
        match round.result {
            Ok(report) => {
                if round.cause == Cause::Audit {
                    // Rejected steps are planned again each time, so they are no drift. They are
                    // rules of mode iptables, or listeners of mode userspace.
                    let mut in_vain = report.applied.in_vain;
                    let steps = report.plan.steps().iter();
                    for step in steps.filter(|step| !P::tidies(step)) {
                        let kind = P::kind(step);
                        let may_be_refused = [StepKind::Rules, StepKind::Listener].contains(&kind);
                        if may_be_refused && in_vain > 0 {
                            in_vain -= 1;
                            continue;
                        }
                        self.drift(kind, 1);
                    }
                }
                let failures = report.applied.failures.iter();
                failures.for_each(|failure| self.error(&failure.error));
                let refused = report.applied.refused.iter();
                refused.for_each(|refused| self.error(&refused.error));
            }
            Err(error) => self.error(error),
        }
    }

    fn drift(&self, kind: StepKind, steps: u64) {
        let kind = labels([("kind", kind.name())]);
        self.drift.get_or_create(&kind).inc_by(steps);
    }

    pub(super) fn error(&self, error: &NodeError) {
        let part = match error {
            NodeError::NotTried => return,
            NodeError::Ipvs(_) => "ipvs",
            NodeError::Route { .. } | NodeError::RouteTaken { .. } => "routes",
            NodeError::Conntrack { .. } => "conntrack",
            NodeError::Sysctl { .. } => "sysctls",
            NodeError::Listen { .. } | NodeError::Proxy { .. } => "listeners",
            _ => "packet_filter",
        };
        let errno = error
            .errno()
            .map_or_else(|| "none".into(), |errno| errno.to_string().into());
        let labels = [("part", part.into()), ("errno", errno)];
        self.kernel_errors.get_or_create(&labels).inc();
    }

    pub(super) fn inspect<B: DataPlane>(&self, proxier: &Proxier<B>) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.problems.set(gauge(proxier.problems().len()));
        // After a failure the node's state is unknown: keep the previous values.
        let Some(servers) = proxier.servers() else {
            return;
        };
        *lock(&self.virtual_servers.0) = Some(gauge(servers.virtual_servers));
        for (state, count) in [("active", servers.active), ("draining", servers.draining)] {
            let state = self.real_servers.get_or_create(&labels([("state", state)]));
            state.set(gauge(count));
        }
    }

    pub(super) fn snapshot_age(&self, age: Duration) {
        self.snapshot_age.set(age.as_secs_f64());
    }

    pub(super) fn services_left_out(&self, count: usize) {
        self.services_left_out
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// The number of virtual servers. Absent until it is known, and so in a mode without virtual
/// servers: 0 would be wrong.
#[derive(Debug, Clone, Default)]
struct VirtualServers(Arc<Mutex<Option<i64>>>);

impl Collector for VirtualServers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(count) = *lock(&self.0) else {
            return Ok(());
        };
        let gauge = ConstGauge::new(count);
        let help = "svcproxy's virtual servers on this node.";
        let kind = gauge.metric_type();
        gauge.encode(encoder.encode_descriptor("virtual_servers", help, None, kind)?)
    }
}
