//! All frontends of the node, kept up to date one Service at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use ipvs::Scheduler;

use super::counter::Counter;
use super::need::needs;
use super::service::Wishes;
use super::{Config, Frontend, FrontendKey, HealthCheck, Need, service};
use crate::model::ObjectName;
use crate::notice::{Notice, Reason};
use crate::store::{ServiceView, Store};

/// What this node should have.
///
/// The state after a sequence of [`update`](Self::update)s is the one that
/// [`from_store`](Self::from_store) would yield; each update costs work for its Service alone.
#[derive(Debug)]
pub struct DesiredState {
    config: Arc<Config>,
    services: HashMap<ObjectName, OfService>,
    claims: HashMap<FrontendKey, Claim>,
    /// Keys that more than one Service claims.
    contested: BTreeSet<FrontendKey>,
    needs: Counter<Need>,
    health_checks: BTreeMap<ObjectName, HealthCheck>,
    /// What Services ask for and this node cannot do, whatever the others ask for.
    problems: BTreeMap<ObjectName, Vec<Problem>>,
    /// Those that Services chose for themselves.
    schedulers: BTreeMap<ObjectName, Scheduler>,
}

#[derive(Debug)]
struct OfService {
    seniority: i64,
    frontends: Vec<Arc<Frontend>>,
}

/// The Services that want one key; the first has it.
#[derive(Debug)]
struct Claim {
    holder: Arc<Frontend>,
    others: Vec<Arc<Frontend>>,
}

impl Claim {
    /// What this is to a Service that does not hold it.
    fn lost_by(&self, loser: &Frontend) -> Problem {
        let holder = &self.holder.owner.service;
        Problem {
            service: loser.owner.service.clone(),
            field: loser.kind.field().to_owned(),
            reason: Reason::AddressConflict,
            message: format!("{} belongs to Service {holder}", loser.key),
        }
    }
}

/// The parts of a [`DesiredState`] that changed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Touched {
    /// Frontends that came, went or differ.
    pub frontends: BTreeSet<FrontendKey>,
    /// What became or ceased to be needed.
    pub needs: BTreeSet<Need>,
    /// Services that changed, or that have or lost a key because another did: what they ask for
    /// and do not get may be something else now.
    pub services: BTreeSet<ObjectName>,
}

/// Something a Service asks for that it does not get.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Problem {
    /// The Service.
    pub service: ObjectName,
    /// Path of the field that asks.
    pub field: String,
    /// Of which kind it is.
    pub reason: Reason,
    /// Why it is not done.
    pub message: String,
}

impl From<Problem> for Notice {
    fn from(problem: Problem) -> Self {
        let message = format!("{}: {}", problem.field, problem.message);
        Self::of_service(problem.service, problem.reason, message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Service {}: {}: {}",
            self.service, self.field, self.message
        )
    }
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
            schedulers: BTreeMap::new(),
        }
    }

    /// The desired state for all that a store holds.
    pub fn from_store(config: Arc<Config>, store: &Store) -> Self {
        let mut state = Self::new(config);
        let services = store.services();
        let at_most = services.size_hint().1.unwrap_or(0);
        state.services.reserve(at_most);
        state.claims.reserve(at_most);
        for view in services {
            state.take_in(&view.service.name, Some(view), None);
        }
        state
    }

    /// Whether no Service has been taken in.
    pub(crate) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The node's settings and facts.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn config_shared(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    /// The frontend at a key, if any.
    pub fn frontend(&self, key: &FrontendKey) -> Option<&Arc<Frontend>> {
        self.claims.get(key).map(|claim| &claim.holder)
    }

    /// All frontends, in no particular order.
    pub fn frontends(&self) -> impl Iterator<Item = &Arc<Frontend>> {
        self.claims.values().map(|claim| &claim.holder)
    }

    /// Whether a frontend needs this.
    pub fn needs(&self, need: &Need) -> bool {
        self.needs.contains(need)
    }

    /// All that frontends need, in no particular order.
    pub fn all_needs(&self) -> impl Iterator<Item = &Need> {
        self.needs.iter()
    }

    /// What load balancers may ask the node, by Service.
    pub fn health_checks(&self) -> impl Iterator<Item = &HealthCheck> {
        self.health_checks.values()
    }

    /// The Services that chose a scheduler, or options of it, for themselves.
    pub fn chosen_schedulers(&self) -> impl Iterator<Item = (&ObjectName, Scheduler)> {
        let chosen = self.schedulers.iter();
        chosen.map(|(service, scheduler)| (service, *scheduler))
    }

    /// The scheduler, or the options of one, that a Service chose for itself.
    pub fn chosen_scheduler(&self, service: &ObjectName) -> Option<Scheduler> {
        self.schedulers.get(service).copied()
    }

    /// The frontends that a Service has, or would have if they were not another's.
    pub(crate) fn frontends_of(
        &self,
        service: &ObjectName,
    ) -> impl Iterator<Item = &Arc<Frontend>> + use<'_> {
        let of = self.services.get(service);
        of.into_iter().flat_map(|of| &of.frontends)
    }

    /// What Services ask for and do not get, sorted.
    pub fn problems(&self) -> Vec<Problem> {
        let own = self.problems.values().flatten().cloned();
        let contested = self.contested.iter().filter_map(|key| self.claims.get(key));
        let lost = contested.flat_map(|claim| {
            let losers = claim.others.iter();
            losers.map(|loser| claim.lost_by(loser))
        });
        sorted(own.chain(lost))
    }

    /// What one Service asks for and does not get, sorted.
    pub fn problems_of(&self, service: &ObjectName) -> Vec<Problem> {
        let own = self.problems.get(service).into_iter().flatten().cloned();
        let lost = self.frontends_of(service).filter_map(|frontend| {
            let claim = self.claims.get(&frontend.key)?;
            (claim.holder.owner.service != *service).then(|| claim.lost_by(frontend))
        });
        sorted(own.chain(lost))
    }

    /// Takes in one Service as it is now, `None` if it is gone, and notes what changed.
    pub fn update(
        &mut self,
        name: &ObjectName,
        view: Option<ServiceView<'_>>,
        touched: &mut Touched,
    ) {
        touched.services.insert(name.clone());
        self.take_in(name, view, Some(touched));
    }

    fn take_in(
        &mut self,
        name: &ObjectName,
        view: Option<ServiceView<'_>>,
        mut touched: Option<&mut Touched>,
    ) {
        let old = self.services.remove(name);
        let old = old.map(|of| of.frontends).unwrap_or_default();
        let Wishes {
            frontends: new,
            health_check,
            problems,
            scheduler,
        } = match view {
            Some(view) => service::wishes(view, &self.config),
            None => Wishes::default(),
        };
        put(&mut self.health_checks, name, health_check);
        put(
            &mut self.problems,
            name,
            Some(problems).filter(|p| !p.is_empty()),
        );
        put(&mut self.schedulers, name, scheduler);
        if let Some(view) = view {
            let of = OfService {
                seniority: service::seniority(view.service),
                frontends: new.clone(),
            };
            self.services.insert(name.clone(), of);
        }
        for frontend in &old {
            // They are sorted by key.
            if new.binary_search_by_key(&frontend.key, |f| f.key).is_err() {
                self.claim(frontend.key, name, None, touched.as_deref_mut());
            }
        }
        // Unchanged ones are claimed too: the Service's age may have changed.
        for frontend in new {
            self.claim(frontend.key, name, Some(frontend), touched.as_deref_mut());
        }
    }

    /// Sets, or with `None` gives up, a Service's claim to a key.
    fn claim(
        &mut self,
        key: FrontendKey,
        service: &ObjectName,
        frontend: Option<Arc<Frontend>>,
        mut touched: Option<&mut Touched>,
    ) {
        let (before, mut others) = match self.claims.remove(&key) {
            Some(Claim { holder, others }) => (Some(holder), others),
            None => (None, Vec::new()),
        };
        others.extend(before.clone());
        others.retain(|claimant| claimant.owner.service != *service);
        let after = if others.is_empty() {
            frontend
        } else {
            others.extend(frontend);
            others.sort_by_cached_key(|f| {
                let age = self.services.get(&f.owner.service).map(|of| of.seniority);
                (f.kind, age, f.owner.clone())
            });
            Some(others.remove(0))
        };
        if others.is_empty() {
            self.contested.remove(&key);
        } else {
            self.contested.insert(key);
        }
        if let Some(touched) = &mut touched
            && holder(before.as_ref()) != holder(after.as_ref())
        {
            let claimants = before.iter().chain(&after).chain(&others);
            let services = claimants.map(|claimant| claimant.owner.service.clone());
            touched.services.extend(services);
        }
        if before != after {
            // The new one first, so that what both need is not seen to go.
            let came = after.iter().flat_map(|f| needs(f, &self.config));
            let came = came.filter(|need| self.needs.add(*need));
            note(&mut touched, came);
            let went = before.iter().flat_map(|f| needs(f, &self.config));
            let went = went.filter(|need| self.needs.remove(need));
            note(&mut touched, went);
            if let Some(touched) = touched {
                touched.frontends.insert(key);
            }
        }
        if let Some(holder) = after {
            self.claims.insert(key, Claim { holder, others });
        }
    }
}

/// Goes through what became or ceased to be needed, and notes it where somebody wants to know.
fn note(touched: &mut Option<&mut Touched>, changed: impl Iterator<Item = Need>) {
    match touched {
        Some(touched) => touched.needs.extend(changed),
        None => changed.for_each(drop),
    }
}

fn holder(frontend: Option<&Arc<Frontend>>) -> Option<&ObjectName> {
    frontend.map(|frontend| &frontend.owner.service)
}

fn sorted(problems: impl Iterator<Item = Problem>) -> Vec<Problem> {
    let mut problems: Vec<_> = problems.collect();
    problems.sort();
    problems
}

/// Sets what is known of a Service, or with `None` forgets it.
fn put<T>(of_services: &mut BTreeMap<ObjectName, T>, name: &ObjectName, value: Option<T>) {
    match value {
        Some(value) => _ = of_services.insert(name.clone(), value),
        None => _ = of_services.remove(name),
    }
}
