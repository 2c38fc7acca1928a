//! The stages put together: changes in, a data plane that follows them out.

mod audit;
mod report;

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use ipvs::VirtualServerKey;

use crate::desired::{Config, ConfigError, DesiredState, FrontendKey, Problem, Touched};
use crate::mode::BackendError;
use crate::mode::ipvs::plan::Scope;
use crate::mode::{Carried, DataPlane, Failures, Item, Reading, Servers};
use crate::model::ObjectName;
use crate::reconcile::schedule::{Failed, Tried};
use crate::store::{Change, Store};

pub use report::{Concerned, SyncKind, SyncReport};

/// Keeps one node's data plane as its Services ask.
///
/// It has no clock and no thread: the caller says when. [`run`](crate::reconcile::run) is a loop that
/// does.
///
/// ```
/// use std::sync::Arc;
/// use proxier::Proxier;
/// use proxier::mode::ipvs::{FakeBackend, Ipvs};
/// use proxier::desired::Config;
/// use proxier::store::Change;
///
/// let config = Arc::new(Config::new("node-a", vec!["192.0.2.1".parse()?]));
/// let mut proxier = Proxier::new(config, Ipvs::new(FakeBackend::default()));
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
    /// As given, before the node's object is heard.
    settings: Arc<Config>,
    /// Whether they were given since the last sync.
    is_set_anew: bool,
    /// Why the node's object is not heard.
    node_error: Option<ConfigError>,
    desired: DesiredState,
    /// Changed since the last plan.
    touched: Touched,
    /// What was tried since the loop asked last.
    attempt: Attempt,
    data_plane: D,
}

/// What was tried, and what failed.
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
    /// What is to be tried again.
    fn into_failed(self) -> impl Iterator<Item = Failed<Item>> {
        let objects = self.items.into_iter().map(Failed::Object);
        let audit = self.needs_audit.then_some(Failed::Audit);
        let node = self.is_unknown.then_some(Failed::Node);
        objects.chain(audit).chain(node)
    }
}

impl Tried<Item> {
    /// Takes in what a plan looks at.
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
    /// A proxier that knows of no Service yet.
    pub fn new(config: Arc<Config>, data_plane: D) -> Self {
        Self {
            store: Store::default(),
            desired: DesiredState::new(Arc::new(config.before_api())),
            settings: config,
            is_set_anew: false,
            node_error: None,
            touched: Touched::default(),
            attempt: Attempt::default(),
            data_plane,
        }
    }

    /// Goes on over another data plane with all that is known of the API's objects.
    pub fn with_data_plane<E: DataPlane>(self, data_plane: E) -> Proxier<E> {
        Proxier {
            store: self.store,
            settings: self.settings,
            node_error: self.node_error,
            is_set_anew: self.is_set_anew,
            desired: self.desired,
            touched: Touched::default(),
            attempt: Attempt::default(),
            data_plane,
        }
    }

    /// Takes changes in and brings the node in line with them. `None` as long as not every kind
    /// of object has been listed.
    ///
    /// The first time the node is observed and compared in full, and again if nobody knows what a
    /// failure left; otherwise the work is that of the changed Services.
    ///
    /// # Errors
    ///
    /// If the node cannot be observed; nothing was changed then. Failed steps are not an error but
    /// part of the report. [`audit`](Self::audit) tries them again, [`run`](crate::reconcile::run)
    /// with a back-off for each object; changes to other Services do not.
    pub fn handle(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Option<SyncReport<D::Plan>>, BackendError> {
        if self.take_in(changes) {
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

    /// Takes changes into the desired state; whether every kind of object has been listed.
    fn take_in(&mut self, changes: impl IntoIterator<Item = Change>) -> bool {
        self.attempt = Attempt::default();
        self.enqueue(changes);
        if !self.store.is_ready() {
            return false;
        }
        let touched = self.store.take_touched();
        let is_new = self.store.take_new_surroundings() | mem::take(&mut self.is_set_anew);
        if is_new && self.follow_node() {
            return true;
        }
        if !self.is_known() && self.desired.is_empty() {
            // Everything is new, and nobody needs to be told what.
            self.desired = DesiredState::from_store(self.desired.config_shared(), &self.store);
            return true;
        }
        for name in touched {
            self.desired
                .update(&name, self.store.get(&name), &mut self.touched);
        }
        true
    }

    /// Gives new settings in the place of those that there are. The next sync makes all anew that
    /// rests on them, and sends what differs; connections to what stays the same go on. If they
    /// cannot work with what the node's object says, those that are in force stay so, and
    /// [`node_error`](Self::node_error) says why.
    ///
    /// The node's name is to stay: the objects that were handed over are those for a node of this
    /// name.
    pub fn reconfigure(&mut self, settings: Arc<Config>) {
        self.settings = settings;
        self.is_set_anew = true;
    }

    /// Takes in the settings and what the node's object says; whether that changed anything. Then
    /// the desired state is made anew. What cannot work leaves the last settings in force.
    fn follow_node(&mut self) -> bool {
        let config = match self.followed() {
            Ok(config) => config,
            Err(error) => {
                self.node_error = Some(error);
                return false;
            }
        };
        self.node_error = None;
        if config == *self.desired.config() {
            return false;
        }
        self.desired = DesiredState::from_store(Arc::new(config), &self.store);
        self.touched = Touched::default();
        self.data_plane.forget();
        true
    }

    /// The Services and endpoint slices that are known.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How many servers the node has, where that has a meaning. `None` too while it is not known what
    /// the node has.
    pub fn servers(&self) -> Option<Servers> {
        self.data_plane.servers()
    }

    /// Whether the node has a virtual server of ours.
    pub fn has_virtual_server(&self, key: &VirtualServerKey) -> bool {
        self.data_plane.has_virtual_server(key)
    }

    /// What the Services' virtual servers have carried. `None` while it is not known what the node
    /// has.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn carried(&mut self) -> Result<Option<Vec<Carried>>, BackendError> {
        self.data_plane.carried(&self.desired)
    }

    /// The settings with what they follow of the API.
    fn followed(&self) -> Result<Config, ConfigError> {
        self.settings
            .following(self.store.node(), self.store.service_cidrs())
    }

    /// Why what the node's object, or the API's ServiceCIDRs, say is not in force.
    pub fn node_error(&self) -> Option<&ConfigError> {
        self.node_error.as_ref()
    }

    /// What [`handle`](Self::handle) would do now if nothing were known of the node.
    ///
    /// # Errors
    ///
    /// If the node cannot be observed.
    pub fn preview(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<D::Plan, BackendError> {
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

    /// What the node should have.
    pub fn desired(&self) -> &DesiredState {
        &self.desired
    }

    /// What Services ask for and do not get.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.desired.problems();
        problems.extend(self.data_plane.problems(&self.desired, None));
        problems
    }

    /// What one Service asks for and does not get. It may have changed since a sync only if that
    /// [says so](SyncReport::concerned).
    pub fn problems_of(&self, service: &ObjectName) -> Vec<Problem> {
        let mut problems = self.desired.problems_of(service);
        problems.extend(self.data_plane.problems(&self.desired, Some(service)));
        problems
    }

    fn sync(&mut self) -> Result<SyncReport<D::Plan>, BackendError> {
        if !self.is_known() {
            self.data_plane.read(Reading::Full, &self.desired)?;
            return Ok(self.sync_all());
        }
        let touched = mem::take(&mut self.touched);
        let scope = Scope::Touched(&touched);
        let plan = self.data_plane.plan(&self.desired, scope);
        self.attempt.tried.extend(scope);
        let concerned = Concerned::Services(self.desired.concerned(&touched));
        Ok(self.apply(SyncKind::Changes, plan, concerned))
    }

    /// Compares all that was read.
    fn sync_all(&mut self) -> SyncReport<D::Plan> {
        self.touched = Touched::default();
        let plan = self.data_plane.plan(&self.desired, Scope::Full);
        self.attempt.tried.extend(Scope::Full);
        self.apply(SyncKind::Full, plan, Concerned::All)
    }

    fn apply(
        &mut self,
        kind: SyncKind,
        plan: D::Plan,
        concerned: Concerned,
    ) -> SyncReport<D::Plan> {
        let (applied, failures) = self.data_plane.carry_out(&plan);
        self.attempt.failed.extend(failures.into_failed());
        SyncReport {
            kind,
            plan,
            applied,
            triggers: self.store.take_triggers(),
            notices: self.data_plane.take_notices(&self.desired),
            concerned,
        }
    }

    /// Tries again what failed, but for what has changed or was audited since.
    ///
    /// # Errors
    ///
    /// As [`handle`](Self::handle) and [`audit`](Self::audit).
    pub(crate) fn retry(
        &mut self,
        failed: &BTreeSet<Failed<Item>>,
    ) -> Result<Option<SyncReport<D::Plan>>, BackendError> {
        if failed.contains(&Failed::Node) {
            self.data_plane.forget();
        } else if failed.contains(&Failed::Audit) {
            return self.audit_from(Reading::Audit);
        }
        if !self.take_in([]) {
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

    /// What was tried since this was called last. Errors are not in it.
    pub(crate) fn take_attempt(&mut self) -> Attempt {
        mem::take(&mut self.attempt)
    }

    /// Whether it is known what the node has.
    pub(crate) fn is_known(&self) -> bool {
        self.data_plane.status().is_known
    }

    /// Has the next sync look at these frontends.
    fn touch(&mut self, frontends: impl IntoIterator<Item = FrontendKey>) {
        for key in frontends {
            let frontend = self.desired.frontend(&key);
            let service = frontend.map(|frontend| frontend.owner.service.clone());
            self.touched.services.extend(service);
            self.touched.frontends.insert(key);
        }
    }

    /// Whether real servers wait for the end of their connections: then
    /// [`drain`](Self::drain) is to be called now and then.
    pub fn is_draining(&self) -> bool {
        self.data_plane.status().is_draining
    }

    /// Removes the real servers whose endpoint has gone and whose connections have ended, or that
    /// have been waiting for that since [`Config::drain_timeout`]. `None` if there are none.
    ///
    /// # Errors
    ///
    /// If their connections cannot be read. Nothing was changed then.
    pub fn drain(&mut self, now: Instant) -> Result<Option<SyncReport<D::Plan>>, BackendError> {
        // What has changed by now goes out first, with what led to it.
        if !self.take_in([]) {
            return Ok(None);
        }
        let timeout = self.desired.config().drain_timeout;
        let Some((plan, emptied)) = self.data_plane.drain(timeout, now)? else {
            return Ok(None);
        };
        let nobody = Concerned::Services(BTreeSet::new());
        let mut report = self.apply(SyncKind::Drained, plan, nobody);
        self.touch(emptied);
        // Those that have no real server left may go now.
        if self.is_known() && !self.touched.frontends.is_empty() {
            report.append(self.sync()?);
        }
        Ok(Some(report))
    }
}
