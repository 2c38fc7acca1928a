//! The desired state, as JSON.

use std::net::IpAddr;

use ipvs::ipvsadm::scheduler_flags;
use proxier::desired::{
    Backend, DesiredState, Frontend, FrontendKind, HealthCheck, Place, Problem, WithoutBackends,
};
use proxier::model::SessionAffinity;
use serde::Serialize;

use crate::commands::json as write_json;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DesiredView {
    vip_ports: Vec<VipPortView>,
    health_checks: Vec<HealthCheckView>,
    problems: Vec<ProblemView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VipPortView {
    service: String,
    port_name: String,
    kind: &'static str,
    family: String,
    /// None for a node port.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    protocol: String,
    port: u16,
    scheduler: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scheduler_flags: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistence_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_ranges: Option<Vec<String>>,
    real_servers: Vec<RealServerView>,
    /// What happens to connections if there is no real server.
    #[serde(skip_serializing_if = "Option::is_none")]
    without_real_servers: Option<&'static str>,
    /// The real servers for clients outside of the cluster, if they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    external_real_servers: Option<Vec<RealServerView>>,
}

#[derive(Serialize)]
struct RealServerView {
    address: IpAddr,
    port: u16,
    place: &'static str,
    /// Absent if it is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthCheckView {
    service: String,
    port: u16,
    local_endpoints: usize,
}

#[derive(Serialize)]
pub(super) struct ProblemView {
    service: String,
    field: String,
    reason: &'static str,
    message: String,
}

impl From<Problem> for ProblemView {
    fn from(problem: Problem) -> Self {
        Self {
            service: problem.service.to_string(),
            field: problem.field,
            reason: problem.reason.as_str(),
            message: problem.message,
        }
    }
}

/// Prints the desired state as JSON.
pub(crate) fn desired_json(desired: &DesiredState) -> anyhow::Result<()> {
    let problems = desired.problems().into_iter().map(ProblemView::from);
    let mut frontends: Vec<_> = desired.frontends().map(AsRef::as_ref).collect();
    frontends.sort_unstable_by_key(|frontend: &&Frontend| frontend.key);
    let mut checks: Vec<_> = desired.health_checks().collect();
    checks.sort_unstable_by_key(|check| &check.service);
    write_json(&DesiredView {
        vip_ports: frontends.into_iter().map(vip_port).collect(),
        health_checks: checks.into_iter().map(health_check).collect(),
        problems: problems.collect(),
    })
}

fn vip_port(frontend: &Frontend) -> VipPortView {
    let Frontend { key, owner, .. } = frontend;
    let flags = scheduler_flags(frontend.scheduler, frontend.scheduler_flags);
    let ranges = frontend.source_ranges.as_deref();
    let without = match frontend.without_backends {
        WithoutBackends::Refuse => "refuse",
        _ => "drop",
    };
    VipPortView {
        service: owner.service.to_string(),
        port_name: owner.port.to_string(),
        kind: kind(frontend.kind),
        family: key.family().to_string(),
        address: (!key.is_node_port()).then_some(key.address),
        protocol: key.protocol.to_string(),
        port: key.port.get(),
        scheduler: frontend.scheduler.to_string(),
        scheduler_flags: flags.collect(),
        persistence_seconds: match frontend.session_affinity {
            SessionAffinity::ClientIp(seconds) => Some(seconds.get()),
            _ => None,
        },
        source_ranges: ranges.map(|ranges| ranges.iter().map(ToString::to_string).collect()),
        real_servers: real_servers(&frontend.backends),
        without_real_servers: frontend.backends.is_empty().then_some(without),
        external_real_servers: frontend.external.as_deref().map(real_servers),
    }
}

/// The kind, named like the field of the API.
fn kind(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::LoadBalancer => "loadBalancerIP",
        FrontendKind::ExternalIp => "externalIP",
        FrontendKind::NodePort => "nodePort",
        _ => "clusterIP",
    }
}

fn real_servers(backends: &[Backend]) -> Vec<RealServerView> {
    let view = |backend: &Backend| RealServerView {
        address: backend.address,
        port: backend.port.get(),
        place: match backend.place {
            Place::ThisNode => "thisNode",
            Place::OnThisNode => "onThisNode",
            Place::Elsewhere => "elsewhere",
            _ => "unknown",
        },
        weight: Some(backend.weight.get()).filter(|weight| *weight != 1),
    };
    backends.iter().map(view).collect()
}

fn health_check(check: &HealthCheck) -> HealthCheckView {
    HealthCheckView {
        service: check.service.to_string(),
        port: check.port.get(),
        local_endpoints: check.local_endpoints,
    }
}
