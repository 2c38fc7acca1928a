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

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(change: impl FnOnce(&mut api::Service, &mut api::ServiceSpec)) -> Option<Selection> {
        let mut object = api::Service::default();
        let mut spec = api::ServiceSpec {
            cluster_ip: Some("10.96.0.80".into()),
            selector: Some([("app".into(), "web".into())].into()),
            ..Default::default()
        };
        change(&mut object, &mut spec);
        object.spec = Some(spec);
        selection(&object).object
    }

    #[test]
    fn who_selects_nothing_has_none() {
        assert!(convert(|_, _| {}).is_some());
        assert_eq!(convert(|_, spec| spec.selector = None), None);
        assert_eq!(convert(|_, spec| spec.selector = Some([].into())), None);
        assert_eq!(
            convert(|_, spec| spec.type_ = Some("ExternalName".into())),
            None
        );
        assert_eq!(
            convert(|_, spec| spec.cluster_ip = Some("None".into())),
            None
        );
    }

    #[test]
    fn families_are_those_named_or_else_those_of_the_cluster_ips() {
        let families = |ips: &[&str], names: &[&str]| {
            let selection = convert(|_, spec| {
                spec.cluster_ip = ips.first().map(ToString::to_string);
                spec.cluster_ips = Some(ips.iter().map(ToString::to_string).collect());
                spec.ip_families = Some(names.iter().map(ToString::to_string).collect());
            });
            selection.unwrap().families.into_vec()
        };
        let (four, six) = (Family::V4, Family::V6);
        assert_eq!(families(&["10.96.0.80"], &[]), [four]);
        assert_eq!(families(&["fd00::80", "10.96.0.80"], &[]), [four, six]);
        assert_eq!(families(&["fd00::80"], &["IPv6"]), [six]);
        // Not yet upgraded to both families.
        assert_eq!(families(&["10.96.0.80"], &["IPv4", "IPv6"]), [four, six]);
    }

    #[test]
    fn the_topology_annotation_rules_out_traffic_distribution() {
        let distribution = |distribution: &str, annotations: &[(&str, &str)]| {
            let selection = convert(|object, spec| {
                spec.traffic_distribution = Some(distribution.into());
                let annotations = annotations.iter();
                let annotations = annotations.map(|(k, v)| (k.to_string(), v.to_string()));
                object.metadata.annotations = Some(annotations.collect());
            });
            selection.unwrap().traffic_distribution
        };
        let zone = Some(TrafficDistribution::PreferSameZone);
        let node = Some(TrafficDistribution::PreferSameNode);
        assert_eq!(distribution("PreferClose", &[]), zone);
        assert_eq!(distribution("PreferSameZone", &[]), zone);
        assert_eq!(distribution("PreferSameNode", &[]), node);
        let [hints, mode] = TOPOLOGY_MODE;
        assert_eq!(distribution("PreferClose", &[(mode, "Auto")]), None);
        assert_eq!(distribution("PreferClose", &[(hints, "auto")]), None);
        assert_eq!(distribution("PreferClose", &[(mode, "Disabled")]), zone);
        assert_eq!(
            distribution("PreferClose", &[(hints, ""), (mode, "Auto")]),
            zone
        );
    }
}
