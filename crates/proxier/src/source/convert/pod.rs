//! `v1/Pod`.

use std::fmt::Arguments;
use std::net::IpAddr;

use super::super::api::{self, Loose};
use super::address::{family, parse_address};
use super::{Converted, Findings};
use crate::model::ObjectName;
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
    let node = findings.node_name(spec.node_name.as_ref(), format_args!("spec.nodeName"));
    let status = object.status.as_ref();
    let addresses = status.map(|status| addresses(status, &mut findings));
    let addresses = addresses.unwrap_or_default();
    if addresses.is_empty() && status.is_some_and(has_address) {
        findings.nothing_left();
    }
    let pod = name.map(|name| {
        let mut pod = Pod::new(name);
        pod.labels.clone_from(&metadata.labels);
        pod.addresses = addresses.into();
        pod.ports = ports.into();
        pod.node = node;
        pod.host_network = spec.host_network;
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
    let sidecars = spec.init_containers.iter().enumerate();
    let sidecars = sidecars
        .filter(|(_, container)| container.restart_policy.as_deref() == Some("Always"))
        .map(|(index, container)| ("initContainers", index, container));
    let mut named = Vec::new();
    for (list, index, container) in containers.chain(sidecars) {
        let field = format!("spec.{list}[{index}].ports");
        for (index, port) in container.ports.iter().enumerate() {
            let field = format_args!("{field}[{index}]");
            let port = findings.item(port, field);
            named.extend(port.and_then(|port| named_port(port, field, findings)));
        }
    }
    named
}

fn named_port(
    port: &api::Port,
    field: Arguments<'_>,
    findings: &mut Findings,
) -> Option<ContainerPort> {
    let name = findings.port_name(port.name.as_ref(), format_args!("{field}.name"));
    let protocol = findings.protocol(port.protocol.as_ref(), format_args!("{field}.protocol"));
    let number = port.container_port.as_ref();
    let number = findings.port(number, format_args!("{field}.containerPort"));
    let name = name.ok().filter(|name| !name.is_unnamed())?;
    Some(ContainerPort::new(name, protocol.ok()?, number.ok()?))
}

/// Whether an address is given, valid or not.
fn has_address(status: &api::PodStatus) -> bool {
    let one = status.pod_ip.as_ref();
    !status.pod_ips.is_empty() || one.is_some_and(|one| *one != Loose::Right(String::new()))
}

/// `podIPs`, or `podIP` if only that is given.
fn addresses(status: &api::PodStatus, findings: &mut Findings) -> Vec<IpAddr> {
    let one = status.pod_ip.as_ref();
    let one = one.filter(|one| **one != Loose::Right(String::new()));
    let all = status.pod_ips.iter().enumerate();
    let all: Vec<_> = all
        .filter_map(|(index, item)| {
            let field = format_args!("status.podIPs[{index}]");
            Some((index, findings.item(item, field)?.ip.as_ref()))
        })
        .collect();
    let Some((_, first)) = all.first() else {
        let one = one.and_then(|one| findings.address(Some(one), format_args!("status.podIP")));
        return Vec::from_iter(one);
    };
    if let (Some(Loose::Right(one)), Some(Loose::Right(first))) = (one, first)
        && one != first
        && parse_address(one) != parse_address(first)
    {
        findings.error(
            format_args!("status.podIPs[0]"),
            format_args!("{first:?} is not the same as status.podIP, {one:?}"),
        );
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (index, text) in all {
        let field = format_args!("status.podIPs[{index}].ip");
        let Some(address) = findings.address(text, field) else {
            continue;
        };
        let same_family = |first: &IpAddr| family(*first) == family(address);
        if addresses.iter().any(same_family) {
            findings.left_out(
                field,
                format_args!("{address} is of the same address family as another"),
            );
            continue;
        }
        addresses.push(address);
    }
    addresses
}

fn is_ready(status: &api::PodStatus) -> bool {
    let mut conditions = status.conditions.iter();
    conditions
        .find(|condition| condition.type_ == "Ready")
        .is_some_and(|condition| condition.status == "True")
}
