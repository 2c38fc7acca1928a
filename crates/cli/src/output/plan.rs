//! What a node should have, and the steps that lead there.

use std::io::{self, Write};
use std::net::IpAddr;

use proxier::desired::{DesiredState, Frontend};
use proxier::plan::{Plan, VirtualServerState, base_routes, virtual_server};
use serde::Serialize;

use super::json;

/// The frontends by protocol, address and port, as `ipvsadm -Sn` orders virtual servers.
fn sorted(desired: &DesiredState) -> Vec<&Frontend> {
    let mut frontends: Vec<_> = desired.frontends().map(AsRef::as_ref).collect();
    frontends.sort_unstable_by_key(|frontend| frontend.key);
    frontends
}

/// In the syntax of `ipvsadm -Sn`.
pub(crate) fn desired_ipvsadm(desired: &DesiredState) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for VirtualServerState {
        server,
        real_servers,
    } in sorted(desired).into_iter().filter_map(virtual_server)
    {
        writeln!(out, "{}", ipvs::ipvsadm::virtual_server(&server))?;
        for real_server in &real_servers {
            writeln!(
                out,
                "{}",
                ipvs::ipvsadm::real_server(&server.key, real_server)
            )?;
        }
    }
    Ok(())
}

/// For people.
pub(crate) fn desired_text(desired: &DesiredState) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let frontends = sorted(desired);
    writeln!(out, "{} VIP ports", frontends.len())?;
    for frontend in frontends {
        let Frontend { key, owner, .. } = frontend;
        match virtual_server(frontend) {
            None => writeln!(out, "\n{key}  {owner}  no endpoints: refused")?,
            Some(VirtualServerState {
                server,
                real_servers,
            }) => {
                write!(out, "\n{key}  {owner}  {}", server.scheduler)?;
                if let Some(persistence) = server.persistence {
                    write!(out, "  client keeps its endpoint {} s", persistence.timeout)?;
                }
                writeln!(out)?;
                for real_server in &real_servers {
                    writeln!(out, "  -> {}", real_server.key)?;
                }
            }
        }
    }
    let mut vips: Vec<_> = desired.stray_vips().collect();
    vips.sort_unstable();
    writeln!(out)?;
    for route in base_routes(desired.config()) {
        writeln!(out, "route {route}")?;
    }
    for vip in vips {
        writeln!(out, "route local {vip} (outside of every Service CIDR)")?;
    }
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DesiredView {
    vip_ports: Vec<VipPortView>,
    problems: Vec<ProblemView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VipPortView {
    service: String,
    port_name: String,
    address: IpAddr,
    protocol: String,
    port: u16,
    scheduler: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistence_seconds: Option<u32>,
    real_servers: Vec<RealServerView>,
}

#[derive(Serialize)]
struct RealServerView {
    address: IpAddr,
    port: u16,
    weight: u32,
}

#[derive(Serialize)]
struct ProblemView {
    service: String,
    field: String,
    reason: String,
}

/// For programs.
pub(crate) fn desired_json(desired: &DesiredState) -> anyhow::Result<()> {
    let problems = desired.problems().into_iter().map(|problem| ProblemView {
        service: problem.service.to_string(),
        field: problem.field,
        reason: problem.reason,
    });
    json(&DesiredView {
        vip_ports: sorted(desired).into_iter().map(vip_port).collect(),
        problems: problems.collect(),
    })
}

fn vip_port(frontend: &Frontend) -> VipPortView {
    let state = virtual_server(frontend);
    VipPortView {
        service: frontend.owner.service.to_string(),
        port_name: frontend.owner.port.to_string(),
        address: frontend.key.address,
        protocol: frontend.key.protocol.to_string(),
        port: frontend.key.port.get(),
        scheduler: frontend.scheduler.to_string(),
        persistence_seconds: state
            .as_ref()
            .and_then(|s| s.server.persistence)
            .map(|p| p.timeout),
        real_servers: state.map_or_else(Vec::new, |state| {
            let view = |server: &ipvs::RealServer| RealServerView {
                address: server.key.address,
                port: server.key.port,
                weight: server.weight,
            };
            state.real_servers.iter().map(view).collect()
        }),
    }
}

/// The steps, one a line.
pub(crate) fn steps_text(plan: &Plan) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if plan.is_empty() {
        writeln!(out, "nothing to do")?;
    }
    for step in plan {
        writeln!(out, "{step}")?;
    }
    Ok(())
}

#[derive(Serialize)]
struct StepsView {
    steps: Vec<String>,
}

/// The steps as JSON strings.
pub(crate) fn steps_json(plan: &Plan) -> anyhow::Result<()> {
    json(&StepsView {
        steps: plan.into_iter().map(ToString::to_string).collect(),
    })
}
