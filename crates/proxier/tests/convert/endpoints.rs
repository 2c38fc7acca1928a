use proxier::model::EndpointSlice;
use proxier::source::convert::Converted;
use proxier::source::{Extent, api, convert};
use serde_json::{Value, json};

use super::endpoint_slice::show_endpoint;
use super::{check, object, shown};

fn converted(value: Value) -> Converted<Vec<EndpointSlice>> {
    let base = json!({"metadata": {"name": "web"}});
    let endpoints: api::Endpoints = object(("v1", "Endpoints"), base, value);
    convert::endpoints(&endpoints, Extent::Served)
}

fn whole(value: Value) -> String {
    shown(&converted(value), |slices: &Vec<EndpointSlice>| {
        let slices = slices.iter().map(|slice| {
            let endpoints: Vec<_> = slice.endpoints.iter().map(show_endpoint).collect();
            let ports: Vec<_> = slice
                .ports
                .iter()
                .map(|port| port.port.to_string())
                .collect();
            format!(
                "{} {}: {}",
                slice.name.name(),
                ports.join(" "),
                endpoints.join(", ")
            )
        });
        slices.collect::<Vec<_>>().join("; ")
    })
}

#[test]
fn mirrored() {
    check(
        &[
            (
                "{subsets: [{addresses: [{ip: 10.244.0.1, nodeName: a}], notReadyAddresses: [{ip: 'fd00::1'}], ports: [{port: 80}]}]}",
                "web-mirrored-0-ipv4 80: 10.244.0.1 on a; web-mirrored-0-ipv6 80: fd00::1 unready",
            ),
            ("{subsets: []}", ""),
            (
                "{metadata: {labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}, subsets: [{addresses: [{ip: 10.244.0.1}]}]}",
                "web-mirrored-0-ipv4 : 10.244.0.1",
            ),
            // The slices would have the same labels.
            (
                "{metadata: {labels: {service.kubernetes.io/service-proxy-name: x}}, subsets: [{addresses: [{ip: 10.244.0.1}]}]}",
                "web-mirrored-0-ipv4 : 10.244.0.1",
            ),
            (
                "{metadata: {labels: {service.kubernetes.io/headless: ''}}, subsets: [{addresses: [{ip: 10.244.0.1}]}]}",
                "-\n\
             note: metadata.labels: not used: the label service.kubernetes.io/headless marks endpoints of a headless Service",
            ),
            (
                "{subsets: [{addresses: [{ip: 127.0.0.1}]}]}",
                "-\nerror: subsets[0].addresses[0].ip: 127.0.0.1 is a loopback address (127.0.0.0/8, ::1)",
            ),
        ],
        whole,
    );
}

#[test]
fn a_thousand_addresses_of_a_subset_are_mirrored() {
    let addresses = |block: u8, count: u16| -> Vec<Value> {
        let address = |n| format!("10.{block}.{}.{}", n / 250, 1 + n % 250);
        (0..count).map(|n| json!({"ip": address(n)})).collect()
    };
    let converted = converted(json!({"subsets": [
        {"addresses": addresses(1, 900), "notReadyAddresses": addresses(2, 300)},
        {"addresses": addresses(3, 1000)},
    ]}));
    assert_eq!(
        shown(&converted, |_| "slices".into()),
        "slices\nnote: subsets[0]: 1200 addresses, of which 1000 are mirrored"
    );
    let slices = converted.object.unwrap();
    let ready = |slice: &EndpointSlice| {
        slice
            .endpoints
            .iter()
            .filter(|e| e.conditions.ready)
            .count()
    };
    let counts: Vec<_> = slices
        .iter()
        .map(|s| (s.endpoints.len(), ready(s)))
        .collect();
    assert_eq!(counts, [(1000, 900), (1000, 1000)]);
}
