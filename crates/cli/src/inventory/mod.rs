//! What this node's kernel serves, by Service.

mod proxied;
mod read;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipvs::RealServerEntry;
use proxier::desired::FrontendKey;
use proxier::mode::iptables::Sent;
use serde::{Deserialize, Serialize, Serializer};

use crate::notices::{Condition, NO_ENDPOINTS, NO_LOCAL_ENDPOINTS, PortOf};
pub(crate) use proxied::{Proxied, add_served, page};
pub(crate) use read::{in_use, read, read_with};

/// The Services to read; those of others cost no request to the kernel.
pub(crate) struct Wanted<'a>(pub(crate) &'a dyn Fn(&str) -> bool);

impl Wanted<'_> {
    /// Every Service.
    pub(crate) const ALL: Self = Self(&|_| true);
}

/// The Services that a kernel serves, sorted.
#[derive(Serialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inventory {
    pub(crate) services: Vec<ServiceStatus>,
    pub(crate) totals: Totals,
}

/// A Service and its virtual IPs.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceStatus {
    pub(crate) service: String,
    pub(crate) vips: Vec<VipStatus>,
}

/// A port of a virtual IP or of the node, for all clients or some.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VipStatus {
    #[serde(flatten, serialize_with = "vip")]
    pub(crate) key: FrontendKey,
    pub(crate) port_name: String,
    pub(crate) state: VipState,
    /// Why there are no endpoints, if svcproxy answers, or why it is not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) clients: ClientGroup,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scheduler: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) persistence_seconds: Option<u32>,
    pub(crate) real_servers: Vec<RealServerStatus>,
}

/// What happens to new connections.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub(crate) enum VipState {
    Served,
    Refused,
    Dropped,
    /// In mode userspace: svcproxy cannot listen there.
    NotServed,
}

/// The clients that an entry applies to.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ClientGroup {
    All,
    /// Clients in the cluster.
    Inside,
    /// Clients outside of the cluster.
    Outside,
}

/// Serializes a frontend key; a node port has no address.
fn vip<S: Serializer>(key: &FrontendKey, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Vip {
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
        family: String,
        protocol: String,
        port: u16,
    }
    let vip = Vip {
        address: (!key.is_node_port()).then_some(key.address),
        family: key.family().to_string(),
        protocol: key.protocol.to_string(),
        port: key.port.get(),
    };
    vip.serialize(serializer)
}

/// An endpoint that gets connections, or drains.
#[derive(Serialize, Debug, Clone, Copy)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RealServerStatus {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// In modes ipvs and userspace only.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) scheduled: Option<Scheduled>,
    /// Since the real server was added, or its rule was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_connections: Option<u64>,
}

/// What IPVS, or the proxy of mode userspace, knows of a real server.
#[derive(Serialize, Debug, Clone, Copy)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Scheduled {
    /// 0 for one that drains.
    pub(crate) weight: u32,
    #[serde(flatten)]
    pub(crate) now: Now,
    #[serde(flatten)]
    pub(crate) rates: Rates,
}

/// The current connections.
#[derive(Serialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Now {
    pub(crate) active_connections: u64,
    pub(crate) inactive_connections: u64,
}

/// Averages of the last seconds, per second.
#[derive(Serialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rates {
    pub(crate) connections_per_second: u64,
    pub(crate) packets_per_second: u64,
    pub(crate) bytes_per_second: u64,
}

/// The numbers of all Services.
#[derive(Serialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    pub(crate) services: usize,
    pub(crate) vip_ports: usize,
    pub(crate) real_servers: usize,
    /// Of the real servers, those that get no new connections.
    pub(crate) draining_real_servers: usize,
    /// `None` in a mode that does not count them.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) now: Option<Now>,
}

impl From<&RealServerEntry> for RealServerStatus {
    fn from(entry: &RealServerEntry) -> Self {
        let now = entry.connections.map(|connections| Now {
            active_connections: connections.active.into(),
            inactive_connections: connections.inactive.into(),
        });
        let rates = entry.stats.map(|stats| stats.rates);
        let rates = rates.map(|rates| Rates {
            connections_per_second: rates.connections,
            packets_per_second: rates.incoming_packets + rates.outgoing_packets,
            bytes_per_second: rates.incoming_bytes + rates.outgoing_bytes,
        });
        Self {
            address: entry.server.key.address,
            port: entry.server.key.port,
            scheduled: Some(Scheduled {
                weight: entry.server.weight,
                now: now.unwrap_or_default(),
                rates: rates.unwrap_or_default(),
            }),
            total_connections: Some(entry.stats.map_or(0, |stats| stats.connections)),
        }
    }
}

impl From<&Sent> for RealServerStatus {
    fn from(sent: &Sent) -> Self {
        Self {
            address: sent.to.ip(),
            port: sent.to.port(),
            scheduled: None,
            total_connections: sent.connections,
        }
    }
}

impl RealServerStatus {
    /// Whether it gets no new connections and waits for the end of those that it has.
    pub(crate) fn drains(&self) -> bool {
        self.scheduled
            .is_some_and(|scheduled| scheduled.weight == 0)
    }
}

impl Inventory {
    /// Adds to each VIP without endpoints the reason, from the conditions.
    pub(crate) fn explain(&mut self, conditions: &[Condition]) {
        for ServiceStatus { service, vips } in &mut self.services {
            let about = format!("Service {service}");
            let of_service: Vec<_> = conditions.iter().filter(|c| c.about == about).collect();
            for vip in vips {
                let reason = match vip.state {
                    VipState::Served | VipState::NotServed => continue,
                    VipState::Refused => NO_ENDPOINTS,
                    VipState::Dropped => NO_LOCAL_ENDPOINTS,
                };
                let port = Some(PortOf {
                    port_name: vip.port_name.clone(),
                    protocol: vip.key.protocol.to_string(),
                    family: vip.key.family().to_string(),
                });
                let mut conditions = of_service.iter();
                let why = conditions.find(|c| c.reason == reason && c.port == port);
                vip.reason = why.map(|condition| condition.message.clone());
            }
        }
    }

    /// Sorts the Services and counts their parts.
    pub(crate) fn new(mut services: BTreeMap<String, Vec<VipStatus>>) -> Self {
        for vip in services.values_mut().flatten() {
            vip.real_servers
                .sort_unstable_by_key(|server| (server.address, server.port));
        }
        let sorted = |(service, mut vips): (String, Vec<VipStatus>)| {
            vips.sort_by_key(|vip| {
                (
                    vip.key.address,
                    vip.key.port,
                    vip.key,
                    vip.clients,
                    vip.state,
                )
            });
            ServiceStatus { service, vips }
        };
        let services: Vec<_> = services.into_iter().map(sorted).collect();
        let totals = Totals::of(&services);
        Self { services, totals }
    }

    /// The Services that match.
    pub(crate) fn with(mut self, keep: impl Fn(&ServiceStatus) -> bool) -> Self {
        self.services.retain(keep);
        self.totals = Totals::of(&self.services);
        self
    }
}

impl Totals {
    fn of(services: &[ServiceStatus]) -> Self {
        let is_served = |vip: &&VipStatus| vip.state != VipState::NotServed;
        let vips = || services.iter().flat_map(|of| &of.vips).filter(is_served);
        let servers = || vips().flat_map(|vip| &vip.real_servers);
        let served = services.iter();
        let served =
            served.filter(|of| of.vips.is_empty() || of.vips.iter().any(|vip| is_served(&vip)));
        Self {
            services: served.count(),
            vip_ports: vips().count(),
            real_servers: servers().count(),
            draining_real_servers: servers().filter(|server| server.drains()).count(),
            now: sum(servers().map(|server| Some(server.scheduled?.now))),
        }
    }
}

/// `None` if the mode does not count them.
fn sum(mut connections: impl Iterator<Item = Option<Now>>) -> Option<Now> {
    connections.try_fold(Now::default(), |sum, one| {
        let one = one?;
        Some(Now {
            active_connections: sum.active_connections + one.active_connections,
            inactive_connections: sum.inactive_connections + one.inactive_connections,
        })
    })
}
