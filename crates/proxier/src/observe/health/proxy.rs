//! Whether the proxy is healthy, as kube-proxy defines it (kubernetes `pkg/proxy/healthcheck`,
//! `proxy_health.go` of 1.34). Pure: the time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::ops::AddAssign;
use std::time::{Duration, Instant, SystemTime};

use ipvs::Family;
use jiff::Timestamp;

use crate::source::ConnectionState;
use crate::store::Change;

/// Limit of separate batches of pending changes; more are merged.
const BATCHES: usize = 64;
/// Go's text of an unset time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A time on both clocks: monotonic and wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Monotonic, for durations.
    pub(crate) instant: Instant,
    /// Wall clock, for output.
    pub(crate) wall: SystemTime,
}

impl Moment {
    /// The wall clock at an earlier time.
    pub(crate) fn wall_of(&self, earlier: Instant) -> SystemTime {
        let passed = self.instant.saturating_duration_since(earlier);
        self.wall.checked_sub(passed).unwrap_or(self.wall)
    }

    /// The current time.
    pub(crate) fn now() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::now(),
        }
    }
}

/// Numbers of changes per kind of object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) struct ChangeCounts {
    /// Of Services.
    pub(crate) services: u64,
    /// Of endpoint slices.
    pub(crate) endpoints: u64,
}

impl AddAssign for ChangeCounts {
    fn add_assign(&mut self, other: Self) {
        self.services += other.services;
        self.endpoints += other.endpoints;
    }
}

impl<'a> FromIterator<&'a Change> for ChangeCounts {
    /// A list counts as a change of each object in it.
    fn from_iter<I: IntoIterator<Item = &'a Change>>(changes: I) -> Self {
        let length = |length| u64::try_from(length).unwrap_or(u64::MAX);
        let mut counts = Self::default();
        for change in changes {
            match change {
                Change::ServiceApplied(_) | Change::ServiceDeleted(_) => counts.services += 1,
                Change::ServicesReplaced(list) => counts.services += length(list.len()),
                Change::EndpointSliceApplied(_) | Change::EndpointSliceDeleted(_) => {
                    counts.endpoints += 1;
                }
                Change::EndpointSlicesReplaced(list) => counts.endpoints += length(list.len()),
                _ => {}
            }
        }
        counts
    }
}

/// Changes that were sent and are not applied yet.
#[derive(Debug, Clone, Copy)]
struct Batch {
    first: Instant,
    last: Instant,
    counts: ChangeCounts,
}

/// The proxy's health. It is healthy while it starts up, and while no change has been pending for
/// longer than the timeout.
#[derive(Debug)]
pub(crate) struct ProxyHealth {
    timeout: Duration,
    families: Vec<Family>,
    /// Oldest first.
    waiting: VecDeque<Batch>,
    /// When changes last arrived.
    last_queued: Option<Instant>,
    /// Time of the last complete sync.
    synced: Option<SystemTime>,
    node_eligible: bool,
    fallback: Option<Fallback>,
}

/// The mode in effect is not the requested one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// The mode in effect.
    pub in_effect: &'static str,
    /// The requested mode.
    pub wanted: &'static str,
    /// The reason.
    pub reason: String,
}

impl ProxyHealth {
    /// The health of a proxy for these families that starts up now.
    pub(crate) fn new(timeout: Duration, families: Vec<Family>) -> Self {
        Self {
            timeout,
            families,
            waiting: VecDeque::new(),
            last_queued: None,
            synced: None,
            node_eligible: true,
            fallback: None,
        }
    }

    /// Sets how long a change may be pending.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Records pending changes.
    pub(crate) fn queued(&mut self, counts: ChangeCounts, now: Instant) {
        self.last_queued = Some(now);
        let is_full = self.waiting.len() >= BATCHES;
        match self.waiting.back_mut() {
            Some(last) if is_full => {
                last.last = now;
                last.counts += counts;
            }
            _ => self.waiting.push_back(Batch {
                first: now,
                last: now,
                counts,
            }),
        }
    }

    /// Records a complete sync. Changes queued before it began are applied.
    pub(crate) fn synced(&mut self, began: Instant, now: Moment) {
        self.waiting.retain(|batch| batch.last > began);
        self.synced = Some(now.wall);
    }

    /// Records whether load balancers may send to this node:
    /// [`Node::eligible`](crate::model::Node::eligible).
    pub(crate) fn set_node_eligible(&mut self, eligible: bool) {
        self.node_eligible = eligible;
    }

    /// Records a fallback, or its end. It is reported, and does not make the proxy unhealthy.
    pub(crate) fn set_fallback(&mut self, fallback: Option<Fallback>) {
        self.fallback = fallback;
    }

    /// When changes last arrived.
    pub(crate) const fn last_queued(&self) -> Option<Instant> {
        self.last_queued
    }

    /// The number of pending changes.
    pub(crate) fn pending(&self) -> ChangeCounts {
        let mut pending = ChangeCounts::default();
        self.waiting
            .iter()
            .for_each(|batch| pending += batch.counts);
        pending
    }

    /// The state at this time.
    pub(crate) fn report(&self, now: Moment) -> HealthReport<'_> {
        let late =
            |batch: &Batch| now.instant.saturating_duration_since(batch.first) >= self.timeout;
        HealthReport {
            healthy: self.synced.is_none() || !self.waiting.front().is_some_and(late),
            synced: self.synced,
            node_eligible: self.node_eligible,
            fallback: self.fallback.as_ref(),
            now,
            families: &self.families,
            conditions: None,
            source: None,
        }
    }
}

/// The state of a [`ProxyHealth`] at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) struct HealthReport<'a> {
    /// Whether changes are applied in time.
    pub(crate) healthy: bool,
    /// The last time at which no change was pending.
    pub(crate) synced: Option<SystemTime>,
    /// Whether load balancers may send to the node.
    pub(crate) node_eligible: bool,
    /// The fallback, if there is one.
    pub(crate) fallback: Option<&'a Fallback>,
    now: Moment,
    families: &'a [Family],
    conditions: Option<&'a BTreeMap<&'static str, u64>>,
    source: Option<&'a ConnectionState>,
}

impl<'a> HealthReport<'a> {
    /// Adds the state of the source. It is reported, and does not make the proxy unhealthy, because
    /// the last known state stays in effect while a server is unreachable.
    #[must_use]
    pub(crate) fn with_source(self, source: &'a ConnectionState) -> Self {
        Self {
            source: Some(source),
            ..self
        }
    }

    /// Adds the numbers of conditions by reason. They are reported, and do not make the proxy
    /// unhealthy.
    #[must_use]
    pub(crate) fn with_conditions(self, conditions: &'a BTreeMap<&'static str, u64>) -> Self {
        Self {
            conditions: Some(conditions),
            ..self
        }
    }

    /// Whether `/healthz` returns 200, and its body. True if healthy, and load balancers may send
    /// to the node.
    pub(crate) fn healthz(&self) -> (bool, String) {
        let ok = self.healthy && self.node_eligible;
        (ok, self.body(ok, Some(self.node_eligible)))
    }

    /// Whether `/livez` returns 200, and its body. True if healthy, also while the node is being
    /// deleted.
    pub(crate) fn livez(&self) -> (bool, String) {
        (self.healthy, self.body(self.healthy, None))
    }

    /// Whether `/readyz` returns 200, and its body. True if healthy, after the first complete sync.
    /// kube-proxy has no such path.
    pub(crate) fn readyz(&self) -> (bool, String) {
        let ok = self.healthy && self.synced.is_some();
        (ok, self.body(ok, None))
    }

    /// As in kube-proxy, `lastUpdated` is now if the proxy is healthy.
    fn body(&self, ok: bool, node_eligible: Option<bool>) -> String {
        let synced = self.synced.map_or_else(|| NEVER.to_owned(), rfc3339);
        let now = rfc3339(self.now.wall);
        let updated = if ok { &now } else { &synced };
        let healthy = self.healthy;
        let mut body = format!(r#"{{"lastUpdated":"{updated}","currentTime":"{now}""#);
        if let Some(eligible) = node_eligible {
            let _ = write!(body, r#","nodeEligible":{eligible}"#);
        }
        let _ = write!(body, r#","healthy":{healthy}"#);
        if self.synced.is_some() {
            let of_family = self.families.iter().map(|family| {
                let family = ip_family(*family);
                format!(r#""{family}":{{"lastUpdated":"{synced}","healthy":{healthy}}}"#)
            });
            let status: Vec<_> = of_family.collect();
            let _ = write!(body, r#","status":{{{}}}"#, status.join(","));
        }
        if let Some(fallback) = self.fallback {
            let Fallback {
                in_effect,
                wanted,
                reason,
            } = fallback;
            let reason = json_string(reason);
            let _ = write!(
                body,
                r#","fallback":{{"mode":"{in_effect}","wanted":"{wanted}","reason":{reason}}}"#
            );
        }
        if let Some(conditions) = self.conditions.filter(|all| !all.is_empty()) {
            let counts = conditions.iter();
            let counts: Vec<_> = counts
                .map(|(reason, n)| format!("\"{reason}\":{n}"))
                .collect();
            let _ = write!(body, r#","conditions":{{{}}}"#, counts.join(","));
        }
        if let Some(source) = self.source {
            let connected = source.connected_since.is_some();
            let heard = source.last_heard.map(|heard| self.now.wall_of(heard));
            let heard = heard.map_or_else(|| NEVER.to_owned(), rfc3339);
            let failing: Vec<_> = source
                .failures
                .keys()
                .map(|kind| format!("\"{kind}\""))
                .collect();
            let _ = write!(
                body,
                r#","source":{{"connected":{connected},"lastHeard":"{heard}","failing":[{}]}}"#,
                failing.join(",")
            );
        }
        body + "}"
    }
}

/// The API's name of a family.
pub(crate) const fn ip_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// A JSON string, with quotes.
fn json_string(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// A time in Go's format, without trailing zeros of the fraction.
fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| NEVER.to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    struct Clock(Instant);

    impl Clock {
        /// This many seconds and a half after 2026-01-01.
        fn at(&self, seconds: u64) -> Moment {
            let passed = Duration::from_secs(seconds);
            Moment {
                instant: self.0 + passed,
                wall: UNIX_EPOCH + Duration::from_millis(1_767_225_600_500) + passed,
            }
        }
    }

    fn setting() -> (ProxyHealth, Clock) {
        let health = ProxyHealth::new(TIMEOUT, vec![Family::V4, Family::V6]);
        (health, Clock(Instant::now()))
    }

    fn one() -> ChangeCounts {
        ChangeCounts {
            services: 1,
            endpoints: 2,
        }
    }

    #[test]
    fn bodies_equal_those_of_kube_proxy() {
        let (mut health, clock) = setting();
        let report = health.report(clock.at(0));
        assert_eq!(
            report.healthz(),
            (true, r#"{"lastUpdated":"2026-01-01T00:00:00.5Z","currentTime":"2026-01-01T00:00:00.5Z","nodeEligible":true,"healthy":true}"#.to_owned())
        );
        assert_eq!(
            report.readyz(),
            (false, r#"{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2026-01-01T00:00:00.5Z","healthy":true}"#.to_owned())
        );
        health.synced(clock.at(1).instant, clock.at(2));
        assert_eq!(
            health.report(clock.at(3)).livez(),
            (true, r#"{"lastUpdated":"2026-01-01T00:00:03.5Z","currentTime":"2026-01-01T00:00:03.5Z","healthy":true,"status":{"IPv4":{"lastUpdated":"2026-01-01T00:00:02.5Z","healthy":true},"IPv6":{"lastUpdated":"2026-01-01T00:00:02.5Z","healthy":true}}}"#.to_owned())
        );
        health.queued(one(), clock.at(5).instant);
        assert_eq!(
            health.report(clock.at(65)).healthz(),
            (false, r#"{"lastUpdated":"2026-01-01T00:00:02.5Z","currentTime":"2026-01-01T00:01:05.5Z","nodeEligible":true,"healthy":false,"status":{"IPv4":{"lastUpdated":"2026-01-01T00:00:02.5Z","healthy":false},"IPv6":{"lastUpdated":"2026-01-01T00:00:02.5Z","healthy":false}}}"#.to_owned())
        );
    }

    #[test]
    fn a_lost_source_is_reported_and_does_not_make_the_proxy_unhealthy() {
        let (mut health, clock) = setting();
        health.synced(clock.at(0).instant, clock.at(0));
        let mut source = ConnectionState {
            last_heard: Some(clock.at(10).instant),
            ..ConnectionState::default()
        };
        source.failures.insert("Service", "\"quoted\"".to_owned());
        source.failures.insert("Node", String::new());
        let report = health.report(clock.at(70)).with_source(&source);
        let (ok, body) = report.readyz();
        let reported = r#""source":{"connected":false,"lastHeard":"2026-01-01T00:00:10.5Z","failing":["Node","Service"]}}"#;
        assert!(ok && body.ends_with(reported), "{body}");
        let (healthy, alive) = (report.healthz(), report.livez());
        assert!(
            healthy.0 && healthy.1.ends_with(reported) && alive.0 && alive.1.ends_with(reported)
        );
        source.failures.clear();
        source.connected_since = source.last_heard;
        let (_, body) = health.report(clock.at(70)).with_source(&source).livez();
        assert!(body.contains(r#""connected":true"#) && body.ends_with(r#""failing":[]}}"#));
    }

    #[test]
    fn a_fallback_is_reported_and_does_not_make_the_proxy_unhealthy() {
        let (mut health, clock) = setting();
        health.synced(clock.at(0).instant, clock.at(0));
        health.set_fallback(Some(Fallback {
            in_effect: "iptables",
            wanted: "ipvs",
            reason: "no \"ip_vs\"\n\\".to_owned(),
        }));
        let report = health.report(clock.at(1));
        for (ok, body) in [report.healthz(), report.livez(), report.readyz()] {
            let value: serde_json::Value = serde_json::from_str(&body).unwrap();
            let fallback = &value["fallback"];
            assert!(ok, "{body}");
            assert_eq!(fallback["mode"], "iptables");
            assert_eq!(fallback["wanted"], "ipvs");
            assert_eq!(fallback["reason"], "no \"ip_vs\"\n\\");
        }
        health.set_fallback(None);
        assert!(!health.report(clock.at(1)).healthz().1.contains("fallback"));
    }

    #[test]
    fn a_node_that_is_being_deleted_fails_healthz_only() {
        let (mut health, clock) = setting();
        health.synced(clock.at(0).instant, clock.at(0));
        health.set_node_eligible(false);
        let report = health.report(clock.at(1));
        let (ok, body) = report.healthz();
        assert!(!ok && body.contains(r#""nodeEligible":false,"healthy":true"#));
        assert!(report.livez().0 && report.readyz().0);
        health.set_node_eligible(true);
        assert!(health.report(clock.at(2)).healthz().0);
    }

    #[test]
    fn the_oldest_pending_change_counts() {
        let (mut health, clock) = setting();
        health.synced(clock.at(0).instant, clock.at(0));
        health.queued(one(), clock.at(10).instant);
        health.queued(one(), clock.at(50).instant);
        assert!(health.report(clock.at(69)).healthy);
        assert!(!health.report(clock.at(70)).healthy);
        // A sync that began before the second change.
        health.synced(clock.at(49).instant, clock.at(71));
        assert_eq!(health.pending(), one());
        assert!(health.report(clock.at(109)).healthy);
        assert!(!health.report(clock.at(110)).healthy);
        health.synced(clock.at(111).instant, clock.at(112));
        assert_eq!(health.pending(), ChangeCounts::default());
        assert!(health.report(clock.at(1000)).healthy);
    }

    #[test]
    fn it_is_live_and_not_ready_until_the_first_sync() {
        let (mut health, clock) = setting();
        health.queued(one(), clock.at(0).instant);
        let report = health.report(clock.at(1000));
        assert!(report.livez().0 && report.healthz().0 && !report.readyz().0);
    }

    #[test]
    fn pending_changes_take_bounded_memory_and_none_is_forgotten() {
        let (mut health, clock) = setting();
        health.synced(clock.at(0).instant, clock.at(0));
        for second in 1..=1000 {
            health.queued(one(), clock.at(second).instant);
        }
        assert_eq!(health.waiting.len(), BATCHES);
        assert_eq!(health.pending().services, 1000);
        // The merged batch counts as applied only after its last change.
        health.synced(clock.at(999).instant, clock.at(999));
        assert!(health.pending().services > 0);
        health.synced(clock.at(1000).instant, clock.at(1000));
        assert_eq!(health.pending(), ChangeCounts::default());
    }
}
