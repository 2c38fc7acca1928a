//! All frontends of the node, kept up to date one Service at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipvs::Family;

use super::counter::Counter;
use super::service::Wishes;
use super::{Config, Frontend, FrontendKey, HealthCheck, Kind, service};
use crate::model::ObjectName;
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
    /// Backends that may be on this node: they may be their own clients.
    local_backends: Counter<IpAddr>,
    /// Cluster IPs outside of every Service CIDR: each needs a route of its own.
    stray_vips: Counter<IpAddr>,
    /// Addresses that may be others', and of which only Services' ports are captured.
    captured: Counter<IpAddr>,
    /// Families of those.
    capturing: Counter<Family>,
    health_checks: BTreeMap<ObjectName, HealthCheck>,
    /// What Services ask for and this node cannot do, whatever the others ask for.
    problems: BTreeMap<ObjectName, Vec<Problem>>,
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

/// The parts of a [`DesiredState`] that changed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Touched {
    /// Frontends that came, went or differ.
    pub frontends: HashSet<FrontendKey>,
    /// Addresses that became or ceased to be local backends.
    pub local_backends: HashSet<IpAddr>,
    /// Addresses that became or ceased to be VIPs outside of the Service CIDRs.
    pub stray_vips: HashSet<IpAddr>,
    /// Addresses that became or ceased to be captured.
    pub captured: HashSet<IpAddr>,
    /// Families in which something became or ceased to be captured.
    pub capturing: HashSet<Family>,
}

/// Something a Service asks for that it does not get.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Problem {
    /// The Service.
    pub service: ObjectName,
    /// Path of the field that asks.
    pub field: String,
    /// Why it is not done.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Service {}: {}: {}",
            self.service, self.field, self.reason
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
            local_backends: Counter::default(),
            stray_vips: Counter::default(),
            captured: Counter::default(),
            capturing: Counter::default(),
            health_checks: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// The desired state for all that a store holds.
    pub fn from_store(config: Arc<Config>, store: &Store) -> Self {
        let mut state = Self::new(config);
        let mut touched = Touched::default();
        for view in store.services() {
            state.update(&view.service.name, Some(view), &mut touched);
        }
        state
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

    /// Whether an address belongs to a backend that may be on this node.
    pub fn is_local_backend(&self, address: &IpAddr) -> bool {
        self.local_backends.contains(address)
    }

    /// The addresses of backends that may be on this node, in no particular order.
    pub fn local_backends(&self) -> impl Iterator<Item = &IpAddr> {
        self.local_backends.iter()
    }

    /// Whether an address is a VIP outside of every Service CIDR.
    pub fn is_stray_vip(&self, address: &IpAddr) -> bool {
        self.stray_vips.contains(address)
    }

    /// The VIPs outside of every Service CIDR, in no particular order.
    pub fn stray_vips(&self) -> impl Iterator<Item = &IpAddr> {
        self.stray_vips.iter()
    }

    /// Whether Services' ports of an address are captured, whoever's the address is.
    pub fn is_captured(&self, address: &IpAddr) -> bool {
        self.captured.contains(address)
    }

    /// The addresses of which Services' ports are captured, in no particular order.
    pub fn captured(&self) -> impl Iterator<Item = &IpAddr> {
        self.captured.iter()
    }

    /// Whether anything of a family is captured.
    pub fn captures(&self, family: Family) -> bool {
        self.capturing.contains(&family)
    }

    /// What load balancers may ask the node, by Service.
    pub fn health_checks(&self) -> impl Iterator<Item = &HealthCheck> {
        self.health_checks.values()
    }

    /// What Services ask for and do not get, sorted.
    pub fn problems(&self) -> Vec<Problem> {
        let own = self.problems.values().flatten().cloned();
        let contested = self.contested.iter().filter_map(|key| self.claims.get(key));
        let lost = contested.flat_map(|claim| {
            claim.others.iter().map(|loser| Problem {
                service: loser.owner.service.clone(),
                field: match loser.kind {
                    Kind::ClusterIp => "spec.clusterIPs",
                    Kind::LoadBalancer => "status.loadBalancer.ingress",
                    Kind::ExternalIp => "spec.externalIPs",
                    Kind::NodePort => "spec.ports",
                }
                .to_owned(),
                reason: format!(
                    "{} belongs to Service {}",
                    loser.key, claim.holder.owner.service
                ),
            })
        });
        let mut problems: Vec<_> = own.chain(lost).collect();
        problems.sort();
        problems
    }

    /// Takes in one Service as it is now, `None` if it is gone, and notes what changed.
    pub fn update(
        &mut self,
        name: &ObjectName,
        view: Option<ServiceView<'_>>,
        touched: &mut Touched,
    ) {
        let old = self.services.remove(name);
        let old = old.map(|of| of.frontends).unwrap_or_default();
        let Wishes {
            frontends: new,
            health_check,
            problems,
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
                self.claim(frontend.key, name, None, touched);
            }
        }
        // Unchanged ones are claimed too: the Service's age may have changed.
        for frontend in new {
            self.claim(frontend.key, name, Some(frontend), touched);
        }
    }

    /// Sets, or with `None` gives up, a Service's claim to a key.
    fn claim(
        &mut self,
        key: FrontendKey,
        service: &ObjectName,
        frontend: Option<Arc<Frontend>>,
        touched: &mut Touched,
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
        if before != after {
            touched.frontends.insert(key);
            // The new one first, so that what both need is not seen to go.
            if let Some(frontend) = &after {
                self.count(frontend, touched);
            }
            if let Some(frontend) = &before {
                self.discount(frontend, touched);
            }
        }
        if let Some(holder) = after {
            self.claims.insert(key, Claim { holder, others });
        }
    }

    fn count(&mut self, frontend: &Frontend, touched: &mut Touched) {
        for address in local_backends(frontend) {
            if self.local_backends.add(address) {
                touched.local_backends.insert(address);
            }
        }
        let vip = frontend.key.address;
        if self.is_stray(frontend) && self.stray_vips.add(vip) {
            touched.stray_vips.insert(vip);
        }
        if frontend.is_captured() {
            if self.captured.add(vip) {
                touched.captured.insert(vip);
            }
            let family = frontend.key.family();
            if self.capturing.add(family) {
                touched.capturing.insert(family);
            }
        }
    }

    fn discount(&mut self, frontend: &Frontend, touched: &mut Touched) {
        for address in local_backends(frontend) {
            if self.local_backends.remove(&address) {
                touched.local_backends.insert(address);
            }
        }
        let vip = frontend.key.address;
        if self.is_stray(frontend) && self.stray_vips.remove(&vip) {
            touched.stray_vips.insert(vip);
        }
        if frontend.is_captured() {
            if self.captured.remove(&vip) {
                touched.captured.insert(vip);
            }
            let family = frontend.key.family();
            if self.capturing.remove(&family) {
                touched.capturing.insert(family);
            }
        }
    }

    fn is_stray(&self, frontend: &Frontend) -> bool {
        frontend.kind == Kind::ClusterIp && !self.config.in_service_cidr(frontend.key.address)
    }
}

/// Sets what is known of a Service, or with `None` forgets it.
fn put<T>(of_services: &mut BTreeMap<ObjectName, T>, name: &ObjectName, value: Option<T>) {
    match value {
        Some(value) => _ = of_services.insert(name.clone(), value),
        None => _ = of_services.remove(name),
    }
}

/// Those who may be their own clients.
fn local_backends(frontend: &Frontend) -> impl Iterator<Item = IpAddr> {
    let all = frontend.backends.iter();
    let all = all.chain(
        frontend
            .external
            .iter()
            .flat_map(|backends| backends.iter()),
    );
    all.filter(|backend| backend.may_be_own_client())
        .map(|backend| backend.address)
}
