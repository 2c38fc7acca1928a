//! What frontends need in addition, and may share.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ipvs::Family;

use super::{Config, Frontend, FrontendKind, HealthCheck};

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
    /// A health check node port that a host firewall must let pass.
    HealthCheck(Family, NonZeroU16),
}

/// The needs of a health check, in the families in which the node has an address.
pub(super) fn health_check_needs<'a>(
    check: Option<&HealthCheck>,
    config: &'a Config,
) -> impl Iterator<Item = Need> + use<'a> {
    let port = check.map(|check| check.port);
    let families = [Family::V4, Family::V6].into_iter();
    let families = families.filter(|family| config.node_ip(*family).is_some());
    families.filter_map(move |family| Some(Need::HealthCheck(family, port?)))
}

/// The needs of one frontend; may contain duplicates.
pub(super) fn needs(frontend: &Frontend, config: &Config) -> impl Iterator<Item = Need> {
    let vip = frontend.key.address;
    let is_stray = frontend.kind == FrontendKind::ClusterIp && !config.in_service_cidr(vip);
    let captured = [Need::Capture(vip), Need::Delivery(frontend.key.family())];
    let captured = captured.into_iter().filter(|_| frontend.is_captured());
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
}
