//! Traffic policies and the health check node port.

use std::num::NonZeroU16;

use super::super::super::api::{self, Loose};
use super::super::Findings;
use super::Kind;
use crate::model::{Protocol, ServicePort, TrafficPolicy};

/// `spec.internalTrafficPolicy`.
pub(super) fn internal(spec: &api::ServiceSpec, findings: &mut Findings) -> TrafficPolicy {
    match spec.internal_traffic_policy.as_deref() {
        None | Some("") => TrafficPolicy::Cluster,
        Some(text) => policy(text, "spec.internalTrafficPolicy", findings),
    }
}

/// `spec.externalTrafficPolicy`. Only Services that are reachable from outside the cluster have it.
pub(super) fn external(
    spec: &api::ServiceSpec,
    kind: Kind,
    findings: &mut Findings,
) -> TrafficPolicy {
    const FIELD: &str = "spec.externalTrafficPolicy";
    let text = spec.external_traffic_policy.as_deref().unwrap_or_default();
    let has_external_ips = !spec.external_ips.is_empty();
    let reachable = match kind {
        Kind::NodePort | Kind::LoadBalancer => true,
        Kind::ClusterIp => has_external_ips,
        Kind::ExternalName => false,
    };
    if text.is_empty() {
        return TrafficPolicy::Cluster;
    }
    if !reachable {
        findings.error(
            format_args!("{FIELD}"),
            format_args!(
                "{text:?} is not allowed with type {kind:?}: nothing of the Service can be reached \
                 from outside"
            ),
        );
        return TrafficPolicy::Cluster;
    }
    policy(text, FIELD, findings)
}

fn policy(text: &str, field: &str, findings: &mut Findings) -> TrafficPolicy {
    match text {
        "Cluster" => TrafficPolicy::Cluster,
        "Local" => TrafficPolicy::Local,
        other => {
            findings.error(
                format_args!("{field}"),
                format_args!("{other:?} is not a traffic policy (Cluster or Local)"),
            );
            TrafficPolicy::Cluster
        }
    }
}

/// `spec.healthCheckNodePort`; 0 means none. It takes precedence over a node port of the same
/// number: if a Pod answered the load balancer's checks, a node without endpoints would look
/// healthy.
pub(super) fn health_check_node_port(
    spec: &api::ServiceSpec,
    kind: Kind,
    external: TrafficPolicy,
    ports: &mut [ServicePort],
    findings: &mut Findings,
) -> Option<NonZeroU16> {
    let field = format_args!("spec.healthCheckNodePort");
    let needed = kind == Kind::LoadBalancer && external == TrafficPolicy::Local;
    let written = spec.health_check_node_port.as_ref();
    let Some(written) = written.filter(|written| **written != Loose::Right(0)) else {
        if needed {
            findings.note(
                field,
                "missing: svcproxy allocates none, so a load balancer cannot ask which nodes have \
                 endpoints",
            );
        }
        return None;
    };
    let number = findings.port(Some(written), field).ok()?;
    if !needed {
        findings.left_out(
            field,
            format_args!(
                "{number} is allowed only with type LoadBalancer and externalTrafficPolicy Local"
            ),
        );
        return None;
    }
    for port in ports {
        if port.protocol == Protocol::Tcp && port.node_port == Some(number) {
            findings.left_out(
                field,
                format_args!(
                    "{number} is the node port of port {} too, which is not served",
                    port.port
                ),
            );
            port.node_port = None;
        }
    }
    Some(number)
}
