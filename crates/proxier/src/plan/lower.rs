//! A desired state in the terms of IPVS, the packet filter and routes.

use ipnet::IpNet;
use ipvs::{Family, Persistence, RealServer, RealServerKey, VirtualServer};

use super::{Element, LocalRoute, Sysctl, VirtualServerState};
use crate::desired::{Backend, Config, Frontend};
use crate::model::SessionAffinity;

/// The virtual server of a frontend; `None` if nobody answers, which the packet filter says.
pub fn virtual_server(frontend: &Frontend) -> Option<VirtualServerState> {
    if frontend.backends.is_empty() {
        return None;
    }
    let mut server = VirtualServer::new(frontend.key.into()).with_scheduler(frontend.scheduler);
    if let SessionAffinity::ClientIp(timeout) = frontend.session_affinity {
        server = server.with_persistence(Persistence::new(timeout.get()));
    }
    let real_server = |backend: &Backend| {
        RealServer::new(RealServerKey {
            address: backend.address,
            port: backend.port.get(),
        })
    };
    Some(VirtualServerState {
        server,
        real_servers: frontend.backends.iter().map(real_server).collect(),
    })
}

/// The elements that a node has whatever its Services.
pub fn base_elements(config: &Config) -> impl Iterator<Item = Element> {
    config
        .service_cidrs
        .iter()
        .map(|cidr| Element::ServiceCidr(cidr.trunc()))
}

/// The routes that a node has whatever its Services.
pub fn base_routes(config: &Config) -> impl Iterator<Item = LocalRoute> {
    config
        .service_cidrs
        .iter()
        .filter_map(|cidr| local_route(config, *cidr))
}

/// The route that makes a prefix local, if the node has an address of its family.
pub(super) fn local_route(config: &Config, prefix: IpNet) -> Option<LocalRoute> {
    let source = config.node_ip(Family::of(&prefix.addr()))?;
    Some(LocalRoute {
        prefix: prefix.trunc(),
        source,
    })
}

/// The sysctls that must be on for IPVS to work as a service proxy needs it (the kernel's
/// Documentation/networking/ipvs-sysctl.rst).
pub fn base_sysctls(config: &Config) -> impl Iterator<Item = Sysctl> {
    [
        Sysctl::VS_CONNTRACK,
        Sysctl::VS_EXPIRE_NODEST_CONN,
        Sysctl::VS_EXPIRE_QUIESCENT_TEMPLATE,
    ]
    .into_iter()
    .chain(config.node_ip(Family::V4).map(|_| Sysctl::IPV4_FORWARD))
    .chain(config.node_ip(Family::V6).map(|_| Sysctl::IPV6_FORWARD))
}
