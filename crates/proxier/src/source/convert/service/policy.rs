//! Which endpoints answer, and how a load balancer is told of them.

use std::num::NonZeroU16;

use k8s_openapi::api::core::v1 as api;

use super::super::Findings;
use super::Kind;
use crate::model::{Protocol, ServicePort, TrafficPolicy};

/// `spec.internalTrafficPolicy`.
pub(super) fn internal(spec: &api::ServiceSpec, findings: &mut Findings) -> TrafficPolicy {
    match spec.internal_traffic_policy.as_deref() {
        None => TrafficPolicy::Cluster,
        Some(text) => policy(text, "spec.internalTrafficPolicy", findings),
    }
}

/// `spec.externalTrafficPolicy`, which only a Service may have that can be reached from outside.
pub(super) fn external(
    spec: &api::ServiceSpec,
    kind: Kind,
    findings: &mut Findings,
) -> TrafficPolicy {
    const FIELD: &str = "spec.externalTrafficPolicy";
    let text = spec.external_traffic_policy.as_deref().unwrap_or_default();
    let has_external_ips = spec
        .external_ips
        .as_ref()
        .is_some_and(|ips| !ips.is_empty());
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
                "{text:?} does not go with type {kind:?}: nothing of the Service can be reached \
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

/// `spec.healthCheckNodePort`, where 0 is none.
pub(super) fn health_check_node_port(
    spec: &api::ServiceSpec,
    kind: Kind,
    external: TrafficPolicy,
    ports: &[ServicePort],
    findings: &mut Findings,
) -> Option<NonZeroU16> {
    let field = format_args!("spec.healthCheckNodePort");
    let needed = kind == Kind::LoadBalancer && external == TrafficPolicy::Local;
    match spec.health_check_node_port.unwrap_or_default() {
        0 if needed => {
            findings.note(
                field,
                "missing: svcproxy allocates none, so a load balancer cannot ask which nodes have \
                 endpoints",
            );
            None
        }
        0 => None,
        number if !needed => {
            findings.error(
                field,
                format_args!(
                    "{number} goes with type LoadBalancer and externalTrafficPolicy Local only"
                ),
            );
            None
        }
        number => {
            let number = findings.port(number, field)?;
            let taken = |port: &ServicePort| {
                port.protocol == Protocol::Tcp && port.node_port == Some(number)
            };
            if ports.iter().any(taken) {
                findings.error(
                    field,
                    format_args!("{number} is a node port of the Service too"),
                );
            }
            Some(number)
        }
    }
}
