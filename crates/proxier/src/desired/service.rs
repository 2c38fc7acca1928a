//! From one Service and its slices to its frontends.

use std::net::IpAddr;
use std::sync::Arc;

use ipvs::Family;

use super::endpoints::backends;
use super::{Config, Frontend, FrontendKey, Problem, ServicePortName};
use crate::model::Service;
use crate::store::ServiceView;

/// What one Service asks of the node, and what of it cannot be had.
pub(super) fn frontends(
    view: ServiceView<'_>,
    config: &Config,
) -> (Vec<Arc<Frontend>>, Vec<Problem>) {
    let service = view.service;
    let mut frontends = Vec::with_capacity(service.cluster_ips.len() * service.ports.len());
    let mut problems = Vec::new();
    for (index, &address) in service.cluster_ips.iter().enumerate() {
        if let Some(reason) = unusable(address, config) {
            let field = format!("spec.clusterIPs[{index}]");
            problems.push(Problem {
                service: service.name.clone(),
                field,
                reason,
            });
            continue;
        }
        frontends.extend(service.ports.iter().map(|port| {
            Arc::new(Frontend {
                key: FrontendKey {
                    protocol: port.protocol,
                    address,
                    port: port.port,
                },
                owner: ServicePortName {
                    service: service.name.clone(),
                    port: port.name.clone(),
                },
                scheduler: config.scheduler,
                session_affinity: service.session_affinity,
                backends: backends(view, port, Family::of(&address), config),
            })
        }));
    }
    (frontends, problems)
}

/// Why a cluster IP must not become a VIP on this node.
fn unusable(address: IpAddr, config: &Config) -> Option<String> {
    if config.node_ips.contains(&address) {
        return Some(format!("{address} is the node's own address"));
    }
    if config.node_ip(Family::of(&address)).is_none() {
        return Some(format!("{address}: the node has no address of this family"));
    }
    None
}

/// Of two Services that claim the same, the one with the lesser value has it: the older one, then
/// the one whose age is known, then the first by name.
pub(super) fn seniority(service: &Service) -> i64 {
    service.created.unwrap_or(i64::MAX)
}
