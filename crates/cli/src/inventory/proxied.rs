//! What the proxy of mode userspace serves, which only the running svcproxy knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use ipnet::IpNet;
use ipvs::Protocol;
use proxier::desired::{
    Backend, Frontend, FrontendKey, FrontendKind, Place, ServicePortName, WithoutBackends,
};
use proxier::mode::userspace::{NodeState, ProxyView, Served, ServedEndpoint, ServedFrontend};
use proxier::model::{ProxyProtocol, SessionAffinity};
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
    /// Whether clients get no answer while there are no endpoints, and not an error.
    #[serde(default)]
    drops_without_endpoints: bool,
    /// The only networks that may connect, apart from the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source_ranges: Option<Vec<IpNet>>,
    /// The pods' networks, if clients outside have other endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pods: Vec<IpNet>,
    /// The version of the PROXY protocol that endpoints expect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy_protocol: Option<u8>,
    /// Where the proxy listens.
    #[serde(default)]
    listeners: Vec<SocketAddr>,
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
        pods,
        listeners,
        ..
    } = served;
    let ranges = frontend.source_ranges.as_ref();
    let ranges = ranges.map(|ranges| ranges.to_vec());
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
        drops_without_endpoints: frontend.without_backends == WithoutBackends::Drop,
        source_ranges: ranges.clone(),
        pods: pods.to_vec(),
        proxy_protocol: match frontend.proxy_protocol {
            Some(ProxyProtocol::V1) => Some(1),
            Some(_) => Some(2),
            None => None,
        },
        listeners: listeners.clone(),
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

impl Proxied {
    /// `None` if the protocol is not one that the mode serves.
    fn key(&self) -> Option<FrontendKey> {
        let mut protocols = [Protocol::Tcp, Protocol::Udp].into_iter();
        Some(FrontendKey {
            protocol: protocols.find(|of| of.to_string() == self.protocol)?,
            address: self.address,
            port: self.port,
        })
    }

    fn owner(&self) -> Option<ServicePortName> {
        let (service, port) = (&self.service, &self.port_name);
        match port.is_empty() {
            true => service.parse().ok(),
            false => format!("{service}:{port}").parse().ok(),
        }
    }

    fn backends(&self) -> Arc<[Backend]> {
        let backend = |of: &Endpoint| {
            Some(Backend {
                address: of.address,
                port: NonZeroU16::new(of.port)?,
                place: Place::Unknown,
                weight: NonZeroU16::new(of.weight)?,
            })
        };
        self.endpoints.iter().filter_map(backend).collect()
    }

    /// The frontend with what decides on its connections. The page does not say the kind of its address,
    /// how packets are forwarded and where endpoints are: the proxy does not ask for it.
    fn frontend(&self, key: FrontendKey) -> Option<Frontend> {
        let mut frontend = Frontend::new(key, self.owner()?, FrontendKind::ClusterIp);
        frontend.scheduler = self.scheduler.parse().ok()?;
        let seconds = self.affinity_seconds.and_then(NonZeroU32::new);
        frontend.session_affinity =
            seconds.map_or(SessionAffinity::None, SessionAffinity::ClientIp);
        frontend.proxy_protocol = self.proxy_protocol.map(|version| match version {
            1 => ProxyProtocol::V1,
            _ => ProxyProtocol::V2,
        });
        if self.drops_without_endpoints {
            frontend.without_backends = WithoutBackends::Drop;
        }
        frontend.source_ranges = self.source_ranges.as_deref().map(Arc::from);
        Some(frontend)
    }
}

/// Adds what the proxy serves, by its page, to the state of a node: the listeners only if `has_socket`
/// says that the kernel has them.
pub(crate) fn add_served(
    node: &mut NodeState,
    page: &[Proxied],
    has_socket: impl Fn(Protocol, SocketAddr) -> bool,
) {
    let mut frontends = BTreeMap::<FrontendKey, (Frontend, Arc<[IpNet]>)>::new();
    for of in page {
        let Some(key) = of.key() else { continue };
        let Some(new) = of.frontend(key) else {
            continue;
        };
        let new = || (new, Arc::from(&*of.pods));
        let (frontend, _) = frontends.entry(key).or_insert_with(new);
        match of.clients {
            ClientGroup::Outside => frontend.external = Some(of.backends()),
            ClientGroup::Inside | ClientGroup::All => frontend.backends = of.backends(),
        }
        let listeners = of.listeners.iter().copied();
        let there: BTreeSet<_> = listeners
            .filter(|at| has_socket(key.protocol, *at))
            .collect();
        if !there.is_empty() {
            node.listeners.insert(key, there);
        }
    }
    for (key, (frontend, pods)) in frontends {
        let served = Served::with_pods(Arc::new(frontend), pods);
        node.served.insert(key, Arc::new(served));
    }
}

fn vip(proxied: Proxied) -> Option<VipStatus> {
    Some(VipStatus {
        key: proxied.key()?,
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
