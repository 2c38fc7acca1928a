//! Reports what an operator must know, in the log and as Events.

mod limit;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use proxier::Proxier;
use proxier::desired::Unanswered;
use proxier::discovery::DnsState;
use proxier::mode::DataPlane;
use proxier::model::{ObjectName, Uid};
use proxier::notice::{Notice, Reason, Subject};
use proxier::reconcile;
use proxier::reconcile::{Concerned, SyncReport};
use proxier::source::kube::EventSender;
use proxier::source::{Diagnostic, Severity};
use proxier::store::Store;
use serde::{Deserialize, Serialize};

use self::limit::Limit;
use crate::history::{History, Recorded};

/// Sends notices, and limits their rate. Clones share the limits.
#[derive(Debug, Clone)]
pub(crate) struct Notices(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: String,
    /// Some if there is an API server.
    events: Option<EventSender>,
    limit: Mutex<Limit>,
    history: OnceLock<History>,
}

impl Notices {
    /// Notices of the node with this name.
    pub(crate) fn new(node: &str, events: Option<EventSender>) -> Self {
        Self(Arc::new(Shared {
            node: node.to_owned(),
            events,
            limit: Mutex::new(Limit::new(Instant::now())),
            history: OnceLock::new(),
        }))
    }

    /// Records the notices of Services that are sent from now on.
    pub(crate) fn record_in(&self, history: History) {
        // The first one stays.
        let _ = self.0.history.set(history);
    }

    /// Sends a notice, within the limits.
    pub(crate) fn send(&self, notice: &Notice) {
        self.send_limited(notice, None);
    }

    /// Sends notices of Services in the store, within the limits, and the number of suppressed
    /// ones.
    fn send_all<'a>(&self, notices: impl IntoIterator<Item = &'a Notice>, store: &Store) {
        for notice in notices {
            match &notice.about {
                Subject::Service(name) => {
                    let uid = store.get(name).and_then(|view| view.service.uid);
                    self.send_limited(notice, uid);
                }
                _ => self.send(notice),
            }
        }
        let left_out = self.with_limit(|limit| limit.left_out(Instant::now()));
        if let Some(count) = left_out {
            let message = format!(
                "{count} more notices were suppressed; the log has them at level debug \
                 (SVCPROXY_LOG=debug)"
            );
            self.emit(&Notice::of_node(Reason::NoticesLeftOut, message), None);
        }
    }

    fn send_limited(&self, notice: &Notice, uid: Option<Uid>) {
        if self.with_limit(|limit| limit.allows(&notice.about, Instant::now())) {
            self.emit(notice, uid);
        } else {
            let (about, text) = (self.about(notice), notice.text());
            tracing::debug!(reason = %notice.reason, "{about}: {text}");
        }
    }

    fn emit(&self, notice: &Notice, uid: Option<Uid>) {
        let (about, text, reason) = (self.about(notice), notice.text(), notice.reason);
        if let (Some(history), Subject::Service(name)) = (self.0.history.get(), &notice.about) {
            let what = format!("{reason}: {text}");
            history.add(Recorded::now(name.as_str(), what, "", 0));
        }
        if reason.is_warning() {
            tracing::warn!(%reason, "{about}: {text}");
        } else {
            tracing::info!(%reason, "{about}: {text}");
        }
        if let Some(events) = &self.0.events {
            events.post(notice.clone(), uid);
        }
    }

    fn about(&self, notice: &Notice) -> String {
        about(notice, &self.0.node)
    }

    fn with_limit<T>(&self, f: impl FnOnce(&mut Limit) -> T) -> T {
        f(&mut self.0.limit.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A condition, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condition {
    pub(crate) reason: String,
    pub(crate) about: String,
    pub(crate) message: String,
    /// The port that has no endpoints.
    #[serde(flatten)]
    pub(crate) port: Option<PortOf>,
}

/// A port of a Service in a family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortOf {
    pub(crate) port_name: String,
    pub(crate) protocol: String,
    pub(crate) family: String,
}

/// The reasons of conditions of ports without endpoints: without any, or on this node.
pub(crate) const NO_ENDPOINTS: &str = "NoEndpoints";
pub(crate) const NO_LOCAL_ENDPOINTS: &str = "NoLocalEndpoints";

/// Invalid manifests, as the reasons of conditions.
const MANIFEST_ERROR: &str = "ManifestError";
const MANIFEST_WARNING: &str = "ManifestWarning";

/// At most so many conditions are listed.
pub(crate) const MOST: usize = 1000;

/// The current conditions: problems of Services, of the node, of its host and of the DNS server, and
/// invalid manifests.
/// Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions(Arc<Mutex<Current>>);

#[derive(Debug, Default)]
struct Current {
    of_proxier: reconcile::Standing,
    of_host: Vec<Notice>,
    of_manifests: Vec<Diagnostic>,
    dns: DnsWatch,
}

/// Asks for the state of the DNS server, if there is one.
#[derive(Default)]
struct DnsWatch(Option<Box<dyn Fn() -> DnsState + Send>>);

impl fmt::Debug for DnsWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DnsWatch").finish_non_exhaustive()
    }
}

impl DnsWatch {
    /// The addresses that it does not serve now.
    fn notices(&self) -> Vec<Notice> {
        let addresses = self.0.iter().flat_map(|state| state().addresses);
        let failed = addresses.filter_map(|(address, error)| {
            let message = format!(
                "the DNS server cannot serve {address}: {}; svcproxy tries again every few seconds",
                error?
            );
            Some(Notice::of_node(Reason::DnsNotServed, message))
        });
        failed.collect()
    }
}

impl Conditions {
    /// Replaces those of manifests. Diagnostics of an API server have no location, and are not among
    /// them.
    pub(crate) fn read(&self, diagnostics: &[Diagnostic]) {
        let lasting = diagnostics.iter();
        let lasting = lasting.filter(|d| d.is_error() && d.location.is_some());
        self.lock().of_manifests = lasting.cloned().collect();
    }

    /// Adds those of the DNS server.
    pub(crate) fn follow_dns(&self, state: impl Fn() -> DnsState + Send + 'static) {
        self.lock().dns = DnsWatch(Some(Box::new(state)));
    }

    /// How many there are for each reason.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let current = self.lock();
        let mut counts = current.of_proxier.counts();
        for notice in current.of_host.iter().chain(&current.dns.notices()) {
            *counts.entry(notice.reason.as_str()).or_default() += 1;
        }
        for diagnostic in &current.of_manifests {
            *counts.entry(reason(diagnostic)).or_default() += 1;
        }
        counts
    }

    /// The first ones, as a JSON list.
    pub(crate) fn json(&self, node: &str) -> String {
        serde_json::to_string(&self.list(node)).unwrap_or_else(|_| "[]".to_owned())
    }

    /// The first ones.
    pub(crate) fn list(&self, node: &str) -> Vec<Condition> {
        self.those(node, |_| true)
    }

    /// The first ones of a Service.
    pub(crate) fn of_service(&self, node: &str, name: &str) -> Vec<Condition> {
        let about = format!("Service {name}");
        self.those(node, |condition| condition.about == about)
    }

    fn those(&self, node: &str, wanted: impl Fn(&Condition) -> bool) -> Vec<Condition> {
        let current = self.lock();
        let of_manifests = current.of_manifests.iter().map(|diagnostic| Condition {
            reason: reason(diagnostic).to_owned(),
            about: "manifest".to_owned(),
            message: diagnostic.to_string(),
            port: None,
        });
        let condition = |notice: Notice| Condition {
            reason: notice.reason.to_string(),
            about: about(&notice, node),
            message: notice.text(),
            port: None,
        };
        let of_host = current.of_host.iter().cloned().chain(current.dns.notices());
        let of_host = of_host.map(condition);
        let of_proxier = current.of_proxier.conditions().map(condition);
        let unanswered = current.of_proxier.unanswered();
        let unanswered = unanswered.flat_map(|(service, port)| without_endpoints(service, port));
        let listed = of_manifests
            .chain(of_host)
            .chain(of_proxier)
            .chain(unanswered);
        listed.filter(wanted).take(MOST).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a port has no endpoints: none at all, or none on this node.
fn without_endpoints(
    service: &ObjectName,
    port: &Unanswered,
) -> impl Iterator<Item = Condition> + use<> {
    let reasons = [
        (NO_ENDPOINTS, &port.anywhere),
        (NO_LOCAL_ENDPOINTS, &port.here),
    ];
    let of_port = PortOf {
        port_name: port.port.to_string(),
        protocol: port.protocol.to_string(),
        family: port.family.to_string(),
    };
    let about = format!("Service {service}");
    let conditions = reasons.map(|(reason, why)| {
        Some(Condition {
            reason: reason.to_owned(),
            about: about.clone(),
            message: why.as_ref()?.to_string(),
            port: Some(of_port.clone()),
        })
    });
    conditions.into_iter().flatten()
}

fn reason(diagnostic: &Diagnostic) -> &'static str {
    match diagnostic.severity {
        Severity::Error => MANIFEST_ERROR,
        _ => MANIFEST_WARNING,
    }
}

fn about(notice: &Notice, node: &str) -> String {
    match &notice.about {
        Subject::Service(name) => format!("Service {name}"),
        _ => format!("Node {node}"),
    }
}

/// Reports what syncs encounter, and conditions when they begin.
#[derive(Debug)]
pub(crate) struct Reporter {
    notices: Notices,
    conditions: Conditions,
    /// What was reported of the DNS server and has not ended.
    of_dns: Vec<Notice>,
}

impl Reporter {
    pub(crate) fn new(notices: Notices, conditions: Conditions) -> Self {
        Self {
            notices,
            conditions,
            of_dns: Vec::new(),
        }
    }

    /// Reports new conditions of the DNS server.
    pub(crate) fn follow_dns(&mut self) {
        let now = self.conditions.lock().dns.notices();
        let new = now.iter().filter(|notice| !self.of_dns.contains(notice));
        new.for_each(|notice| self.notices.send(notice));
        self.of_dns = now;
    }

    /// Reports what a sync encountered, and new conditions.
    pub(crate) fn follow<B: DataPlane>(
        &mut self,
        proxier: &Proxier<B>,
        report: &SyncReport<B::Plan>,
    ) {
        let new = self
            .conditions
            .lock()
            .of_proxier
            .follow(proxier, &report.concerned);
        let all = report.notices.iter().chain(&new);
        self.notices.send_all(all, proxier.store());
    }

    /// Reports new conditions without a sync, because the node could not be read.
    pub(crate) fn follow_without_sync<B: DataPlane>(&mut self, proxier: &Proxier<B>) {
        let new = self
            .conditions
            .lock()
            .of_proxier
            .follow(proxier, &Concerned::All);
        self.notices.send_all(&new, proxier.store());
    }

    /// Replaces the conditions of the host, and reports new ones.
    pub(crate) fn follow_host(&mut self, now: Vec<Notice>, store: &Store) {
        let before = std::mem::replace(&mut self.conditions.lock().of_host, now.clone());
        let new = now.iter().filter(|notice| !before.contains(notice));
        self.notices.send_all(new, store);
    }
}
