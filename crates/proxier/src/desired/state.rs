//! All frontends of the node, updated one Service at a time.

mod captured;
mod health_ports;
mod location;
mod problems;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::num::NonZeroU16;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;
use ipvs::Scheduler;

use super::need::{Counter, needs};
use super::service::{Captured, Location, Wishes};
use super::{Config, Frontend, FrontendKey, HealthCheck, Need, NoEndpoints, Unanswered, service};
use crate::model::{Forwarding, ObjectName};
use crate::store::{ServiceView, Store};
pub use problems::Problem;

/// The desired state of this node.
///
/// A sequence of [`update`](Self::update)s leads to the same state as
/// [`from_store`](Self::from_store). Each update costs work for its Service alone.
#[derive(Debug)]
pub struct DesiredState {
    config: Arc<Config>,
    services: HashMap<ObjectName, OfService>,
    claims: HashMap<FrontendKey, Claim>,
    /// Keys that more than one Service claims.
    contested: BTreeSet<FrontendKey>,
    needs: Counter<Need>,
    health_checks: BTreeMap<ObjectName, HealthCheck>,
    /// Requests that this node cannot serve, independent of other Services.
    problems: BTreeMap<ObjectName, Vec<Problem>>,
    /// Ports without endpoints.
    unanswered: BTreeMap<ObjectName, Vec<Unanswered>>,
    /// Schedulers that Services chose.
    schedulers: BTreeMap<ObjectName, Scheduler>,
    /// Forwarding methods that Services chose, other than masquerade.
    forwarding: BTreeMap<ObjectName, Forwarding>,
    /// Services whose endpoints expect the PROXY protocol.
    with_header: BTreeSet<ObjectName>,
    /// The Services with a health check at a port.
    health_ports: BTreeMap<NonZeroU16, BTreeSet<ObjectName>>,
    /// How many Services have endpoints on this node, and how many on other nodes only.
    located: [usize; 2],
    /// Endpoints in Service CIDRs.
    captured: BTreeMap<ObjectName, Vec<Captured>>,
    /// The Service CIDRs that held endpoints when the settings were made.
    holding: BTreeSet<IpNet>,
}

#[derive(Debug)]
struct OfService {
    seniority: i64,
    frontends: Vec<Arc<Frontend>>,
    location: Option<Location>,
}

/// The Services that claim one key.
#[derive(Debug)]
struct Claim {
    holder: Claimant,
    /// The other claimants, by precedence.
    others: BTreeSet<Claimant>,
}

/// A Service that claims a key. The smallest claimant gets it.
#[derive(Debug, Clone)]
struct Claimant {
    seniority: i64,
    frontend: Arc<Frontend>,
}

impl Claimant {
    fn rank(&self) -> impl Ord + '_ {
        let frontend = &self.frontend;
        (frontend.kind, self.seniority, &frontend.owner)
    }
}

impl Ord for Claimant {
    fn cmp(&self, other: &Self) -> Ordering {
        #[cfg(test)]
        tests::count_comparison();
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Claimant {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Claimant {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Claimant {}

/// The parts of a [`DesiredState`] that changed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Touched {
    /// Frontends that were added, removed or changed.
    pub frontends: BTreeSet<FrontendKey>,
    /// Needs that were added or removed.
    pub needs: BTreeSet<Need>,
    /// Services that changed, or that got or lost a key because another one changed.
    pub services: BTreeSet<ObjectName>,
    /// Keys that passed from one Service to another. They
    /// [concern](DesiredState::concerned) all their claimants.
    pub(crate) passed_on: BTreeSet<FrontendKey>,
}

impl DesiredState {
    /// The desired state of a node without Services.
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            services: HashMap::new(),
            claims: HashMap::new(),
            contested: BTreeSet::new(),
            needs: Counter::default(),
            health_checks: BTreeMap::new(),
            problems: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            schedulers: BTreeMap::new(),
            forwarding: BTreeMap::new(),
            with_header: BTreeSet::new(),
            health_ports: BTreeMap::new(),
            located: [0; 2],
            captured: BTreeMap::new(),
            holding: BTreeSet::new(),
        }
    }

    /// The desired state for all objects of a store. Service CIDRs that hold endpoints are
    /// [shared](Config::shared_cidrs).
    pub fn from_store(config: Arc<Config>, store: &Store) -> Self {
        let state = Self::as_configured(Arc::clone(&config), store);
        let holding = state.cidrs_with_endpoints();
        if holding.is_empty() {
            return state;
        }
        let mut shared = Config::clone(&config);
        shared.share(&holding);
        let mut state = match shared == *config {
            true => state,
            false => Self::as_configured(Arc::new(shared), store),
        };
        state.holding = holding;
        state
    }

    fn as_configured(config: Arc<Config>, store: &Store) -> Self {
        let mut state = Self::new(config);
        let services = store.services();
        let at_most = services.size_hint().1.unwrap_or(0);
        state.services.reserve(at_most);
        state.claims.reserve(at_most);
        for view in services {
            state.ingest(&view.service.name, Some(view), None);
        }
        state
    }

    /// Whether it contains no Service.
    pub(crate) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The settings and facts of the node.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn config_shared(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    /// The frontend at a key, if any.
    pub fn frontend(&self, key: &FrontendKey) -> Option<&Arc<Frontend>> {
        let claim = self.claims.get(key)?;
        let is_taken = self.health_check_at(key).is_some();
        (!is_taken).then_some(&claim.holder.frontend)
    }

    /// All frontends, in no particular order.
    pub fn frontends(&self) -> impl Iterator<Item = &Arc<Frontend>> {
        let claims = self.claims.iter();
        let served = claims.filter(|(key, _)| self.health_check_at(key).is_none());
        served.map(|(_, claim)| &claim.holder.frontend)
    }

    /// Whether any frontend needs this.
    pub fn needs(&self, need: &Need) -> bool {
        self.needs.contains(need)
    }

    /// The needs of all frontends, in no particular order.
    pub fn all_needs(&self) -> impl Iterator<Item = &Need> {
        self.needs.iter()
    }

    /// The health checks, by Service.
    pub fn health_checks(&self) -> impl Iterator<Item = &HealthCheck> {
        self.health_checks.values()
    }

    /// The Services that chose a scheduler or its flags.
    pub(crate) fn chosen_schedulers(&self) -> impl Iterator<Item = (&ObjectName, Scheduler)> {
        let chosen = self.schedulers.iter();
        chosen.map(|(service, scheduler)| (service, *scheduler))
    }

    /// The scheduler that a Service chose, by name or by flags.
    pub(crate) fn chosen_scheduler(&self, service: &ObjectName) -> Option<Scheduler> {
        self.schedulers.get(service).copied()
    }

    /// The Services that chose a forwarding method other than masquerade.
    pub(crate) fn chosen_forwarding(&self) -> impl Iterator<Item = &ObjectName> {
        self.forwarding.keys()
    }

    /// Whether a Service chose a forwarding method other than masquerade.
    pub(crate) fn has_chosen_forwarding(&self, service: &ObjectName) -> bool {
        self.forwarding.contains_key(service)
    }

    /// The Services whose endpoints expect the PROXY protocol.
    pub(crate) const fn with_header(&self) -> &BTreeSet<ObjectName> {
        &self.with_header
    }

    /// The ports of a Service that have no endpoints, each with the reason.
    pub fn unanswered(&self, service: &ObjectName) -> &[Unanswered] {
        self.unanswered.get(service).map_or(&[], Vec::as_slice)
    }

    /// The Services with such ports.
    pub(crate) fn all_unanswered(&self) -> impl Iterator<Item = (&ObjectName, &Vec<Unanswered>)> {
        self.unanswered.iter()
    }

    /// Why a frontend has no endpoints at all, or with `here` none on this node. None if it has
    /// some.
    pub fn why_no_endpoints(&self, frontend: &Frontend, here: bool) -> Option<&NoEndpoints> {
        let ports = self.unanswered(&frontend.owner.service);
        let (name, key) = (&frontend.owner.port, &frontend.key);
        let port = ports.iter().find(|port| {
            port.port == *name && port.protocol == key.protocol && port.family == key.family()
        })?;
        if here {
            port.here.as_ref()
        } else {
            port.anywhere.as_ref()
        }
    }

    /// The frontends that a Service claims, also those that another Service holds.
    pub fn frontends_of(
        &self,
        service: &ObjectName,
    ) -> impl Iterator<Item = &Arc<Frontend>> + use<'_> {
        let of = self.services.get(service);
        of.into_iter().flat_map(|of| &of.frontends)
    }

    /// The Services whose [problems](Self::problems_of) may differ after these changes.
    ///
    /// Call it once for many changes: a key with many claimants may pass on with each of them.
    pub fn concerned(&self, touched: &Touched) -> BTreeSet<ObjectName> {
        let claims = touched.passed_on.iter();
        let claims = claims.filter_map(|key| self.claims.get(key));
        let claimants = claims.flat_map(|claim| iter::once(&claim.holder).chain(&claim.others));
        let services = claimants.map(|claimant| &claimant.frontend.owner.service);
        services.chain(&touched.services).cloned().collect()
    }

    /// Updates one Service, or removes it if `None`, and records what changed in `touched`.
    pub fn update(
        &mut self,
        name: &ObjectName,
        view: Option<ServiceView<'_>>,
        touched: &mut Touched,
    ) {
        touched.services.insert(name.clone());
        self.ingest(name, view, Some(touched));
    }

    fn ingest(
        &mut self,
        name: &ObjectName,
        view: Option<ServiceView<'_>>,
        mut touched: Option<&mut Touched>,
    ) {
        let old = self.services.remove(name);
        let was = old.as_ref().and_then(|of| of.location.clone());
        let (seniority, old) = old.map_or((0, Vec::new()), |of| (of.seniority, of.frontends));
        let mut old: Vec<_> = old
            .into_iter()
            .map(|frontend| Claimant {
                seniority,
                frontend,
            })
            .collect();
        let Wishes {
            frontends: new,
            health_check,
            problems,
            unanswered,
            scheduler,
            forwarding,
            has_header,
            location,
            captured,
        } = match view {
            Some(view) => service::wishes(view, &self.config),
            None => Wishes::default(),
        };
        self.count_location(was.as_ref(), location.as_ref());
        self.update_health_port(name, health_check.as_ref(), &mut touched);
        put(&mut self.health_checks, name, health_check);
        put(
            &mut self.problems,
            name,
            Some(problems).filter(|p| !p.is_empty()),
        );
        put(
            &mut self.unanswered,
            name,
            Some(unanswered).filter(|ports| !ports.is_empty()),
        );
        put(
            &mut self.captured,
            name,
            Some(captured).filter(|captured| !captured.is_empty()),
        );
        put(&mut self.schedulers, name, scheduler);
        put(&mut self.forwarding, name, forwarding);
        match has_header {
            true => _ = self.with_header.insert(name.clone()),
            false => _ = self.with_header.remove(name),
        }
        let seniority = view.map_or(0, |view| service::seniority(view.service));
        if view.is_some() {
            let frontends = new.clone();
            let of = OfService {
                seniority,
                frontends,
                location,
            };
            self.services.insert(name.clone(), of);
        }
        // Both lists are sorted by key.
        old.reverse();
        for frontend in new {
            while let Some(gone) = old.pop_if(|old| old.frontend.key < frontend.key) {
                self.claim(gone.frontend.key, Some(gone), None, touched.as_deref_mut());
            }
            let before = old.pop_if(|old| old.frontend.key == frontend.key);
            // Also if it is unchanged: the Service's age may have changed.
            let claimant = Claimant {
                seniority,
                frontend,
            };
            let key = claimant.frontend.key;
            self.claim(key, before, Some(claimant), touched.as_deref_mut());
        }
        for gone in old {
            self.claim(gone.frontend.key, Some(gone), None, touched.as_deref_mut());
        }
    }

    /// Replaces a Service's claim to a key.
    fn claim(
        &mut self,
        key: FrontendKey,
        old: Option<Claimant>,
        new: Option<Claimant>,
        mut touched: Option<&mut Touched>,
    ) {
        let (before, mut others) = match self.claims.remove(&key) {
            Some(Claim { holder, others }) => (Some(holder), others),
            None => (None, BTreeSet::new()),
        };
        let mut holder = before.clone();
        if let Some(old) = old
            && !others.remove(&old)
        {
            holder = None;
        }
        match new {
            Some(claimant) if holder.is_none() => holder = Some(claimant),
            new => others.extend(new),
        }
        let first = others.first();
        let is_first = holder
            .as_ref()
            .is_some_and(|holder| first.is_none_or(|first| holder < first));
        let after = if is_first {
            holder
        } else {
            let first = others.pop_first();
            others.extend(holder);
            first
        };
        if others.is_empty() {
            self.contested.remove(&key);
        } else {
            self.contested.insert(key);
        }
        let service_of = |claimant: &Claimant| claimant.frontend.owner.service.clone();
        let (had, has) = (
            before.as_ref().map(service_of),
            after.as_ref().map(service_of),
        );
        if let Some(touched) = &mut touched
            && had != has
        {
            touched.services.extend(had.into_iter().chain(has));
            if !others.is_empty() {
                touched.passed_on.insert(key);
            }
        }
        let is_taken = self.health_check_at(&key).is_some();
        let [before, wanted] = [&before, &after].map(|of| {
            let of = of.as_ref().filter(|_| !is_taken);
            of.map(|of| &of.frontend)
        });
        if before != wanted {
            let came = wanted.into_iter().flat_map(|f| needs(f, &self.config));
            let went = before.into_iter().flat_map(|f| needs(f, &self.config));
            replace_needs(&mut self.needs, went, came, &mut touched);
            if let Some(touched) = touched {
                touched.frontends.insert(key);
            }
        }
        if let Some(holder) = after {
            self.claims.insert(key, Claim { holder, others });
        }
    }
}

/// Counts the needs that come instead of those that go, and records which begin and end, if the
/// caller wants them.
fn replace_needs(
    needs: &mut Counter<Need>,
    went: impl Iterator<Item = Need>,
    came: impl Iterator<Item = Need>,
    touched: &mut Option<&mut Touched>,
) {
    let mut note = |changed: &mut dyn Iterator<Item = Need>| match touched {
        Some(touched) => touched.needs.extend(changed),
        None => changed.for_each(drop),
    };
    // Add the new needs first, so that what both need is not seen as removed.
    note(&mut came.filter(|need| needs.add(*need)));
    note(&mut went.filter(|need| needs.remove(need)));
}

/// Sets a Service's value, or removes it if `None`.
fn put<T>(of_services: &mut BTreeMap<ObjectName, T>, name: &ObjectName, value: Option<T>) {
    match value {
        Some(value) => _ = of_services.insert(name.clone(), value),
        None => _ = of_services.remove(name),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::num::NonZeroU16;

    use super::*;
    use crate::model::{PortName, Protocol, Service, ServicePort};
    use crate::store::Change;

    thread_local! {
        static COMPARISONS: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn count_comparison() {
        COMPARISONS.set(COMPARISONS.get() + 1);
    }

    fn name(number: i64) -> ObjectName {
        ObjectName::new("default", &format!("s{number}")).unwrap()
    }

    /// A Service with this number and age. All have the same address.
    fn service(number: i64) -> Change {
        let mut service = Service::new(name(number));
        service.created = Some(number);
        service.cluster_ips = [[10, 96, 0, 1].into()].into();
        let port = NonZeroU16::new(80).unwrap();
        service.ports = [ServicePort::new(PortName::UNNAMED, Protocol::Tcp, port)].into();
        Change::ServiceApplied(service)
    }

    struct Cluster {
        store: Store,
        state: DesiredState,
    }

    impl Cluster {
        fn new() -> Self {
            let mut store = Store::default();
            store.apply(Change::ServicesReplaced(Vec::new()));
            store.apply(Change::EndpointSlicesReplaced(Vec::new()));
            let config = Config::new("node-a", vec![[192, 0, 2, 1].into()]);
            let state = DesiredState::new(Arc::new(config));
            Self { store, state }
        }

        /// Applies changes. Returns the number of comparisons of claims, and the Services
        /// concerned.
        fn take(&mut self, changes: impl Iterator<Item = Change>) -> (u64, BTreeSet<ObjectName>) {
            let before = COMPARISONS.get();
            let mut touched = Touched::default();
            for change in changes {
                self.store.apply(change);
                for name in self.store.take_touched() {
                    self.state
                        .update(&name, self.store.get(&name), &mut touched);
                }
            }
            let concerned = self.state.concerned(&touched);
            (COMPARISONS.get() - before, concerned)
        }
    }

    /// Holds for any number of claimants, in any order.
    #[test]
    fn a_claim_is_not_compared_with_all_others() {
        let orders: [fn(i64) -> Vec<i64>; 2] = [|n| (0..n).collect(), |n| (0..n).rev().collect()];
        for order in orders {
            for count in [1_000, 4_000] {
                let mut cluster = Cluster::new();
                let numbers = order(count);
                let (comparisons, concerned) =
                    cluster.take(numbers.iter().map(|number| service(*number)));
                // A tree of this size has about twelve levels of binary searches. A walk through
                // all claimants takes a thousand comparisons.
                let most = 40 * count.unsigned_abs();
                assert!(comparisons <= most, "{comparisons} for {count} that come");
                assert_eq!(concerned.len(), numbers.len());
                assert_eq!(cluster.state.problems().len(), numbers.len() - 1);
                // Each deletion passes the key on.
                let gone = (0..count - 1).map(|number| Change::ServiceDeleted(name(number)));
                let (comparisons, _) = cluster.take(gone);
                assert!(comparisons <= most, "{comparisons} for {count} that go");
                assert_eq!(cluster.state.problems(), []);
                let last = cluster.state.frontends().next().unwrap();
                assert_eq!(last.owner.service, name(count - 1));
            }
        }
    }

    #[test]
    fn a_key_that_passes_on_concerns_all_its_claimants() {
        let mut cluster = Cluster::new();
        cluster.take([3, 1, 2].into_iter().map(service));
        let (_, concerned) = cluster.take([Change::ServiceDeleted(name(1))].into_iter());
        assert_eq!(concerned, BTreeSet::from([1, 2, 3].map(name)));
        let (_, concerned) = cluster.take([Change::ServiceDeleted(name(3))].into_iter());
        assert_eq!(concerned, BTreeSet::from([3].map(name)));
    }
}
