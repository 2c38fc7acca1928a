use proxier::model::Node;
use proxier::source::{api, convert};
use serde_json::{Value, json};

use super::{check, list, object, shown};

fn whole(value: Value) -> String {
    let base = json!({"metadata": {"name": "node-a"}});
    let node: api::Node = object(("v1", "Node"), base, value);
    shown(&convert::node(&node), |node: &Node| {
        format!(
            "{} [{}] pods [{}] {}",
            node.name,
            list(&node.addresses),
            list(&node.pod_cidrs),
            node.zone.as_deref().unwrap_or("-")
        )
    })
}

#[test]
fn nodes() {
    check(
        &[
            ("{}", "node-a [] pods [] -"),
            (
                "{metadata: {labels: {topology.kubernetes.io/zone: eu-1a}}, spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:1::/64']},
                  status: {addresses: [{type: Hostname, address: node-a}, {type: ExternalIP, address: 203.0.113.9}, {type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: 192.0.2.2}, {type: InternalIP, address: '2001:db8::1'}]}}",
                "node-a [192.0.2.1 2001:db8::1] pods [10.244.1.0/24 fd00:1::/64] eu-1a",
            ),
            // A family without an internal address has its external one.
            (
                "{status: {addresses: [{type: ExternalIP, address: '2001:db8::9'}, {type: InternalIP, address: 192.0.2.1}]}}",
                "node-a [192.0.2.1 2001:db8::9] pods [] -",
            ),
            (
                "{spec: {podCIDR: 10.244.1.7/24}}",
                "node-a [] pods [10.244.1.0/24] -",
            ),
            (
                "{metadata: {labels: {topology.kubernetes.io/zone: ''}}, spec: {podCIDR: ''}}",
                "node-a [] pods [] -",
            ),
            // An invalid entry of the status does not affect the rest.
            (
                "{metadata: {labels: {topology.kubernetes.io/zone: 'a b'}}, status: {addresses: [{type: InternalIP, address: 127.0.0.1}, {type: InternalIP, address: x}, {type: InternalIP, address: 192.0.2.1}]}}",
                "node-a [192.0.2.1] pods [] -\n\
                 note: metadata.labels[topology.kubernetes.io/zone]: not used: \"a b\" is not the value of a label \
                 (at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', a letter or digit at both ends)\n\
                 note: status.addresses[0].address: not used: 127.0.0.1 is a loopback address (127.0.0.0/8, ::1)\n\
                 note: status.addresses[1].address: not used: \"x\" is not an IP address",
            ),
            (
                "{spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.2.0/24, 10.244.3.0/24]}}",
                "-\nerror: spec.podCIDRs[0]: \"10.244.2.0/24\" is not the same as spec.podCIDR, \"10.244.1.0/24\"\n\
                 error: spec.podCIDRs[1]: 10.244.3.0/24 is of the same address family as the first",
            ),
            (
                "{spec: {podCIDRs: [10.244.2.0]}}",
                "node-a [] pods [] -\n\
             warning: spec.podCIDRs[0]: \"10.244.2.0\" is not a range in CIDR notation, such as 192.0.2.0/24 or 2001:db8::/32",
            ),
            (
                "{spec: {podCIDRs: [10.244.2.0/24, 'fd00::/64', 10.244.3.0/24]}}",
                "-\nerror: spec.podCIDRs: 3 ranges; at most 2 are allowed",
            ),
            (
                "{metadata: {name: Node_A}}",
                "-\nerror: metadata.name: \"Node_A\" is not a DNS subdomain \
                 (at most 253 of a-z, 0-9, '-' and '.', a letter or digit at both ends of each part)",
            ),
        ],
        whole,
    );
}

#[test]
fn a_node_that_is_being_deleted_is_not_eligible() {
    let eligible = |value: &str| {
        let base = json!({"metadata": {"name": "node-a"}});
        let node: api::Node = object(("v1", "Node"), base, super::yaml(value));
        convert::node(&node).object.unwrap().eligible
    };
    assert!(eligible("{}"));
    assert!(eligible(
        "{spec: {taints: [{key: other, effect: NoSchedule}]}}"
    ));
    assert!(!eligible(
        "{spec: {taints: [{key: other, effect: NoSchedule}, {key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}}"
    ));
    assert!(!eligible(
        "{metadata: {deletionTimestamp: '2026-01-01T00:00:00Z'}}"
    ));
}
