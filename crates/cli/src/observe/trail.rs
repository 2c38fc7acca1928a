//! The audit trail: one line for each Service that a sync changed, with the cause; at level debug in
//! the log, and the last ones on the page. Without either it keeps nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use proxier::Proxier;
use proxier::desired::{Backend, DesiredState, Frontend, FrontendKey};
use proxier::mode::{DataPlane, PlanSteps};
use proxier::model::ObjectName;
use proxier::reconcile::{Concerned, SyncKind, SyncReport};
use proxier::source::{Cause, Reading};
use proxier::store::Change;

use crate::history::{History, Recorded};

/// Maximum number of Services whose causes are kept until the next sync.
const MOST_CAUSES: usize = 10_000;

fn is_logged() -> bool {
    tracing::enabled!(tracing::Level::DEBUG)
}

/// The causes of the changes since the last sync. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Causes {
    pending: Arc<Mutex<Pending>>,
    /// Whether they are kept at any level of the log.
    has_history: bool,
}

#[derive(Debug, Default)]
struct Pending {
    of: BTreeMap<ObjectName, BTreeSet<String>>,
    /// The Service of each slice, because a deletion does not name it.
    owners: HashMap<ObjectName, ObjectName>,
}

impl Causes {
    /// Records the causes in a reading of the source.
    pub(crate) fn read(&self, reading: &Reading) {
        if self.has_history || is_logged() {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            for change in &reading.changes {
                pending.ingest(change, &reading.causes);
            }
        }
    }

    fn take(&self) -> BTreeMap<ObjectName, BTreeSet<String>> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut pending.of)
    }
}

impl Pending {
    fn ingest(&mut self, change: &Change, causes: &[Cause]) {
        match change {
            Change::ServiceApplied(service) => {
                self.add(&service.name, "Service", &service.name, "changed", causes);
            }
            Change::ServiceDeleted(name) => self.add(name, "Service", name, "deleted", causes),
            Change::EndpointSliceApplied(slice) => {
                self.owners
                    .insert(slice.name.clone(), slice.service.clone());
                let kind = "EndpointSlice";
                self.add(&slice.service, kind, &slice.name, "changed", causes);
            }
            Change::EndpointSliceDeleted(name) => {
                if let Some(owner) = self.owners.remove(name) {
                    self.add(&owner, "EndpointSlice", name, "deleted", causes);
                }
            }
            Change::EndpointSlicesReplaced(slices) => {
                let owners = slices.iter();
                let owners = owners.map(|slice| (slice.name.clone(), slice.service.clone()));
                self.owners = owners.collect();
            }
            _ => {}
        }
    }

    fn add(
        &mut self,
        service: &ObjectName,
        kind: &str,
        object: &ObjectName,
        what: &str,
        causes: &[Cause],
    ) {
        if self.of.len() >= MOST_CAUSES && !self.of.contains_key(service) {
            return;
        }
        let mut text = format!("{kind} {object} {what}");
        let of_object = |cause: &&Cause| cause.kind == kind && cause.object == object.to_string();
        if let Some(cause) = causes.iter().find(of_object) {
            let _ = write!(text, " (resourceVersion {})", cause.version);
        }
        self.of.entry(service.clone()).or_default().insert(text);
    }
}

/// The frontends of the last sync, to compare with.
#[derive(Debug)]
pub(crate) struct Trail {
    causes: Causes,
    /// The last changes, for the page.
    history: Option<History>,
    /// None before the first sync.
    before: Option<Frontends>,
}

/// The frontends of each Service.
type Frontends = HashMap<ObjectName, Vec<Arc<Frontend>>>;

impl Trail {
    /// Without a history, it keeps nothing but at level debug.
    pub(crate) fn new(history: Option<History>) -> Self {
        Self {
            causes: Causes {
                pending: Arc::default(),
                has_history: history.is_some(),
            },
            history,
            before: None,
        }
    }

    /// The causes, to record readings in.
    pub(crate) fn causes(&self) -> Causes {
        self.causes.clone()
    }

    /// Logs the changes of a sync, and adds them to the history.
    pub(crate) fn follow<B: DataPlane>(
        &mut self,
        proxier: &Proxier<B>,
        report: &SyncReport<B::Plan>,
    ) {
        if self.history.is_none() && !is_logged() {
            self.before = None;
            return;
        }
        if report.kind == SyncKind::Drained {
            for step in (0..report.plan.count()).filter_map(|at| report.plan.step(at)) {
                tracing::debug!("drained: {step}");
                self.record("", format!("drained: {step}"), "", 0);
            }
            return;
        }
        let desired = proxier.desired();
        let causes = self.causes.take();
        let Some(before) = &mut self.before else {
            self.before = Some(all(desired));
            return;
        };
        let concerned = concerned(proxier, report, before);
        if concerned.is_empty() {
            return;
        }
        let draining = draining(&report.plan);
        let mut changed = Vec::new();
        for name in concerned {
            let now: Vec<_> = served(desired, &name).cloned().collect();
            let old = if now.is_empty() {
                before.remove(&name)
            } else {
                before.insert(name.clone(), now.clone())
            };
            let changes = changes(&old.unwrap_or_default(), &now, &draining);
            if !changes.is_empty() {
                changed.push((name, changes.join("; ")));
            }
        }
        let failed = report.applied.failures.len();
        for (name, changes) in changed {
            let causes = causes.get(&name).into_iter().flatten();
            let cause = causes.cloned().collect::<Vec<_>>().join(", ");
            tracing::debug!(service = %name, cause, failed, "{changes}");
            self.record(&name.to_string(), changes, &cause, failed);
        }
    }

    fn record(&self, service: &str, what: String, cause: &str, failed: usize) {
        if let Some(history) = &self.history {
            history.add(Recorded::now(service, what, cause, failed));
        }
    }
}

/// The frontends that are served for a Service. A conflicting key is served for another one.
fn served<'a>(
    desired: &'a DesiredState,
    name: &'a ObjectName,
) -> impl Iterator<Item = &'a Arc<Frontend>> {
    let own = desired.frontends_of(name);
    own.filter(move |frontend| {
        let holder = desired.frontend(&frontend.key);
        holder.is_some_and(|holder| holder.owner.service == *name)
    })
}

/// The Services whose frontends a sync may have changed, in order. One whose frontends are the same
/// objects as before costs no memory: a full sync comes here with all of them.
fn concerned<B: DataPlane>(
    proxier: &Proxier<B>,
    report: &SyncReport<B::Plan>,
    before: &Frontends,
) -> BTreeSet<ObjectName> {
    let desired = proxier.desired();
    let differs = |name: &&ObjectName| {
        let old = before.get(*name).map_or(&[][..], Vec::as_slice);
        let now = served(desired, name);
        !old.iter().map(Arc::as_ptr).eq(now.map(Arc::as_ptr))
    };
    match &report.concerned {
        Concerned::Services(names) => names.iter().filter(differs).cloned().collect(),
        _ => {
            let now = proxier.store().services().map(|view| &view.service.name);
            now.chain(before.keys()).filter(differs).cloned().collect()
        }
    }
}

fn all(desired: &DesiredState) -> Frontends {
    let mut all = Frontends::new();
    for frontend in desired.frontends() {
        let service = frontend.owner.service.clone();
        all.entry(service).or_default().push(Arc::clone(frontend));
    }
    all
}

/// The endpoints whose real servers a plan updates. A removed endpoint gets weight 0 if it drains;
/// otherwise its real server is deleted.
fn draining(plan: &impl PlanSteps) -> BTreeSet<SocketAddr> {
    let steps = (0..plan.count()).filter_map(|at| plan.step(at));
    let endpoint = |step: String| {
        let (endpoint, _) = step
            .strip_prefix("update real server ")?
            .split_once(" of ")?;
        endpoint.parse().ok()
    };
    steps.filter_map(endpoint).collect()
}

/// The change of each virtual IP, one text each.
fn changes(
    old: &[Arc<Frontend>],
    new: &[Arc<Frontend>],
    draining: &BTreeSet<SocketAddr>,
) -> Vec<String> {
    let by_key = |frontends: &[Arc<Frontend>]| -> BTreeMap<FrontendKey, Arc<Frontend>> {
        let frontends = frontends.iter();
        frontends
            .map(|frontend| (frontend.key, Arc::clone(frontend)))
            .collect()
    };
    let (old, new) = (by_key(old), by_key(new));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let change = |key: &FrontendKey| {
        let text = match (old.get(key), new.get(key)) {
            (None, Some(new)) => format!("{key}: new, {}", part("added", &endpoints(new))),
            (Some(old), None) => {
                let (drains, gone) = split(endpoints(old), draining);
                format!(
                    "{key}: gone{}{}",
                    more("draining", &drains),
                    more("removed", &gone)
                )
            }
            (Some(old), Some(new)) if old != new => {
                let (before, now) = (endpoints(old), endpoints(new));
                let added: BTreeSet<_> = now.difference(&before).copied().collect();
                let left: BTreeSet<_> = before.difference(&now).copied().collect();
                if added.is_empty() && left.is_empty() {
                    return Some(format!("{key}: settings changed"));
                }
                let (drains, gone) = split(left, draining);
                let text = format!(
                    "{key}{}{}{}",
                    more("added", &added),
                    more("draining", &drains),
                    more("removed", &gone)
                );
                text.replacen(", ", ": ", 1)
            }
            _ => return None,
        };
        Some(text)
    };
    keys.into_iter().filter_map(change).collect()
}

fn endpoints(frontend: &Frontend) -> BTreeSet<SocketAddr> {
    let external = frontend
        .external
        .iter()
        .flat_map(|backends| backends.iter());
    let address = |backend: &Backend| SocketAddr::new(backend.address, backend.port.get());
    let all = frontend.backends.iter().chain(external);
    all.map(address).collect()
}

/// Splits endpoints into draining and others.
fn split(
    endpoints: BTreeSet<SocketAddr>,
    draining: &BTreeSet<SocketAddr>,
) -> (BTreeSet<SocketAddr>, BTreeSet<SocketAddr>) {
    endpoints
        .into_iter()
        .partition(|endpoint| draining.contains(endpoint))
}

fn part(what: &str, endpoints: &BTreeSet<SocketAddr>) -> String {
    if endpoints.is_empty() {
        return "without endpoints".to_owned();
    }
    // In the order of their texts.
    let mut endpoints: Vec<_> = endpoints.iter().map(SocketAddr::to_string).collect();
    endpoints.sort_unstable();
    format!("{what} {}", endpoints.join(" "))
}

fn more(what: &str, endpoints: &BTreeSet<SocketAddr>) -> String {
    if endpoints.is_empty() {
        return String::new();
    }
    format!(", {}", part(what, endpoints))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proxier::desired::Config;
    use proxier::mode::ipvs::{FakeNode, Ipvs};
    use proxier::source::manifest;
    use tracing::subscriber::with_default;
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::testing::Lines;

    fn manifest(endpoints: &str) -> Reading {
        let text = format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{clusterIP: 10.96.0.80, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [{endpoints}]}}]
"
        );
        manifest::parse("web.yaml".as_ref(), &text)
    }

    /// A change of the slice, as an API server sends it.
    fn slice(endpoint: &str, version: &str) -> Reading {
        let mut reading = manifest(endpoint);
        let slices = reading.changes.drain(..).find_map(|change| match change {
            Change::EndpointSlicesReplaced(slices) => Some(slices),
            _ => None,
        });
        let changes = slices
            .unwrap()
            .into_iter()
            .map(Change::EndpointSliceApplied);
        reading.changes = changes.collect();
        reading
            .causes
            .push(Cause::new("EndpointSlice", "default/web-1", version));
        reading
    }

    #[test]
    fn a_change_of_a_service_is_one_line_with_its_cause() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry()
            .with(lines.layer())
            .with(LevelFilter::DEBUG);
        with_default(subscriber, || {
            let history = History::default();
            let mut trail = Trail::new(Some(history.clone()));
            let causes = trail.causes();
            let mut config = Config::new("node-a", vec!["192.0.2.1".parse().unwrap()]);
            config.drain_timeout = Duration::from_secs(30);
            let data_plane = Ipvs::new(FakeNode::default().kernel().unwrap());
            let mut proxier = Proxier::new(Arc::new(config), data_plane);
            let mut sync = |reading: Reading| {
                causes.read(&reading);
                lines.take();
                let report = proxier.handle(reading.changes).unwrap().unwrap();
                trail.follow(&proxier, &report);
                let lines = lines.take();
                lines
                    .into_iter()
                    .filter(|line| line.contains("service="))
                    .collect::<Vec<_>>()
            };
            assert_eq!(sync(manifest("10.244.1.10")), [""; 0]);
            assert_eq!(
                sync(slice("10.244.1.11", "1234")),
                [
                    "DEBUG tcp 10.96.0.80:80: added 10.244.1.11:8080, draining 10.244.1.10:8080 \
                     service=default/web cause=\"EndpointSlice default/web-1 changed \
                     (resourceVersion 1234)\" failed=0"
                ]
            );
            assert_eq!(sync(slice("10.244.1.11", "1235")), [""; 0]);
            let name = ObjectName::new("default", "web").unwrap();
            let mut gone = Reading::default();
            gone.changes.push(Change::ServiceDeleted(name));
            let line = sync(gone).join("\n");
            assert!(
                line.starts_with("DEBUG tcp 10.96.0.80:80: gone, "),
                "{line}"
            );
            assert!(
                line.contains("cause=\"Service default/web deleted\""),
                "{line}"
            );
            // The page has them, too, the latest first.
            let recorded = history.latest(None, 10);
            let causes: Vec<_> = recorded.iter().map(|of| of.cause.as_str()).collect();
            let slice = "EndpointSlice default/web-1 changed (resourceVersion 1234)";
            assert_eq!(causes, ["Service default/web deleted", slice]);
        });
    }
}
