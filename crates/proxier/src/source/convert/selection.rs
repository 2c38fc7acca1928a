//! What a `v1/Service` says of the Pods that are its endpoints.

use std::net::IpAddr;
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::address::family;
use super::field::reason;
use super::{Converted, Findings};
use crate::model::{Family, PortName};
use crate::source::derive::{Selection, TargetPort, TrafficDistribution};

/// Annotations that ask for hints by the nodes' processors, and so rule out those by
/// `spec.trafficDistribution`. The first that is there counts.
const TOPOLOGY_MODE: [&str; 2] = [
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
];

/// Converts the fields of a Service from which endpoint slices follow, and leaves the rest to
/// [`service`](super::service()). There is nothing for a Service without a selector, nor for a
/// headless one and one of type `ExternalName`, which ask nothing of a node.
pub fn selection(object: &api::Service) -> Converted<Selection> {
    let mut findings = Findings::default();
    let spec = object.spec.as_ref();
    let spec = spec.filter(|spec| {
        spec.type_.as_deref() != Some("ExternalName") && spec.cluster_ip.as_deref() != Some("None")
    });
    let labels = spec.and_then(|spec| spec.selector.as_ref());
    let Some((spec, labels)) = spec.zip(labels.filter(|labels| !labels.is_empty())) else {
        return findings.converted(None);
    };
    let labels = labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let mut selection = Selection::new(labels);
    let targets = targets(spec, &mut findings);
    selection.families = families(spec).into();
    selection.publish_not_ready_addresses = spec.publish_not_ready_addresses == Some(true);
    selection.traffic_distribution = traffic_distribution(object, spec, &mut findings);
    let selection = targets.map(|targets| Selection {
        targets: targets.into(),
        ..selection
    });
    findings.converted(selection)
}

/// None if a number is none, which [`service`](super::service()) refuses.
fn targets(spec: &api::ServiceSpec, findings: &mut Findings) -> Option<Vec<TargetPort>> {
    let ports = spec.ports.iter().flatten().enumerate();
    let target = |(index, port): (usize, &api::ServicePort)| {
        let number = match &port.target_port {
            Some(IntOrString::String(name)) if !name.is_empty() => {
                let name = PortName::new(name).inspect_err(|error| {
                    let field = format_args!("spec.ports[{index}].targetPort");
                    findings.error(field, reason(error));
                });
                return name.ok().map(TargetPort::Name);
            }
            Some(IntOrString::Int(number)) => *number,
            _ => port.port,
        };
        let number = u16::try_from(number).ok().and_then(NonZeroU16::new);
        number.map(TargetPort::Number)
    };
    ports.map(target).collect()
}

/// Those of the cluster IPs where none are named, as the API server would have it.
fn families(spec: &api::ServiceSpec) -> Vec<Family> {
    let named = spec.ip_families.iter().flatten();
    let named = named.filter_map(|name| match name.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        // Refused with the cluster IPs.
        _ => None,
    });
    let mut families: Vec<_> = named.collect();
    if families.is_empty() {
        let addresses = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let addresses = addresses.filter_map(|text| text.parse::<IpAddr>().ok());
        families.extend(addresses.map(family));
    }
    families.sort_unstable();
    families.dedup();
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
    let annotations = object.metadata.annotations.as_ref();
    let mode = TOPOLOGY_MODE.iter().find_map(|key| annotations?.get(*key));
    let by_processors = matches!(mode.map(String::as_str), Some("Auto" | "auto"));
    Some(distribution).filter(|_| !by_processors)
}
