//! What the proxy of mode userspace serves, which only the running svcproxy knows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipvs::Protocol;
use proxier::desired::{Frontend, FrontendKey, WithoutBackends};
use proxier::mode::userspace::{ProxyView, ServedEndpoint, ServedFrontend};
use proxier::model::SessionAffinity;
use serde::{Deserialize, Serialize};

use super::{
    ClientGroup, Inventory, Now, Rates, RealServerStatus, Scheduled, VipState, VipStatus, Wanted,
};

/// A frontend, for some clients: an element of the page `/services/`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Proxied {
    service: String,
    port_name: String,
    protocol: String,
    /// The unspecified address for a node port.
    address: IpAddr,
    port: NonZeroU16,
    clients: ClientGroup,
    state: VipState,
    /// Why it is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    scheduler: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity_seconds: Option<u32>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    address: IpAddr,
    port: u16,
    weight: u16,
    open_connections: usize,
    total_connections: u64,
}

impl From<ServedEndpoint> for Endpoint {
    fn from(endpoint: ServedEndpoint) -> Self {
        Self {
            address: endpoint.address.ip(),
            port: endpoint.address.port(),
            weight: endpoint.weight,
            open_connections: endpoint.active,
            total_connections: endpoint.connections,
        }
    }
}

/// The page, as JSON.
pub(crate) fn page(proxy: &ProxyView) -> Option<String> {
    let all: Vec<_> = proxy.served().into_iter().flat_map(proxied).collect();
    serde_json::to_string(&all).ok()
}

/// One element for each group of clients.
fn proxied(served: ServedFrontend) -> impl Iterator<Item = Proxied> {
    let ServedFrontend {
        frontend,
        endpoints,
        external,
        not_served,
        ..
    } = served;
    let inside = match external {
        Some(_) => ClientGroup::Inside,
        None => ClientGroup::All,
    };
    let external = external.map(|endpoints| (ClientGroup::Outside, endpoints));
    let groups = [(inside, endpoints)].into_iter().chain(external);
    groups.map(move |(clients, endpoints)| Proxied {
        service: frontend.owner.service.to_string(),
        port_name: frontend.owner.port.to_string(),
        protocol: frontend.key.protocol.to_string(),
        address: frontend.key.address,
        port: frontend.key.port,
        clients,
        state: match not_served {
            Some(_) => VipState::NotServed,
            None => state(&frontend, clients, endpoints.is_empty()),
        },
        reason: not_served.clone(),
        scheduler: frontend.scheduler.to_string(),
        affinity_seconds: match frontend.session_affinity {
            SessionAffinity::ClientIp(seconds) => Some(seconds.get()),
            _ => None,
        },
        endpoints: endpoints.into_iter().map(Endpoint::from).collect(),
    })
}

fn state(frontend: &Frontend, clients: ClientGroup, is_empty: bool) -> VipState {
    match frontend.without_backends {
        _ if !is_empty => VipState::Served,
        WithoutBackends::Refuse if clients != ClientGroup::Outside => VipState::Refused,
        _ => VipState::Dropped,
    }
}

/// The answer of the page, as an inventory.
pub(super) fn inventory(page: Vec<Proxied>, wanted: &Wanted<'_>) -> Inventory {
    let mut services: BTreeMap<String, Vec<VipStatus>> = BTreeMap::new();
    for proxied in page {
        if (wanted.0)(&proxied.service) {
            let service = proxied.service.clone();
            services.entry(service).or_default().extend(vip(proxied));
        }
    }
    Inventory::new(services)
}

/// `None` if the protocol is not one that the mode serves.
fn vip(proxied: Proxied) -> Option<VipStatus> {
    let protocol = [Protocol::Tcp, Protocol::Udp].into_iter();
    let mut protocol = protocol.filter(|protocol| protocol.to_string() == proxied.protocol);
    Some(VipStatus {
        key: FrontendKey {
            protocol: protocol.next()?,
            address: proxied.address,
            port: proxied.port,
        },
        port_name: proxied.port_name,
        state: proxied.state,
        reason: proxied.reason,
        clients: proxied.clients,
        scheduler: (proxied.state == VipState::Served).then_some(proxied.scheduler),
        persistence_seconds: proxied.affinity_seconds,
        real_servers: proxied.endpoints.iter().map(real_server).collect(),
    })
}

fn real_server(endpoint: &Endpoint) -> RealServerStatus {
    let active_connections = u64::try_from(endpoint.open_connections).unwrap_or(u64::MAX);
    RealServerStatus {
        address: endpoint.address,
        port: endpoint.port,
        scheduled: Some(Scheduled {
            weight: endpoint.weight.into(),
            now: Now {
                active_connections,
                inactive_connections: 0,
            },
            rates: Rates::default(),
        }),
        total_connections: Some(endpoint.total_connections),
    }
}
