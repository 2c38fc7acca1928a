//! The fields of a `v1/Service` that select its Pods, and `v1/Pod`.

use std::fmt::Arguments;
use std::net::IpAddr;

use super::super::api::{self, Loose, annotation};
use super::address::{family, parse_address};
use super::service::{kind, ports};
use super::{Converted, Findings};
use crate::model::{Family, ObjectName};
use crate::source::Extent;
use crate::source::derive::{ContainerPort, Pod, Selection, TrafficDistribution};

/// Annotations that request topology hints, which override `spec.trafficDistribution`. The first
/// one that is set counts.
const TOPOLOGY_MODE: [&str; 2] = [annotation::TOPOLOGY_HINTS, annotation::TOPOLOGY_MODE];

/// Converts the fields of a Service that its derived endpoint slices depend on. None for a Service
/// without a selector, for those of type `ExternalName` and, without [`Extent::Named`], for headless
/// Services, which need nothing on a node. [`service`](super::service()) reports errors in the ports.
pub fn selection(object: &api::Service, extent: Extent) -> Converted<Selection> {
    let mut findings = Findings::default();
    let spec = object.spec.as_ref();
    let spec = spec.filter(|spec| {
        let is_headless = matches!(&spec.cluster_ip, Some(Loose::Right(ip)) if ip == "None");
        let has_slices = !is_headless || extent == Extent::Named;
        spec.type_.as_deref() != Some("ExternalName") && has_slices && !spec.selector.is_empty()
    });
    let Some(spec) = spec else {
        return findings.converted(None);
    };
    let labels = spec.selector.iter();
    let mut selection = Selection::new(labels.map(|(k, v)| (k.as_str(), v.as_str())));
    let mut reported = Findings::default();
    let kind = kind(spec, &mut reported);
    let ports = ports::ports(spec, kind, &mut reported).into_iter();
    selection.targets = ports.map(|port| port.target).collect();
    selection.families = families(spec).into();
    selection.publish_not_ready_addresses = spec.publish_not_ready_addresses;
    selection.traffic_distribution = traffic_distribution(object, spec, &mut findings);
    findings.converted(Some(selection))
}

/// The families; if none are given, those of the cluster IPs, as the API server would set them.
fn families(spec: &api::ServiceSpec) -> Vec<Family> {
    let named = spec.ip_families.iter();
    let named = named.filter_map(|name| match name.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        // The check of the cluster IPs rejects this.
        _ => None,
    });
    let mut families: Vec<_> = named.collect();
    if families.is_empty() {
        let addresses = spec.cluster_ips.iter().chain(&spec.cluster_ip);
        let addresses = addresses.filter_map(|written| match written {
            Loose::Right(text) => parse_address(text),
            Loose::Wrong(_) => None,
        });
        families.extend(addresses.map(family));
    }
    families.sort_unstable();
    families.dedup();
    if families.is_empty() && matches!(&spec.cluster_ip, Some(Loose::Right(ip)) if ip == "None") {
        // The API server would write those of the cluster, which are those of the Pods.
        families.extend([Family::V4, Family::V6]);
    }
    families
}

fn traffic_distribution(
    object: &api::Service,
    spec: &api::ServiceSpec,
    findings: &mut Findings,
) -> Option<TrafficDistribution> {
    let distribution = match spec.traffic_distribution.as_deref()? {
        "PreferClose" | "PreferSameZone" => TrafficDistribution::PreferSameZone,
        "PreferSameNode" => TrafficDistribution::PreferSameNode,
        other => {
            findings.error(
                format_args!("spec.trafficDistribution"),
                format_args!(
                    "{other:?} is not a traffic distribution (PreferSameZone, PreferSameNode or PreferClose)"
                ),
            );
            return None;
        }
    };
    let mut keys = TOPOLOGY_MODE.iter();
    let mode = keys.find_map(|key| object.metadata.annotation(key));
    let by_processors = matches!(mode, Some("Auto" | "auto"));
    Some(distribution).filter(|_| !by_processors)
}

/// Converts a Pod.
pub fn pod(object: &api::Pod) -> Converted<Pod> {
    let mut findings = Findings::default();
    let metadata = &object.metadata;
    let name = findings.object_name(metadata, ObjectName::new);
    let Some(spec) = &object.spec else {
        findings.error(format_args!("spec"), "missing");
        return findings.converted(None);
    };
    let ports = named_ports(spec, &mut findings);
    let node = findings.node_name(spec.node_name.as_ref(), format_args!("spec.nodeName"));
    let hostname = findings.hostname(spec.hostname.as_ref(), format_args!("spec.hostname"));
    let subdomain = findings.hostname(spec.subdomain.as_ref(), format_args!("spec.subdomain"));
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
        pod.hostname = hostname;
        pod.subdomain = subdomain;
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
fn named_ports(spec: &api::PodSpec, findings: &mut Findings) -> Vec<ContainerPort> {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn convert(spec: Value, annotations: Value) -> Option<Selection> {
        let mut object = json!({
            "metadata": {"annotations": annotations},
            "spec": {"clusterIP": "10.96.0.80", "selector": {"app": "web"}},
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        selection(&serde_json::from_value(object).unwrap(), Extent::Served).object
    }

    #[test]
    fn services_without_a_selector_have_no_selection() {
        let spec = |spec| convert(spec, json!({}));
        assert!(spec(json!({})).is_some());
        assert_eq!(spec(json!({"selector": null})), None);
        assert_eq!(spec(json!({"selector": {}})), None);
        assert_eq!(spec(json!({"type": "ExternalName"})), None);
        assert_eq!(spec(json!({"clusterIP": "None"})), None);
    }

    #[test]
    fn families_are_those_named_or_else_those_of_the_cluster_ips() {
        let families = |ips: &[&str], names: &[&str]| {
            let spec = json!({"clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": names});
            convert(spec, json!({})).unwrap().families.into_vec()
        };
        let (four, six) = (Family::V4, Family::V6);
        assert_eq!(families(&["10.96.0.80"], &[]), [four]);
        assert_eq!(families(&["fd00::80", "10.96.0.80"], &[]), [four, six]);
        assert_eq!(families(&["fd00::80"], &["IPv6"]), [six]);
        // A Service that is not upgraded to both families yet.
        assert_eq!(families(&["10.96.0.80"], &["IPv4", "IPv6"]), [four, six]);
    }

    #[test]
    fn the_topology_annotation_rules_out_traffic_distribution() {
        let distribution = |distribution: &str, annotations: Value| {
            let spec = json!({"trafficDistribution": distribution});
            convert(spec, annotations).unwrap().traffic_distribution
        };
        let zone = Some(TrafficDistribution::PreferSameZone);
        let node = Some(TrafficDistribution::PreferSameNode);
        assert_eq!(distribution("PreferClose", json!({})), zone);
        assert_eq!(distribution("PreferSameZone", json!({})), zone);
        assert_eq!(distribution("PreferSameNode", json!({})), node);
        let [hints, mode] = TOPOLOGY_MODE;
        assert_eq!(distribution("PreferClose", json!({mode: "Auto"})), None);
        assert_eq!(distribution("PreferClose", json!({hints: "auto"})), None);
        assert_eq!(distribution("PreferClose", json!({mode: "Disabled"})), zone);
        let both = json!({hints: "", mode: "Auto"});
        assert_eq!(distribution("PreferClose", both), zone);
    }
}
