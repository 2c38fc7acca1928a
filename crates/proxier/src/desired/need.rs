//! What frontends need in addition, and may share; and health checks of load balancers.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU16;

use foldhash::{HashMap, HashMapExt};
use ipvs::Family;

use super::{Config, Frontend, FrontendKind};
use crate::model::ObjectName;

/// Something that a frontend needs and may share with others. It exists as long as one of them
/// needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Need {
    /// A separate route, for a cluster IP outside all Service CIDRs.
    Route(IpAddr),
    /// Masquerade of connections of a backend to itself; it may be on this node.
    Hairpin(IpAddr),
    /// Capture of Services' ports of an address that may be another node's.
    Capture(IpAddr),
    /// Delivery of a family's captured packets to this node.
    Delivery(Family),
    /// Firewall marks that choose a virtual server.
    Marks,
    /// Rejection of connections to something without backends.
    Refusal,
    /// A check of clients against source ranges.
    SourceRanges,
    /// A health check node port that a host firewall must let pass.
    HealthCheck(Family, NonZeroU16),
}

/// The needs of a health check, in the families that the node serves.
pub(super) fn health_check_needs<'a>(
    check: Option<&HealthCheck>,
    config: &'a Config,
) -> impl Iterator<Item = Need> + use<'a> {
    let port = check.map(|check| check.port);
    let families = [Family::V4, Family::V6].into_iter();
    let families = families.filter(|family| config.serves(*family));
    families.filter_map(move |family| Some(Need::HealthCheck(family, port?)))
}

/// The needs of one frontend; may contain duplicates.
pub(super) fn needs(frontend: &Frontend, config: &Config) -> impl Iterator<Item = Need> {
    let vip = frontend.key.address;
    let is_stray = frontend.kind == FrontendKind::ClusterIp && !config.in_service_cidr(vip);
    let captured = [Need::Capture(vip), Need::Delivery(frontend.key.family())];
    let captured = captured.into_iter().filter(|_| frontend.is_captured());
    let has_marks = frontend.key.is_node_port() || frontend.external.is_some();
    let is_refused = frontend.backends.is_empty();
    let has_ranges = frontend.source_ranges.is_some();
    let external = frontend
        .external
        .iter()
        .flat_map(|backends| backends.iter());
    let backends = frontend.backends.iter().chain(external);
    backends
        .filter(|backend| backend.may_be_own_client())
        .map(|backend| Need::Hairpin(backend.address))
        .chain(is_stray.then_some(Need::Route(vip)))
        .chain(captured)
        .chain(has_marks.then_some(Need::Marks))
        .chain(is_refused.then_some(Need::Refusal))
        .chain(has_ranges.then_some(Need::SourceRanges))
}

/// The health check of a Service with external traffic policy `Local`: its load balancer asks each
/// node whether it has endpoints (`spec.healthCheckNodePort`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectName,
    /// HTTP port on the node.
    pub port: NonZeroU16,
    /// Number of the Service's ready endpoints on this node.
    pub local_endpoints: usize,
}

impl HealthCheck {
    /// A health check on a port.
    pub fn new(service: ObjectName, port: NonZeroU16, local_endpoints: usize) -> Self {
        Self {
            service,
            port,
            local_endpoints,
        }
    }
}

/// Reference counts of things that several Services can need.
#[derive(Debug, Clone)]
pub(super) struct Counter<T>(HashMap<T, u32>);

impl<T> Default for Counter<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash> Counter<T> {
    /// Adds a reference. True if it is the first one.
    pub(super) fn add(&mut self, item: T) -> bool {
        let count = self.0.entry(item).or_insert(0);
        *count += 1;
        *count == 1
    }

    /// Removes a reference. True if it was the last one.
    pub(super) fn remove(&mut self, item: &T) -> bool {
        let Some(count) = self.0.get_mut(item) else {
            return false;
        };
        *count -= 1;
        *count == 0 && self.0.remove(item).is_some()
    }

    pub(super) fn contains(&self, item: &T) -> bool {
        self.0.contains_key(item)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.keys()
    }
}
