//! What a node carries.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use ipvs::RealServerEntry;
use serde::Serialize;

use super::json;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    services: Vec<ServiceStatus>,
    totals: Totals,
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
    pub(crate) address: IpAddr,
    pub(crate) protocol: String,
    pub(crate) port: u16,
    pub(crate) port_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scheduler: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) persistence_seconds: Option<u32>,
    pub(crate) real_servers: Vec<RealServerStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RealServerStatus {
    address: IpAddr,
    port: u16,
    weight: u32,
    active_connections: u64,
    inactive_connections: u64,
    /// Since the real server was added.
    total_connections: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Totals {
    services: usize,
    vip_ports: usize,
    real_servers: usize,
    active_connections: u64,
    inactive_connections: u64,
}

impl From<&RealServerEntry> for RealServerStatus {
    fn from(entry: &RealServerEntry) -> Self {
        Self {
            address: entry.server.key.address,
            port: entry.server.key.port,
            weight: entry.server.weight,
            active_connections: entry.connections.map_or(0, |c| c.active.into()),
            inactive_connections: entry.connections.map_or(0, |c| c.inactive.into()),
            total_connections: entry.stats.map_or(0, |stats| stats.connections),
        }
    }
}

impl Status {
    /// Sorts and counts.
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
            active_connections: servers().map(|server| server.active_connections).sum(),
            inactive_connections: servers().map(|server| server.inactive_connections).sum(),
        };
        let sorted = |(service, mut vips): (String, Vec<VipStatus>)| {
            vips.sort_by(|a, b| {
                (a.address, a.port, &a.protocol).cmp(&(b.address, b.port, &b.protocol))
            });
            ServiceStatus { service, vips }
        };
        Self {
            services: services.into_iter().map(sorted).collect(),
            totals,
        }
    }
}

/// For programs.
pub(crate) fn status_json(status: &Status) -> anyhow::Result<()> {
    json(status)
}

/// For people.
pub(crate) fn status_text(status: &Status) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for ServiceStatus { service, vips } in &status.services {
        writeln!(out, "{service}")?;
        for vip in vips {
            let VipStatus {
                protocol,
                port_name,
                ..
            } = vip;
            write!(
                out,
                "  {protocol} {}",
                SocketAddr::new(vip.address, vip.port)
            )?;
            if !port_name.is_empty() {
                write!(out, " ({port_name})")?;
            }
            match &vip.scheduler {
                Some(scheduler) => write!(out, " {scheduler}")?,
                None => write!(out, " no endpoints: refused")?,
            }
            if let Some(seconds) = vip.persistence_seconds {
                write!(out, ", client keeps its endpoint {seconds} s")?;
            }
            writeln!(out)?;
            for server in &vip.real_servers {
                writeln!(
                    out,
                    "    -> {:<28} weight {:<4} active {:<6} inactive {:<6} total {}",
                    SocketAddr::new(server.address, server.port).to_string(),
                    server.weight,
                    server.active_connections,
                    server.inactive_connections,
                    server.total_connections
                )?;
            }
        }
    }
    let Totals {
        services,
        vip_ports,
        real_servers,
        active_connections,
        inactive_connections,
    } = status.totals;
    writeln!(
        out,
        "{services} Services, {vip_ports} VIP ports, {real_servers} real servers, \
         {active_connections} active and {inactive_connections} inactive connections"
    )?;
    Ok(())
}
