//! `ports`.

use std::collections::HashSet;
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::Findings;
use super::super::field::Port;
use super::Kind;
use crate::model::ServicePort;

const FIELD: &str = "spec.ports";

/// The ports of a Service.
pub(super) fn ports(
    spec: &api::ServiceSpec,
    kind: Kind,
    findings: &mut Findings,
) -> Vec<ServicePort> {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let names = ports.iter().map(|port| port.name.as_deref());
    findings.distinct_port_names(names, ports.len() > 1, FIELD);
    let mut taken = HashSet::new();
    let mut taken_on_nodes = HashSet::new();
    let mut converted = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        if let Some(IntOrString::Int(target)) = port.target_port {
            findings.port(target, format_args!("{FIELD}[{index}].targetPort"));
        }
        let raw = Port {
            name: port.name.as_deref(),
            protocol: port.protocol.as_deref(),
            port: port.port,
        };
        let checked = findings.port_of_list(index, &raw, FIELD);
        let node_port = node_port(port, index, kind, findings);
        let Some((name, protocol, number)) = checked else {
            continue;
        };
        if !taken.insert((protocol, number)) {
            findings.error(
                format_args!("{FIELD}[{index}].port"),
                format_args!("{number} with this protocol is another port of the Service too"),
            );
        }
        if let Some(number) = node_port.filter(|port| !taken_on_nodes.insert((protocol, *port))) {
            findings.error(
                format_args!("{FIELD}[{index}].nodePort"),
                format_args!("{number} with this protocol is another node port of the Service too"),
            );
        }
        let mut port = ServicePort::new(name, protocol, number);
        port.node_port = node_port;
        converted.push(port);
    }
    converted
}

/// A node port, where 0 is none. The API server allocates missing ones, unless a Service of type
/// LoadBalancer asks for none (`allocateLoadBalancerNodePorts: false`).
fn node_port(
    port: &api::ServicePort,
    index: usize,
    kind: Kind,
    findings: &mut Findings,
) -> Option<NonZeroU16> {
    let field = format_args!("{FIELD}[{index}].nodePort");
    match (kind, port.node_port.unwrap_or_default()) {
        (Kind::ExternalName, _) | (Kind::ClusterIp | Kind::LoadBalancer, 0) => None,
        (Kind::NodePort, 0) => {
            findings.note(
                field,
                "missing: svcproxy allocates none, so nothing answers on the nodes' addresses",
            );
            None
        }
        (Kind::ClusterIp, number) => {
            findings.error(
                field,
                format_args!("{number} does not go with type {kind:?}"),
            );
            None
        }
        (Kind::NodePort | Kind::LoadBalancer, number) => findings.port(number, field),
    }
}
