//! The fields of a `v1/Service` that select its Pods.

use super::super::api::{self, Loose, annotation};
use super::address::{family, parse_address};
use super::service::{kind, ports};
use super::{Converted, Findings};
use crate::model::Family;
use crate::source::derive::{Selection, TrafficDistribution};

/// Annotations that request topology hints, which override `spec.trafficDistribution`. The first
/// one that is set counts.
const TOPOLOGY_MODE: [&str; 2] = [annotation::TOPOLOGY_HINTS, annotation::TOPOLOGY_MODE];

/// Converts the fields of a Service that its derived endpoint slices depend on. None for a Service
/// without a selector, and for headless Services and those of type `ExternalName`, which need
/// nothing on a node. [`service`](super::service()) reports errors in the ports.
pub fn selection(object: &api::Service) -> Converted<Selection> {
    let mut findings = Findings::default();
    let spec = object.spec.as_ref();
    let spec = spec.filter(|spec| {
        let is_headless = matches!(&spec.cluster_ip, Some(Loose::Right(ip)) if ip == "None");
        spec.type_.as_deref() != Some("ExternalName") && !is_headless && !spec.selector.is_empty()
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
        selection(&serde_json::from_value(object).unwrap()).object
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
