//! kube-proxy's metrics, with its names, labels, buckets and types (kubernetes `pkg/proxy/metrics`
//! of 1.34).
//!
//! kube-proxy syncs each address family separately, hence the label `ip_family`. Here one sync
//! covers all families of the node, and counts for each of them.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipvs::Family as IpFamily;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::{Labels, labels};
use crate::mode::PlanSteps;
use crate::observe::health::{ChangeCounts, ip_family};
use crate::reconcile::Round;
use crate::reconcile::{SyncKind, SyncReport};
use crate::store::Trigger;

type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;
pub(super) type Seconds = Gauge<f64, AtomicU64>;

#[derive(Debug)]
pub(super) struct KubeProxyMetrics {
    families: Vec<IpFamily>,
    /// Earlier changes of endpoints are not counted: another process applied them.
    start: SystemTime,
    sync: Histograms,
    full_sync: Histograms,
    partial_sync: Histograms,
    network_programming: Histograms,
    last_queued: Family<Labels<1>, Seconds>,
    last_synced: Family<Labels<1>, Seconds>,
    endpoint_changes: Counter,
    endpoint_changes_pending: Gauge,
    service_changes: Counter,
    service_changes_pending: Gauge,
    no_local_endpoints: Family<Labels<2>, Gauge>,
    conntrack_sync: Histograms,
    conntrack_deleted: Family<Labels<1>, Counter>,
    healthz: Family<Labels<1>, Counter>,
    livez: Family<Labels<1>, Counter>,
}

impl KubeProxyMetrics {
    pub(super) fn new(families: Vec<IpFamily>, start: SystemTime, registry: &mut Registry) -> Self {
        let syncs = || Histograms::new_with_constructor(sync_buckets);
        let metrics = Self {
            families,
            start,
            sync: syncs(),
            full_sync: syncs(),
            partial_sync: syncs(),
            network_programming: Histograms::new_with_constructor(programming_buckets),
            last_queued: Family::default(),
            last_synced: Family::default(),
            endpoint_changes: Counter::default(),
            endpoint_changes_pending: Gauge::default(),
            service_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            no_local_endpoints: Family::default(),
            conntrack_sync: syncs(),
            conntrack_deleted: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
        };
        metrics.register(registry.sub_registry_with_prefix("kubeproxy"));
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "sync_proxy_rules_duration_seconds",
            "Duration of a sync",
            self.sync.clone(),
        );
        registry.register(
            "sync_full_proxy_rules_duration_seconds",
            "Duration of a full sync, which reads the node and compares everything",
            self.full_sync.clone(),
        );
        registry.register(
            "sync_partial_proxy_rules_duration_seconds",
            "Duration of a sync of changes only",
            self.partial_sync.clone(),
        );
        registry.register(
            "network_programming_duration_seconds",
            "Time from the change of a pod or Service, by the control plane's clock, until it is \
             applied here",
            self.network_programming.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "Time of the last change",
            self.last_queued.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "Time of the last successful sync",
            self.last_synced.clone(),
        );
        // The encoder adds `_total` to counters.
        registry.register(
            "sync_proxy_rules_endpoint_changes",
            "Changes of endpoint slices",
            self.endpoint_changes.clone(),
        );
        registry.register(
            "sync_proxy_rules_endpoint_changes_pending",
            "Changes of endpoint slices that are not applied yet",
            self.endpoint_changes_pending.clone(),
        );
        registry.register(
            "sync_proxy_rules_service_changes",
            "Changes of Services",
            self.service_changes.clone(),
        );
        registry.register(
            "sync_proxy_rules_service_changes_pending",
            "Changes of Services that are not applied yet",
            self.service_changes_pending.clone(),
        );
        registry.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Services with traffic policy Local that have endpoints, but none on this node",
            self.no_local_endpoints.clone(),
        );
        registry.register(
            "conntrack_reconciler_sync_duration_seconds",
            "Duration of the deletion of stale flows from connection tracking",
            self.conntrack_sync.clone(),
        );
        registry.register(
            "conntrack_reconciler_deleted_entries",
            "Stale flows deleted from connection tracking",
            self.conntrack_deleted.clone(),
        );
        registry.register("proxy_healthz", "Answers of /healthz", self.healthz.clone());
        registry.register("proxy_livez", "Answers of /livez", self.livez.clone());
    }

    pub(super) fn queued(&self, counts: ChangeCounts, now: SystemTime) {
        self.service_changes.inc_by(counts.services);
        self.endpoint_changes.inc_by(counts.endpoints);
        self.for_families(|family| {
            self.last_queued.get_or_create(family).set(since_epoch(now));
        });
    }

    pub(super) fn pending(&self, counts: ChangeCounts) {
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.service_changes_pending.set(gauge(counts.services));
        self.endpoint_changes_pending.set(gauge(counts.endpoints));
    }

    pub(super) fn round<P: PlanSteps>(
        &self,
        round: &Round<'_, P>,
        report: &SyncReport<P>,
        now: SystemTime,
    ) {
        for (family, reconciled) in &report.applied.conntrack {
            let family = of_family(*family);
            let took = reconciled.took.as_secs_f64();
            self.conntrack_sync.get_or_create(&family).observe(took);
            let deleted = self.conntrack_deleted.get_or_create(&family);
            deleted.inc_by(reconciled.deleted);
        }
        let durations = match report.kind {
            SyncKind::Full => &self.full_sync,
            SyncKind::Changes => &self.partial_sync,
            // Nothing had changed. An audit counts when it ends.
            SyncKind::Drained | SyncKind::Slice => return,
        };
        let took = round.took.as_secs_f64();
        self.for_families(|family| {
            self.sync.get_or_create(family).observe(took);
            durations.get_or_create(family).observe(took);
            if round.is_success() {
                self.last_synced.get_or_create(family).set(since_epoch(now));
            }
        });
    }

    /// Records that the changes of these triggers are applied. Triggers before the start are left
    /// out, as in kube-proxy.
    pub(super) fn programmed(&self, triggers: &[Trigger], now: SystemTime) {
        let new = triggers.iter().filter_map(|trigger| {
            let time = SystemTime::from(trigger.time);
            // The control plane's clock may be ahead of this one.
            let waited = now.duration_since(time).unwrap_or(Duration::ZERO);
            (time > self.start).then(|| (of_family(trigger.family), waited))
        });
        for (family, waited) in new {
            let durations = self.network_programming.get_or_create(&family);
            durations.observe(waited.as_secs_f64());
        }
    }

    pub(super) fn no_local_endpoints(&self, family: IpFamily, policy: &'static str, count: usize) {
        let labels = labels([("ip_family", ip_family(family)), ("traffic_policy", policy)]);
        let gauge = self.no_local_endpoints.get_or_create(&labels);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn healthz(&self, code: &'static str) {
        self.healthz.get_or_create(&labels([("code", code)])).inc();
    }

    pub(super) fn livez(&self, code: &'static str) {
        self.livez.get_or_create(&labels([("code", code)])).inc();
    }

    pub(super) fn families(&self) -> &[IpFamily] {
        &self.families
    }

    fn for_families(&self, f: impl Fn(&Labels<1>)) {
        self.families
            .iter()
            .for_each(|family| f(&of_family(*family)));
    }
}

fn of_family(family: IpFamily) -> Labels<1> {
    labels([("ip_family", ip_family(family))])
}

pub(super) fn since_epoch(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// 1 ms to 16 s.
fn sync_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// 0.25 s to 5 minutes: in steps of 1 s up to one minute, of 5 s up to two.
fn programming_buckets() -> Histogram {
    let seconds = (1..60)
        .chain((60..120).step_by(5))
        .chain((120..=300).step_by(30));
    Histogram::new([0.25, 0.5].into_iter().chain(seconds.map(f64::from)))
}
