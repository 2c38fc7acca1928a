//! The output of `svcproxy status`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use ipvs::RealServerEntry;
use proxier::desired::FrontendKey;
use proxier::mode::iptables::Sent;
use serde::{Serialize, Serializer};

use crate::commands::json;
use crate::logging::Shown;
use crate::notices::{Condition, NO_ENDPOINTS, NO_LOCAL_ENDPOINTS, PortOf};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    services: Vec<ServiceStatus>,
    totals: Totals,
    /// `None` if no svcproxy answers.
    conditions: Option<Vec<Condition>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceStatus {
    service: String,
    vips: Vec<VipStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VipStatus {
    #[serde(flatten, serialize_with = "vip")]
    pub(crate) key: FrontendKey,
    pub(crate) port_name: String,
    pub(crate) state: VipState,
    /// Why there are no endpoints, if svcproxy answers.
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
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub(crate) enum VipState {
    Served,
    Refused,
    Dropped,
}

/// The clients that an entry applies to.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ClientGroup {
    All,
    /// ClientGroup in the cluster.
    Inside,
    /// ClientGroup outside of the cluster.
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

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RealServerStatus {
    address: IpAddr,
    port: u16,
    /// In IPVS mode only.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    scheduled: Option<Scheduled>,
    /// Since the real server was added, or its rule was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_connections: Option<u64>,
}

#[derive(Serialize, Clone, Copy)]
#[serde(rename_all = "camelCase")]
struct Scheduled {
    weight: u32,
    #[serde(flatten)]
    now: Now,
}

/// The current connections.
#[derive(Serialize, Clone, Copy, Default)]
#[serde(rename_all = "camelCase")]
struct Now {
    active_connections: u64,
    inactive_connections: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Totals {
    services: usize,
    vip_ports: usize,
    real_servers: usize,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    now: Option<Now>,
}

impl From<&RealServerEntry> for RealServerStatus {
    fn from(entry: &RealServerEntry) -> Self {
        let now = entry.connections.map(|connections| Now {
            active_connections: connections.active.into(),
            inactive_connections: connections.inactive.into(),
        });
        Self {
            address: entry.server.key.address,
            port: entry.server.key.port,
            scheduled: Some(Scheduled {
                weight: entry.server.weight,
                now: now.unwrap_or_default(),
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

impl Status {
    /// Adds the conditions, and to each VIP without endpoints the reason.
    pub(crate) fn set_conditions(&mut self, conditions: Vec<Condition>) {
        for ServiceStatus { service, vips } in &mut self.services {
            let about = format!("Service {service}");
            let of_service: Vec<_> = conditions.iter().filter(|c| c.about == about).collect();
            for vip in vips {
                let reason = match vip.state {
                    VipState::Served => continue,
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
        self.conditions = Some(conditions);
    }

    /// Sorts the Services and counts their parts.
    pub(crate) fn new(mut services: BTreeMap<String, Vec<VipStatus>>) -> Self {
        for vip in services.values_mut().flatten() {
            vip.real_servers
                .sort_unstable_by_key(|server| (server.address, server.port));
        }
        let vips = || services.values().flatten();
        let servers = || vips().flat_map(|vip| &vip.real_servers);
        let totals = Totals {
            services: services.len(),
            vip_ports: vips().count(),
            real_servers: servers().count(),
            now: sum(servers().map(|server| Some(server.scheduled?.now))),
        };
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
        Self {
            services: services.into_iter().map(sorted).collect(),
            totals,
            conditions: None,
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

/// Prints the status as JSON.
pub(crate) fn status_json(status: &Status) -> anyhow::Result<()> {
    json(status)
}

/// Prints the status as text.
pub(crate) fn status_text(status: &Status) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for ServiceStatus { service, vips } in &status.services {
        writeln!(out, "{}", Shown(service))?;
        for vip in vips {
            let VipStatus { key, port_name, .. } = vip;
            write!(out, "  {key}")?;
            if !port_name.is_empty() {
                write!(out, " ({})", Shown(port_name))?;
            }
            match vip.clients {
                ClientGroup::All => {}
                ClientGroup::Inside => write!(out, " clients in the cluster:")?,
                ClientGroup::Outside => write!(out, " clients outside of the cluster:")?,
            }
            match (vip.state, &vip.scheduler) {
                (VipState::Refused, _) => write!(out, " no endpoints: refused")?,
                (VipState::Dropped, _) => write!(out, " no endpoints here: dropped")?,
                (VipState::Served, Some(scheduler)) => write!(out, " {scheduler}")?,
                (VipState::Served, None) => write!(out, " its virtual server is missing")?,
            }
            if let Some(seconds) = vip.persistence_seconds {
                write!(out, ", client keeps its endpoint {seconds} s")?;
            }
            if let Some(reason) = &vip.reason {
                write!(out, ": {}", Shown(reason))?;
            }
            writeln!(out)?;
            for server in &vip.real_servers {
                let address = SocketAddr::new(server.address, server.port).to_string();
                write!(out, "    -> {address:<28}")?;
                if let Some(Scheduled { weight, now }) = server.scheduled {
                    let (active, inactive) = (now.active_connections, now.inactive_connections);
                    write!(
                        out,
                        " weight {weight:<4} active {active:<6} inactive {inactive:<6}"
                    )?;
                }
                match server.total_connections {
                    Some(total) => writeln!(out, " total {total}")?,
                    None => writeln!(out)?,
                }
            }
        }
    }
    let Totals {
        services,
        vip_ports,
        real_servers,
        now,
    } = status.totals;
    write!(
        out,
        "{services} Services, {vip_ports} VIP ports, {real_servers} real servers"
    )?;
    if let Some(now) = now {
        let (active, inactive) = (now.active_connections, now.inactive_connections);
        write!(out, ", {active} active and {inactive} inactive connections")?;
    }
    writeln!(out)?;
    // The reasons of VIPs without endpoints are in their lines.
    let conditions = status.conditions.as_ref();
    let conditions = conditions.map(|all| all.iter().filter(|c| c.port.is_none()));
    match conditions.map(Iterator::collect::<Vec<_>>) {
        None => writeln!(out, "conditions: unknown, no svcproxy answers")?,
        Some(conditions) if conditions.is_empty() => writeln!(out, "no conditions")?,
        Some(conditions) => {
            writeln!(out, "conditions:")?;
            for Condition {
                reason,
                about,
                message,
                ..
            } in conditions
            {
                let (reason, about, message) = (Shown(reason), Shown(about), Shown(message));
                writeln!(out, "  {reason}  {about}: {message}")?;
            }
        }
    }
    Ok(())
}
