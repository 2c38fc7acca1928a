//! What frontends need in addition, and may share.

use std::net::IpAddr;

use ipvs::Family;

use super::{Config, Frontend, FrontendKind};

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
