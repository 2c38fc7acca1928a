//! Connects the stages: applies changes of the API to the node.

mod audit;
mod report;

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use ipvs::VirtualServerKey;

use crate::desired::{Config, ConfigError, DesiredState, FrontendKey, Problem, Touched};
use crate::mode::NodeError;
use crate::mode::ipvs::plan::Scope;
use crate::mode::{Carried, DataPlane, Drain, Failures, Item, Reading, ServerCounts};
use crate::model::ObjectName;
use crate::notice::{Notice, Reason};
use crate::reconcile::failing::Failing;
use crate::reconcile::schedule::{Failed, Tried};
use crate::store::{Change, Store, Trigger};

pub use report::{Concerned, SyncKind, SyncReport};

/// Keeps one node's data plane in sync with its Services.
///
/// It has no clock and no thread; the caller decides when to sync. [`run`](crate::reconcile::run)
/// is a loop that does this.
///
/// ```
/// use std::sync::Arc;
/// use proxier::Proxier;
/// use proxier::mode::ipvs::{FakeIpvs, Ipvs};
/// use proxier::desired::Config;
/// use proxier::store::Change;
///
/// let config = Arc::new(Config::new("node-a", vec!["192.0.2.1".parse()?]));
/// let mut proxier = Proxier::new(config, Ipvs::new(FakeIpvs::default()));
/// let report = proxier.handle([
///     Change::ServicesReplaced(vec![]),
///     Change::EndpointSlicesReplaced(vec![]),
/// ])?;
/// assert!(report.is_some_and(|report| report.is_success()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Proxier<D: DataPlane> {
    store: Store,
    /// The settings as given, before the Node object overrides some.
    settings: Arc<Config>,
    /// Whether they changed since the last sync.
    is_set_anew: bool,
    /// Why the Node object is rejected.
    node_error: Option<ConfigError>,
    /// The condition of a node whose name is unknown, with the names that were known when it began.
    unknown_node: Option<Notice>,
    desired: DesiredState,
    /// What changed since the last plan.
    touched: Touched,
    /// What was tried since the last [`take_attempt`](Self::take_attempt).
    attempt: Attempt,
    /// What failed and has not been right since.
    failing: Failing,
    /// The triggers of the changes in the desired state that no report has.
    triggers: Vec<Trigger>,
    is_draining_beside: bool,
    data_plane: D,
}

/// The items that were tried, and those that failed.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) tried: Tried<Item>,
    pub(crate) failed: BTreeSet<Failed<Item>>,
}

impl Default for Attempt {
    fn default() -> Self {
        Self {
            tried: Tried::Objects(BTreeSet::new()),
            failed: BTreeSet::new(),
        }
    }
}

impl Failures {
    /// The items to retry.
    fn into_failed(self) -> impl Iterator<Item = Failed<Item>> {
        let objects = self.items.into_iter().map(Failed::Object);
        let audit = self.needs_audit.then_some(Failed::Audit);
        let node = self.is_unknown.then_some(Failed::Node);
        objects.chain(audit).chain(node)
    }
}

impl Tried<Item> {
    /// Adds the items in the scope of a plan.
    fn extend(&mut self, scope: Scope<'_>) {
        match (&mut *self, scope) {
            (Self::Objects(objects), Scope::Touched(touched)) => {
                objects.extend(touched.frontends.iter().copied().map(Item::Frontend));
                objects.extend(touched.needs.iter().copied().map(Item::Need));
            }
            _ => *self = Self::All,
        }
    }
}

impl<D: DataPlane> Proxier<D> {
    /// A proxier without Services.
    pub fn new(config: Arc<Config>, data_plane: D) -> Self {
        Self {
            store: Store::default(),
            desired: DesiredState::new(Arc::new(config.before_api())),
            settings: config,
            is_set_anew: false,
            node_error: None,
            unknown_node: None,
            touched: Touched::default(),
            attempt: Attempt::default(),
            failing: Failing::default(),
            triggers: Vec::new(),
            is_draining_beside: false,
            data_plane,
        }
    }

    /// Continues with another data plane and the same store.
    pub fn with_data_plane<E: DataPlane>(self, data_plane: E) -> Proxier<E> {
        Proxier {
            store: self.store,
            settings: self.settings,
            node_error: self.node_error,
            unknown_node: self.unknown_node,
            is_set_anew: self.is_set_anew,
            desired: self.desired,
            touched: Touched::default(),
            attempt: Attempt::default(),
            failing: Failing::default(),
            triggers: Vec::new(),
            is_draining_beside: false,
            data_plane,
        }
    }

    /// Applies changes to the node. `None` until every kind of object has been listed.
    ///
    /// The first call reads the node and compares everything, and so does a call after a failure
    /// that left the state of the node unknown. Other calls do work for the changed Services only.
    ///
    /// # Errors
    ///
    /// If the node cannot be read; nothing is changed then. Failed steps are not an error but part
    /// of the report. [`audit`](Self::audit) retries them, and [`run`](crate::reconcile::run)
    /// retries each object with its own back-off. Changes of other Services do not retry them.
    pub fn handle(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Option<SyncReport<D::Plan>>, NodeError> {
        if self.ingest(changes) {
            self.sync().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Stores changes for the next sync.
    pub(crate) fn enqueue(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes
            .into_iter()
            .for_each(|change| self.store.apply(change));
    }

    /// Updates the desired state. Returns whether every kind of object has been listed.
    fn ingest(&mut self, changes: impl IntoIterator<Item = Change>) -> bool {
        self.attempt = Attempt::default();
        self.enqueue(changes);
        if !self.store.is_ready() {
            return false;
        }
        self.compute();
        self.triggers.extend(self.store.take_triggers());
        self.unknown_node = match self.desired.is_node_unknown(&self.store) {
            true => self
                .unknown_node
                .take()
                .or_else(|| self.desired.unknown_node(&self.store)),
            false => None,
        };
        true
    }

    /// Updates the desired state by what has changed in the store.
    fn compute(&mut self) {
        let touched = self.store.take_touched();
        let is_new = self.store.take_new_surroundings() | mem::take(&mut self.is_set_anew);
        if is_new && self.follow_node() {
            return;
        }
        if !self.is_known() && self.desired.is_empty() {
            // The first full sync compares everything, so the touched parts need no record.
            self.desired = DesiredState::from_store(self.desired.config_shared(), &self.store);
            return;
        }
        for name in touched {
            self.desired
                .update(&name, self.store.get(&name), &mut self.touched);
        }
        if self.desired.has_other_captures() {
            self.follow_node();
        }
    }

    /// Replaces the settings. The next sync computes the desired state again and applies the
    /// differences; connections to unchanged endpoints continue. If the settings contradict the
    /// Node object, the previous ones stay in effect, and [`node_error`](Self::node_error) returns
    /// the reason.
    ///
    /// The node name must stay the same: the source sent the objects for this node.
    pub fn reconfigure(&mut self, settings: Arc<Config>) {
        self.settings = settings;
        self.is_set_anew = true;
    }

    /// Applies the settings and the Node object; computes the desired state again if they changed,
    /// and returns whether they did. Invalid settings are rejected; the previous ones stay in
    /// effect.
    fn follow_node(&mut self) -> bool {
        let config = match self.followed() {
            Ok(config) => config,
            Err(error) => {
                self.node_error = Some(error);
                return false;
            }
        };
        self.node_error = None;
        if self.desired.has_settings(&config) && !self.desired.has_other_captures() {
            return false;
        }
        self.desired = DesiredState::from_store(Arc::new(config), &self.store);
        self.touched = Touched::default();
        self.data_plane.forget();
        true
    }

    /// The known Services and endpoint slices.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The numbers of virtual and real servers. `None` in a mode without servers, and while the
    /// state of the node is unknown.
    pub fn servers(&self) -> Option<ServerCounts> {
        self.data_plane.servers()
    }

    /// At most so many of the real servers that drain. Empty in a mode that leaves draining to
    /// connection tracking.
    pub fn drains(&self, most: usize) -> Vec<Drain> {
        self.data_plane.drains(&self.desired, most, Instant::now())
    }

    /// Whether the node has this virtual server and svcproxy owns it.
    pub fn has_virtual_server(&self, key: &VirtualServerKey) -> bool {
        self.data_plane.has_virtual_server(key)
    }

    /// The traffic counters of the Services' virtual servers. `None` while the state of the node is
    /// unknown.
    ///
    /// # Errors
    ///
    /// If the counters cannot be read.
    pub fn carried(&mut self) -> Result<Option<Vec<Carried>>, NodeError> {
        self.data_plane.carried(&self.desired)
    }

    /// The settings, with the values from the API.
    fn followed(&self) -> Result<Config, ConfigError> {
        self.settings
            .following(self.store.node(), self.store.service_cidrs())
    }

    /// Why the Node object or the API's ServiceCIDRs are not in effect.
    pub fn node_error(&self) -> Option<&ConfigError> {
        self.node_error.as_ref()
    }

    /// The plan of [`handle`](Self::handle) after a fresh reading of the node, without executing
    /// it.
    ///
    /// # Errors
    ///
    /// If the node cannot be read.
    pub fn preview(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<D::Plan, NodeError> {
        self.enqueue(changes);
        let config = self.followed();
        let config = config.map_or_else(|_| self.desired.config_shared(), Arc::new);
        let desired = DesiredState::from_store(config, &self.store);
        self.data_plane.read(Reading::Full, &desired)?;
        let plan = self.data_plane.plan(&desired, Scope::Full);
        self.data_plane.forget();
        Ok(plan)
    }

    #[cfg(test)]
    pub(crate) const fn data_plane_mut(&mut self) -> &mut D {
        &mut self.data_plane
    }

    /// The desired state of the node.
    pub fn desired(&self) -> &DesiredState {
        &self.desired
    }

    /// What Services request and do not get.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.desired.problems();
        problems.extend(self.data_plane.problems(&self.desired, None));
        problems.extend(self.failing.problems(&self.desired, None));
        problems
    }

    /// What one Service requests and does not get. A sync changes this only for the Services in
    /// [`SyncReport::concerned`].
    pub fn problems_of(&self, service: &ObjectName) -> Vec<Problem> {
        let mut problems = self.desired.problems_of(service);
        problems.extend(self.data_plane.problems(&self.desired, Some(service)));
        problems.extend(self.failing.problems(&self.desired, Some(service)));
        problems
    }

    /// The conditions of the node.
    pub fn node_conditions(&self) -> Vec<Notice> {
        let config = self.desired.config();
        let refused = self.node_error.as_ref().map(|error| {
            let message = format!("{error}; the previous settings stay in effect");
            Notice::of_node(Reason::NodeRefused, message)
        });
        let of_config = config.notices().chain(refused);
        let of_config = of_config.chain(self.unknown_node.clone());
        let of_config = of_config.chain(self.data_plane.conditions());
        of_config
            .chain(self.failing.conditions(&self.desired))
            .collect()
    }

    /// Whether what all Services share is in effect: the rules, routes of whole Service CIDRs,
    /// sysctls. If a change of it failed, only a comparison of everything shows that it is right
    /// again, not the success of a Service. Failures of single Services do not count; they are
    /// [problems](Self::problems).
    pub const fn is_settled(&self) -> bool {
        !self.failing.is_general()
    }

    fn sync(&mut self) -> Result<SyncReport<D::Plan>, NodeError> {
        if !self.is_known() {
            self.data_plane.read(Reading::Full, &self.desired)?;
            return Ok(self.sync_all());
        }
        let touched = mem::take(&mut self.touched);
        let scope = Scope::Touched(&touched);
        let plan = self.data_plane.plan(&self.desired, scope);
        self.attempt.tried.extend(scope);
        let concerned = Concerned::Services(self.desired.concerned(&touched));
        Ok(self.apply(SyncKind::Changes, plan, Some(scope), concerned))
    }

    /// Compares everything with the last reading of the node.
    fn sync_all(&mut self) -> SyncReport<D::Plan> {
        self.touched = Touched::default();
        let plan = self.data_plane.plan(&self.desired, Scope::Full);
        self.attempt.tried.extend(Scope::Full);
        self.apply(SyncKind::Full, plan, Some(Scope::Full), Concerned::All)
    }

    fn apply(
        &mut self,
        kind: SyncKind,
        plan: D::Plan,
        scope: Option<Scope<'_>>,
        concerned: Concerned,
    ) -> SyncReport<D::Plan> {
        let (applied, mut failures) = self.data_plane.carry_out(&plan);
        let is_timely = !failures.is_general;
        if let Some(scope) = scope {
            self.failing.settle(scope, &mut failures);
        }
        self.attempt.failed.extend(failures.into_failed());
        SyncReport {
            kind,
            plan,
            applied,
            is_timely,
            triggers: mem::take(&mut self.triggers),
            notices: self.data_plane.take_notices(&self.desired),
            concerned,
        }
    }

    /// Retries failed items, except those that changed or were audited in the meantime.
    ///
    /// # Errors
    ///
    /// As [`handle`](Self::handle) and [`audit`](Self::audit).
    pub(crate) fn retry(
        &mut self,
        failed: &BTreeSet<Failed<Item>>,
    ) -> Result<Option<SyncReport<D::Plan>>, NodeError> {
        if failed.contains(&Failed::Node) {
            self.data_plane.forget();
        } else if failed.contains(&Failed::Audit) {
            return self.audit_from(Reading::Audit);
        }
        if !self.ingest([]) {
            return Ok(None);
        }
        for item in failed {
            match item {
                Failed::Object(Item::Frontend(key)) => self.touch([*key]),
                Failed::Object(Item::Need(need)) => _ = self.touched.needs.insert(*need),
                Failed::Node | Failed::Audit => {}
            }
        }
        self.sync().map(Some)
    }

    /// What was tried since the last call, without errors.
    pub(crate) fn take_attempt(&mut self) -> Attempt {
        mem::take(&mut self.attempt)
    }

    /// Whether the state of the node is known.
    pub(crate) fn is_known(&self) -> bool {
        self.data_plane.status().is_known
    }

    /// Marks these frontends for the next sync.
    fn touch(&mut self, frontends: impl IntoIterator<Item = FrontendKey>) {
        for key in frontends {
            let frontend = self.desired.frontend(&key);
            let service = frontend.map(|frontend| frontend.owner.service.clone());
            self.touched.services.extend(service);
            self.touched.frontends.insert(key);
        }
    }

    /// Whether anything drains; if so, call [`drain`](Self::drain) now and then.
    pub fn is_draining(&self) -> bool {
        self.data_plane.status().is_draining || self.is_draining_beside
    }

    /// Whether something else drains that the observer of [`run`](crate::reconcile::run) removes, for
    /// instance what the other mode left. While it does, the observer gets
    /// [`Observed::Drain`](crate::reconcile::Observed::Drain) once per
    /// [`Intervals::drain`](crate::reconcile::Intervals::drain).
    pub const fn set_draining_beside(&mut self, is_draining: bool) {
        self.is_draining_beside = is_draining;
    }

    pub(crate) const fn is_draining_beside(&self) -> bool {
        self.is_draining_beside
    }

    /// Removes the draining real servers whose connections have ended, or that have drained for
    /// [`Config::drain_timeout`]. `None` if there are none.
    ///
    /// # Errors
    ///
    /// If their connections cannot be read; nothing is changed then.
    pub fn drain(&mut self, now: Instant) -> Result<Option<SyncReport<D::Plan>>, NodeError> {
        // Apply pending changes first, so that their triggers belong to their own sync.
        if !self.ingest([]) {
            return Ok(None);
        }
        let timeout = self.desired.config().drain_timeout;
        let Some((plan, emptied)) = self.data_plane.drain(timeout, now)? else {
            return Ok(None);
        };
        let nobody = Concerned::Services(BTreeSet::new());
        // Not recorded as failing: each check tries it again, and no client needs it.
        let mut report = self.apply(SyncKind::Drained, plan, None, nobody);
        self.touch(emptied);
        // Virtual servers without real servers can be removed now.
        if self.is_known() && !self.touched.frontends.is_empty() {
            report.append(self.sync()?);
        }
        Ok(Some(report))
    }
}
