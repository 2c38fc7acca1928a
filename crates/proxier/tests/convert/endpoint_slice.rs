use std::sync::Arc;

use proxier::model::{Endpoint, EndpointSlice};
use proxier::source::convert::Converted;
use proxier::source::{Extent, api, convert};
use serde_json::{Value, json};

use super::{check, list, object, shown};

pub(super) fn show_endpoint(endpoint: &Endpoint) -> String {
    let mut text = endpoint.address.to_string();
    let conditions = endpoint.conditions;
    let mut add = |condition: bool, words: String| {
        if condition {
            text += &format!(" {words}");
        }
    };
    add(!conditions.ready, "unready".into());
    add(conditions.serving && !conditions.ready, "serving".into());
    add(conditions.terminating, "terminating".into());
    for (what, name) in [("on", &endpoint.node), ("in", &endpoint.zone)] {
        add(
            name.is_some(),
            format!("{what} {}", name.as_deref().unwrap_or_default()),
        );
    }
    if let Some(hints) = &endpoint.hints {
        add(
            !hints.zones.is_empty(),
            format!("for zones {}", list(&hints.zones)),
        );
        add(
            !hints.nodes.is_empty(),
            format!("for nodes {}", list(&hints.nodes)),
        );
    }
    text
}

fn show(slice: &EndpointSlice) -> String {
    let ports = slice.ports.iter().map(|port| {
        let name = port.name.as_str();
        format!("{:?} {} {name}", port.protocol, port.port)
    });
    let ports = ports.map(|port| port.trim_end().to_owned());
    let parts: Vec<_> = ports
        .chain(slice.endpoints.iter().map(show_endpoint))
        .collect();
    parts.join(", ")
}

fn converted(value: Value) -> Converted<EndpointSlice> {
    let base = json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": [],
    });
    let slice: api::EndpointSlice = object(("discovery.k8s.io/v1", "EndpointSlice"), base, value);
    convert::endpoint_slice(&slice, Extent::Served)
}

fn whole(value: Value) -> String {
    shown(&converted(value), show)
}

fn of_endpoints(endpoints: Value) -> String {
    whole(json!({"endpoints": endpoints}))
}

#[test]
fn endpoints() {
    check(
        &[
            (
                "[{addresses: [10.244.0.1], nodeName: node-a, zone: eu-1a}, {addresses: [10.244.0.2], zone: ''}]",
                "Tcp 8080, 10.244.0.1 on node-a in eu-1a, 10.244.0.2",
            ),
            // Unchanged: merging slices removes duplicates.
            (
                "[{addresses: [10.244.0.1]}, {addresses: [10.244.0.1], conditions: {ready: false}}]",
                "Tcp 8080, 10.244.0.1, 10.244.0.1 unready",
            ),
            (
                "[{addresses: [10.244.0.1], conditions: {ready: false, serving: true, terminating: true}}]",
                "Tcp 8080, 10.244.0.1 unready serving terminating",
            ),
            (
                "[{addresses: [10.244.0.1], conditions: {ready: null}, deprecatedTopology: {topology.kubernetes.io/zone: old}}]",
                "Tcp 8080, 10.244.0.1",
            ),
            (
                "[{addresses: [10.244.0.1], zone: 'eu 1'}]",
                "Tcp 8080, 10.244.0.1\nnote: endpoints[0].zone: not used: \"eu 1\" is not the value of a label \
                 (at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', a letter or digit at both ends)",
            ),
            (
                "[{addresses: [10.244.0.1], nodeName: Node_A}]",
                "Tcp 8080, 10.244.0.1\n\
             warning: endpoints[0].nodeName: \"Node_A\" is not a DNS subdomain (at most 253 of a-z, 0-9, '-' and '.', a letter or digit at both ends of each part)",
            ),
        ],
        of_endpoints,
    );
}

#[test]
fn hints() {
    check(
        &[
            (
                "[{addresses: [10.244.0.1], hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: node-a}]}}]",
                "Tcp 8080, 10.244.0.1 for zones a b for nodes node-a",
            ),
            (
                "[{addresses: [10.244.0.1], hints: {forNodes: [{name: node-a}]}}]",
                "Tcp 8080, 10.244.0.1 for nodes node-a",
            ),
            // Hints without names are ignored.
            (
                "[{addresses: [10.244.0.1], hints: {}}, {addresses: [10.244.0.2], hints: {forZones: []}}]",
                "Tcp 8080, 10.244.0.1, 10.244.0.2",
            ),
            (
                "[{addresses: [10.244.0.1], hints: {forZones: [{name: a}, {name: a}, {name: 'a b'}, {name: ''}], forNodes: [{name: A}]}}]",
                "Tcp 8080, 10.244.0.1\n\
             warning: endpoints[0].hints.forZones[1].name: \"a\" is listed twice\n\
             warning: endpoints[0].hints.forZones[2].name: \"a b\" is not the value of a label (at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', a letter or digit at both ends)\n\
             warning: endpoints[0].hints.forZones[3].name: missing\n\
             warning: endpoints[0].hints.forNodes[0].name: \"A\" is not a DNS subdomain (at most 253 of a-z, 0-9, '-' and '.', a letter or digit at both ends of each part)",
            ),
            (
                "[{addresses: [10.244.0.1], hints: {forZones: [{name: a}, {name: b}, {name: c}, {name: d}, {name: e}, {name: f}, {name: g}, {name: h}, {name: i}]}}]",
                "Tcp 8080, 10.244.0.1\n\
             warning: endpoints[0].hints.forZones: 9 names; at most 8 are allowed",
            ),
        ],
        of_endpoints,
    );
}

#[test]
fn what_is_left_out() {
    check(
        &[
            (
                "{metadata: {labels: {service.kubernetes.io/service-proxy-name: x}}}",
                "Tcp 8080",
            ),
            (
                "{metadata: {labels: {service.kubernetes.io/headless: ''}}, addressType: bad}",
                "-\n\
             note: metadata.labels: not used: the label service.kubernetes.io/headless marks endpoints of a headless Service",
            ),
            (
                "{addressType: FQDN, endpoints: [{addresses: [web.example.org]}]}",
                "-\nnote: addressType: FQDN: a service proxy sends to addresses, not to host names",
            ),
            (
                "{addressType: IPv6, endpoints: [{addresses: [10.244.0.1]}]}",
                "-\n\
             error: endpoints[0].addresses[0]: 10.244.0.1 is not of the slice's addressType",
            ),
        ],
        whole,
    );
    let ports: Vec<_> = (0..20_001)
        .map(|n| json!({"name": n.to_string(), "port": 1}))
        .collect();
    assert_eq!(
        whole(json!({ "ports": ports })),
        "-\nerror: ports: 20001 ports; at most 20000 are allowed"
    );
}

#[test]
fn five_thousand_endpoints_share_the_names_of_their_nodes_and_zones() {
    let slices: Vec<EndpointSlice> = (0..5)
        .map(|slice| {
            let endpoints = (0..1000).map(|n| {
                json!({
                    "addresses": [format!("10.{}.{}.{}", 100 + slice, n / 250, 1 + n % 250)],
                    "nodeName": format!("node-{}", n % 20),
                    "zone": format!("zone-{}", n % 3),
                    "hints": {"forZones": [{"name": format!("zone-{}", n % 3)}]},
                })
            });
            let endpoints: Vec<Value> = endpoints.collect();
            let converted = converted(json!({ "endpoints": endpoints }));
            assert_eq!(converted.diagnostics, []);
            converted.object.unwrap()
        })
        .collect();
    let endpoints: Vec<&Endpoint> = slices.iter().flat_map(|slice| &slice.endpoints).collect();
    assert_eq!(endpoints.len(), 5000);
    let mut copies = std::collections::HashSet::new();
    for endpoint in endpoints {
        let hints = endpoint.hints.as_ref().unwrap();
        let names = [
            endpoint.node.as_ref(),
            endpoint.zone.as_ref(),
            hints.zones.first(),
        ];
        copies.extend(names.map(|name| Arc::as_ptr(name.unwrap()).cast::<u8>()));
    }
    assert_eq!(copies.len(), 20 + 3);
}

#[test]
fn last_change_trigger_times() {
    let last_change = |time: &str| {
        let annotation = "endpoints.kubernetes.io/last-change-trigger-time";
        let converted = converted(json!({"metadata": {"annotations": {annotation: time}}}));
        let reported: Vec<_> = converted
            .diagnostics
            .iter()
            .map(|d| d.to_string())
            .collect();
        let time = converted.object.unwrap().last_change;
        (time.map(|time| time.since_epoch().as_nanos()), reported)
    };
    let whole = 1_767_225_600_000_000_000;
    assert_eq!(last_change("2026-01-01T00:00:00Z"), (Some(whole), vec![]));
    assert_eq!(
        last_change("2026-01-01T01:00:00.000000005+01:00"),
        (Some(whole + 5), vec![])
    );
    for wrong in [
        "",
        "yesterday",
        "1969-12-31T23:59:59Z",
        "2999-01-01T00:00:00Z",
    ] {
        let (time, reported) = last_change(wrong);
        assert!(
            time.is_none() && reported.len() == 1,
            "{wrong}: {reported:?}"
        );
    }
}
