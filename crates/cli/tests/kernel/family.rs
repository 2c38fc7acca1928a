//! Services of a family in which the node has no address.

use crate::follower::Follower;
use crate::lab::Lab;
use crate::ports::DUAL_STACK;

/// A dual-stack Service with one endpoint, on the node.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIPs: [10.96.0.84, 'fd00:10:96::84'], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.60], nodeName: node-a}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{port: 8080}]
endpoints: [{addresses: ['fd00:10:244:1::60'], nodeName: node-a}]
";

/// Pods reach the Services of both families on a node without an IPv6 address.
pub(crate) fn pods_reach_both_families(mode: &str) {
    let lab = Lab::new("family", DUAL_STACK);
    lab.write("web.yaml", WEB);
    let node = lab.node();
    node.ip(&[format!("address del {}/64 dev eth0", node.v6)])
        .unwrap();
    let mut command = lab.svcproxy(&[mode, "--log-format=json"]);
    let settings = lab.settings().into_iter();
    command.args(settings.map(|flag| match flag.starts_with("--node-ip=") {
        true => format!("--node-ip={}", node.v4),
        false => flag,
    }));
    let svcproxy = Follower::start(&mut command);
    svcproxy.wait("a sync", |event| event["message"] == "synced");
    for port in &DUAL_STACK[..2] {
        let answer = lab.ask(lab.probe(), port).unwrap();
        let source = lab.source_seen(lab.probe(), port);
        assert_eq!(answer.seen_source.ip(), source, "{port:?}");
    }
    let log = svcproxy.terminate();
    let reasons = log.iter().filter_map(|event| event["reason"].as_str());
    let reasons: Vec<_> = reasons.collect();
    assert_eq!(reasons, ["FamilyWithoutAddress"], "{log:#?}");
}
