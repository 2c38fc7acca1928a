//! `v1/Pod`.

use std::fmt::Arguments;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;

use super::address::family;
use super::field::reason;
use super::{Converted, Findings};
use crate::model::{ObjectName, PortName};
use crate::source::derive::{ContainerPort, Pod};

/// Converts a Pod.
pub fn pod(object: &api::Pod) -> Converted<Pod> {
    let mut findings = Findings::default();
    let metadata = &object.metadata;
    let name = findings.object_name(metadata, ObjectName::new);
    let Some(spec) = &object.spec else {
        findings.error(format_args!("spec"), "missing");
        return findings.converted(None);
    };
    let ports = ports(spec, &mut findings);
    let node = spec.node_name.as_deref();
    let node = findings.node_name(node, format_args!("spec.nodeName"));
    let status = object.status.as_ref();
    let addresses = status.map(|status| addresses(status, &mut findings));
    let pod = name.map(|name| {
        let mut pod = Pod::new(name);
        pod.labels = metadata.labels.clone().unwrap_or_default();
        pod.addresses = addresses.unwrap_or_default().into();
        pod.ports = ports.into();
        pod.node = node;
        pod.host_network = spec.host_network == Some(true);
        pod.ready = status.is_some_and(is_ready);
        pod.terminating = metadata.deletion_timestamp.is_some();
        let phase = status.and_then(|status| status.phase.as_deref());
        pod.finished = matches!(phase, Some("Succeeded" | "Failed"));
        pod
    });
    findings.converted(pod)
}

/// The named ports, of containers first and then of sidecars: the order in which the
/// endpoint-slice controller looks for a name (`FindPort`).
fn ports(spec: &api::PodSpec, findings: &mut Findings) -> Vec<ContainerPort> {
    let containers = spec.containers.iter().enumerate();
    let containers = containers.map(|(index, container)| ("containers", index, container));
    let sidecars = spec.init_containers.iter().flatten().enumerate();
    let sidecars = sidecars
        .filter(|(_, container)| container.restart_policy.as_deref() == Some("Always"))
        .map(|(index, container)| ("initContainers", index, container));
    let mut named = Vec::new();
    for (list, index, container) in containers.chain(sidecars) {
        let field = format!("spec.{list}[{index}].ports");
        for (index, port) in container.ports.iter().flatten().enumerate() {
            named.extend(named_port(port, format_args!("{field}[{index}]"), findings));
        }
    }
    named
}

fn named_port(
    port: &api::ContainerPort,
    field: Arguments<'_>,
    findings: &mut Findings,
) -> Option<ContainerPort> {
    let name = PortName::new(port.name.as_deref().unwrap_or_default())
        .map_err(|error| findings.error(format_args!("{field}.name"), reason(&error)));
    let protocol = port.protocol.as_deref();
    let protocol = findings.protocol(protocol, format_args!("{field}.protocol"));
    let number = findings.port(port.container_port, format_args!("{field}.containerPort"));
    let name = name.ok().filter(|name| !name.is_unnamed())?;
    Some(ContainerPort::new(name, protocol?, number?))
}

/// `podIPs` or, where only that is given, `podIP`.
fn addresses(status: &api::PodStatus, findings: &mut Findings) -> Vec<IpAddr> {
    let one = status.pod_ip.as_deref().unwrap_or_default();
    let all = status.pod_ips.as_deref().unwrap_or_default();
    let Some(first) = all.first() else {
        let one = Some(one).filter(|one| !one.is_empty());
        let address = one.and_then(|one| findings.address(one, format_args!("status.podIP")));
        return Vec::from_iter(address);
    };
    if !one.is_empty() && one != first.ip {
        findings.error(
            format_args!("status.podIPs[0]"),
            format_args!("{:?} is not the same as status.podIP, {one:?}", first.ip),
        );
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (index, text) in all.iter().enumerate() {
        let field = format_args!("status.podIPs[{index}].ip");
        let Some(address) = findings.address(&text.ip, field) else {
            continue;
        };
        let same_family = |first: &IpAddr| family(*first) == family(address);
        if addresses.iter().any(same_family) {
            findings.error(
                field,
                format_args!("{address} is of the same address family as another"),
            );
        }
        addresses.push(address);
    }
    addresses
}

fn is_ready(status: &api::PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions
        .find(|condition| condition.type_ == "Ready")
        .is_some_and(|condition| condition.status == "True")
}
