//! A Service port's endpoints, merged from its slices.

use std::sync::Arc;

use ipvs::Family;

use super::{Backend, Config};
use crate::model::{Endpoint, EndpointSlice, ServicePort};
use crate::store::ServiceView;

/// The ready endpoints of one port in one family, sorted, each once.
///
/// A slice's own port number counts, so slices of one Service may differ in it.
pub(super) fn backends(
    view: ServiceView<'_>,
    port: &ServicePort,
    family: Family,
    config: &Config,
) -> Arc<[Backend]> {
    let of_slice = |slice: &EndpointSlice| -> Vec<Backend> {
        let target = slice
            .ports
            .iter()
            .find(|p| p.name == port.name && p.protocol == port.protocol);
        let Some(target) = target else {
            return Vec::new();
        };
        let ready = slice
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.conditions.ready);
        let backend = |endpoint: &Endpoint| Backend {
            address: endpoint.address,
            port: target.port,
            local: is_local(endpoint, config),
        };
        ready.map(backend).collect()
    };
    let slices = view.slices().filter(|slice| slice.family == family);
    let mut backends: Vec<Backend> = slices.flat_map(of_slice).collect();
    // An endpoint may stand in two slices for a moment while it moves between them; if they
    // disagree on its node, the one that may be local counts.
    backends.sort_unstable_by_key(|b| (b.address, b.port, !b.local));
    backends.dedup_by_key(|b| (b.address, b.port));
    backends.into()
}

/// Whether an endpoint may be a pod on this node. One with the node's own address is the node,
/// whose connections to itself do not pass through another's network.
fn is_local(endpoint: &Endpoint, config: &Config) -> bool {
    !config.node_ips.contains(&endpoint.address)
        && endpoint
            .node
            .as_ref()
            .is_none_or(|node| *node == config.node_name)
}
