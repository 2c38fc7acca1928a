//! For any object: no panic, a bounded number of findings, and a valid result.

use std::collections::HashSet;
use std::net::IpAddr;

use proptest::prelude::*;
use proxier::model::{EndpointSlice, Service, TrafficPolicy};
use proxier::source::convert::{self, Converted};
use proxier::source::{Diagnostic, Extent, Severity, api};
use serde_json::{Value, json};

use super::arbitrary::{endpoints, node, service, slice};

/// Maximum number of findings per object, and maximum length of one text.
const FINDINGS: usize = 101;
const TEXT: usize = 401;

/// Checks the invariants of a conversion; returns the object, if any.
fn sound<T>(converted: Converted<T>) -> Option<T> {
    let Converted {
        object,
        diagnostics,
        ..
    } = converted;
    assert!(diagnostics.len() <= FINDINGS, "{}", diagnostics.len());
    for Diagnostic { field, message, .. } in &diagnostics {
        for text in [field.as_deref().unwrap_or_default(), message] {
            assert!(text.chars().count() <= TEXT, "{text}");
        }
    }
    let refused = diagnostics
        .iter()
        .any(|found| found.severity == Severity::Error);
    assert!(
        !(refused && object.is_some()),
        "refused, and there: {diagnostics:?}"
    );
    assert!(
        object.is_some() || !diagnostics.is_empty(),
        "gone, and nobody knows why"
    );
    object
}

fn reachable(address: &IpAddr) -> bool {
    !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

fn sound_service(service: &Service) {
    let families: HashSet<bool> = service.cluster_ips.iter().map(IpAddr::is_ipv4).collect();
    assert_eq!(families.len(), service.cluster_ips.len());
    let external = || {
        service
            .external_ips
            .iter()
            .chain(&service.load_balancer_ips)
    };
    for address in external() {
        assert!(families.contains(&address.is_ipv4()), "{service:?}");
        assert!(!service.cluster_ips.contains(address), "{service:?}");
        assert!(reachable(address), "{service:?}");
    }
    let mut ports = HashSet::new();
    let mut node_ports = HashSet::new();
    for port in &service.ports {
        assert!(ports.insert((port.protocol, port.port)), "{service:?}");
        let node_port = port.node_port.map(|node_port| (port.protocol, node_port));
        assert!(
            node_port.is_none_or(|port| node_ports.insert(port)),
            "{service:?}"
        );
    }
    for (index, range) in service.load_balancer_source_ranges.iter().enumerate() {
        let others = &service.load_balancer_source_ranges[index + 1..];
        assert!(
            !others
                .iter()
                .any(|o| o.contains(range) || range.contains(o)),
            "{service:?}"
        );
    }
    let local = service.external_traffic_policy == TrafficPolicy::Local;
    assert!(
        local || service.health_check_node_port.is_none(),
        "{service:?}"
    );
    assert!(
        service.scheduler.is_some() || service.scheduler_flags.is_none(),
        "{service:?}"
    );
}

fn sound_slice(slice: &EndpointSlice) {
    for endpoint in &slice.endpoints {
        assert!(reachable(&endpoint.address), "{slice:?}");
        let some = |hints: &proxier::model::Hints| hints.zones.len() + hints.nodes.len() > 0;
        assert!(endpoint.hints.as_deref().is_none_or(some), "{slice:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn services(object in service()) {
        let ranges = object.pointer("/spec/loadBalancerSourceRanges").and_then(Value::as_array);
        let had_ranges = ranges.is_some_and(|ranges| !ranges.is_empty());
        let service: api::Service = serde_json::from_value(object).unwrap();
        if let Some(service) = sound(convert::service(&service, Extent::Served)) {
            sound_service(&service);
            // Invalid ranges never open the Service to all clients.
            let closed = service.load_balancer_ips.is_empty();
            assert!(closed || had_ranges != service.load_balancer_source_ranges.is_empty());
        }
    }

    #[test]
    fn slices(object in slice()) {
        let slice: api::EndpointSlice = serde_json::from_value(object).unwrap();
        if let Some(slice) = sound(convert::endpoint_slice(&slice, Extent::Served)) {
            sound_slice(&slice);
        }
    }

    #[test]
    fn legacy_endpoints(object in endpoints()) {
        let endpoints: api::Endpoints = serde_json::from_value(object).unwrap();
        sound(convert::endpoints(&endpoints, Extent::Served)).iter().flatten().for_each(sound_slice);
    }

    #[test]
    fn nodes(object in node()) {
        let node: api::Node = serde_json::from_value(object).unwrap();
        if let Some(node) = sound(convert::node(&node)) {
            assert!(node.addresses.len() <= 2 && node.addresses.iter().all(reachable));
        }
    }
}

#[test]
fn megabytes_of_errors_are_reported_in_a_few_lines() {
    let long = "x".repeat(3 << 20);
    let flags = "sh-fall,".repeat(1 << 18);
    let annotations = json!({"svcproxy.io/scheduler": "sh", "svcproxy.io/scheduler-flags": flags});
    let ingress: Vec<_> = (0..10_000).map(|n| json!({"ip": n.to_string()})).collect();
    let service = |annotations: Value, ports: Value| -> api::Service {
        let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.1", "ports": ports});
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service", "spec": spec,
            "metadata": {"name": "web", "annotations": annotations},
            "status": {"loadBalancer": {"ingress": ingress}},
        }))
        .unwrap()
    };
    let with_port = service(annotations, json!([{"port": 80}]));
    let converted = sound(convert::service(&with_port, Extent::Served)).unwrap();
    assert_eq!(converted.cluster_ips.len(), 1);
    let annotations = json!({"svcproxy.io/scheduler": long, "svcproxy.io/scheduler-flags": long});
    let with_port = service(annotations, json!([{"port": 80}]));
    assert!(sound(convert::service(&with_port, Extent::Served)).is_some());
    // Notes do not displace the error that explains the rejection.
    let refused = service(
        json!({"svcproxy.io/scheduler": "sh", "svcproxy.io/scheduler-flags": "x,".repeat(500)}),
        Value::Null,
    );
    assert!(convert::service(&refused, Extent::Served).is_refused());
}
