//! What frontends need beside themselves.

use std::net::IpAddr;

use ipvs::Family;

use super::{Config, Frontend, Kind};

/// Something that a frontend needs and may share with others: it is there as long as one of them
/// needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Need {
    /// A route of its own, for a cluster IP outside of every Service CIDR.
    Route(IpAddr),
    /// Masquerading of what a backend sends to itself, since it may be on this node.
    Hairpin(IpAddr),
    /// That Services' ports of an address are captured, whoever's the address is.
    Capture(IpAddr),
    /// That what is captured in a family is delivered to this node.
    Delivery(Family),
}

/// What one frontend needs; some of it perhaps twice.
pub(super) fn needs(frontend: &Frontend, config: &Config) -> impl Iterator<Item = Need> {
    let vip = frontend.key.address;
    let is_stray = frontend.kind == Kind::ClusterIp && !config.in_service_cidr(vip);
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
