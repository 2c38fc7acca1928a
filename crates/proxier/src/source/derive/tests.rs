use std::fmt::Write as _;
use std::num::NonZeroU16;

use super::*;
use crate::model::{PortName, Protocol, ServicePort};

fn object(name: &str) -> ObjectName {
    ObjectName::new("default", name).unwrap()
}

fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

fn named(name: &str) -> TargetPort {
    TargetPort::Name(PortName::new(name).unwrap())
}

/// A Service with TCP ports `p0`, `p1` and so on for these targets.
fn service(targets: &[TargetPort]) -> (Service, Selection) {
    let mut service = Service::new(object("web"));
    let port = |index| PortName::new(&format!("p{index}")).unwrap();
    service.ports = (0..targets.len())
        .map(|index| ServicePort::new(port(index), Protocol::Tcp, number(80)))
        .collect();
    let mut selection = Selection::new([("app", "web")]);
    selection.targets = targets.into();
    selection.families = [Family::V4].into();
    (service, selection)
}

/// A ready Pod on `node-a`, named after its first address.
fn pod(addresses: &[&str], ports: &[(&str, Protocol, u16)]) -> Pod {
    let mut pod = Pod::new(object(&addresses[0].replace(':', "-")));
    pod.labels.insert("app".into(), "web".into());
    pod.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    let port = |(name, protocol, port): &(&str, _, _)| {
        ContainerPort::new(PortName::new(name).unwrap(), *protocol, number(*port))
    };
    pod.ports = ports.iter().map(port).collect();
    pod.node = Some("node-a".into());
    pod.ready = true;
    pod
}

fn zone(name: &str, zone: &str) -> Node {
    let mut node = Node::new(name);
    node.zone = Some(zone.into());
    node
}

/// One line per slice: name, ports and endpoints.
fn shown((service, selection): &(Service, Selection), pods: &[Pod], nodes: &[Node]) -> String {
    let node = |name: &str| nodes.iter().find(|node| &*node.name == name);
    let mut text = String::new();
    for slice in slices(service, selection, pods, node) {
        assert_eq!(slice.service, service.name);
        assert_eq!(slice.name.namespace(), "default");
        write!(text, "{}", slice.name.name()).unwrap();
        for port in &slice.ports {
            write!(text, " {}={}", port.name, port.port).unwrap();
        }
        text.push(':');
        for endpoint in &slice.endpoints {
            assert_eq!(Family::of(&endpoint.address), slice.family);
            write!(text, " {}", endpoint.address).unwrap();
            let EndpointConditions {
                ready,
                serving,
                terminating,
            } = endpoint.conditions;
            let conditions = [(ready, '+'), (serving, 's'), (terminating, 't')];
            let conditions = conditions.iter().filter(|(set, _)| *set);
            text.extend(conditions.map(|(_, sign)| *sign));
            if let Some(zone) = &endpoint.zone {
                write!(text, " in {zone}").unwrap();
            }
            if let Some(hints) = &endpoint.hints {
                write!(text, " for {:?} {:?}", hints.zones, hints.nodes).unwrap();
            }
        }
        text.push('\n');
    }
    text
}

#[test]
fn a_numeric_target_port_is_the_same_everywhere() {
    let service = service(&[TargetPort::Number(number(8080))]);
    let pods = [pod(&["10.0.0.2"], &[]), pod(&["10.0.0.1"], &[])];
    assert_eq!(
        shown(&service, &pods, &[]),
        "web-derived-0-ipv4 p0=8080: 10.0.0.2+s 10.0.0.1+s\n"
    );
}

#[test]
fn named_target_ports_are_each_pods_own() {
    let service = service(&[named("http"), named("metrics")]);
    let tcp = Protocol::Tcp;
    let pods = [
        pod(
            &["10.0.0.1"],
            &[("http", tcp, 8080), ("metrics", tcp, 9100)],
        ),
        pod(&["10.0.0.2"], &[("metrics", tcp, 9100), ("http", tcp, 80)]),
        pod(
            &["10.0.0.3"],
            &[("http", tcp, 8080), ("metrics", tcp, 9100)],
        ),
        pod(&["10.0.0.4"], &[("http", tcp, 8080)]),
        // The name with another protocol, and then twice: the first one of the protocol counts.
        pod(
            &["10.0.0.5"],
            &[
                ("http", Protocol::Udp, 1),
                ("http", tcp, 2),
                ("http", tcp, 3),
            ],
        ),
        pod(&["10.0.0.6"], &[("http-alt", tcp, 8080)]),
    ];
    assert_eq!(
        shown(&service, &pods, &[]),
        "web-derived-0-ipv4: 10.0.0.6+s\n\
         web-derived-1-ipv4 p0=2: 10.0.0.5+s\n\
         web-derived-2-ipv4 p0=80 p1=9100: 10.0.0.2+s\n\
         web-derived-3-ipv4 p0=8080: 10.0.0.4+s\n\
         web-derived-4-ipv4 p0=8080 p1=9100: 10.0.0.1+s 10.0.0.3+s\n"
    );
}

/// Pods that are ready, not ready, terminating in both states, not started, succeeded and failed.
fn every_state() -> Vec<Pod> {
    let set = |address: &str, ready, terminating, finished| Pod {
        ready,
        terminating,
        finished,
        ..pod(&[address], &[])
    };
    let mut pods = vec![
        set("10.0.0.1", true, false, false),
        set("10.0.0.2", false, false, false),
        set("10.0.0.3", true, true, false),
        set("10.0.0.4", false, true, false),
        set("10.0.0.5", true, false, true),
        set("10.0.0.6", false, true, true),
        set("10.0.0.7", false, false, false),
    ];
    pods[6].addresses = Box::default();
    pods
}

#[test]
fn conditions_are_the_pods() {
    let mut service = service(&[TargetPort::Number(number(80))]);
    assert_eq!(
        shown(&service, &every_state(), &[]),
        "web-derived-0-ipv4 p0=80: 10.0.0.1+s 10.0.0.2 10.0.0.3st 10.0.0.4t\n"
    );
    service.1.publish_not_ready_addresses = true;
    assert_eq!(
        shown(&service, &every_state(), &[]),
        "web-derived-0-ipv4 p0=80: 10.0.0.1+s 10.0.0.2+ 10.0.0.3+st 10.0.0.4+t\n"
    );
}

#[test]
fn each_family_has_its_slices() {
    let mut service = service(&[TargetPort::Number(number(80))]);
    let pods = [
        pod(&["10.0.0.1", "fd00::1"], &[]),
        pod(&["fd00::2"], &[]),
        pod(&["10.0.0.3"], &[]),
    ];
    assert_eq!(
        shown(&service, &pods, &[]),
        "web-derived-0-ipv4 p0=80: 10.0.0.1+s 10.0.0.3+s\n"
    );
    service.1.families = [Family::V4, Family::V6].into();
    assert_eq!(
        shown(&service, &pods, &[]),
        "web-derived-0-ipv4 p0=80: 10.0.0.1+s 10.0.0.3+s\n\
         web-derived-1-ipv6 p0=80: fd00::1+s fd00::2+s\n"
    );
    assert_eq!(shown(&service, &pods[..0], &[]), "");
}

#[test]
fn a_pod_on_the_hosts_network_has_the_nodes_addresses() {
    let service = service(&[TargetPort::Number(number(80))]);
    let mut node = Node::new("node-a");
    node.addresses = ["192.0.2.1".parse().unwrap()].into();
    let mut pods = [pod(&["192.0.2.7"], &[]), pod(&["10.0.0.1"], &[])];
    pods[0].host_network = true;
    pods[1].host_network = true;
    pods[1].addresses = Box::default();
    assert_eq!(
        shown(&service, &pods, &[node]),
        "web-derived-0-ipv4 p0=80: 192.0.2.7+s 192.0.2.1+s\n"
    );
    assert_eq!(
        shown(&service, &pods, &[]),
        "web-derived-0-ipv4 p0=80: 192.0.2.7+s\n"
    );
}

#[test]
fn ready_endpoints_have_hints_for_their_own_zone_or_node() {
    let mut service = service(&[TargetPort::Number(number(80))]);
    let mut pods = [
        pod(&["10.0.0.1"], &[]),
        pod(&["10.0.0.2"], &[]),
        pod(&["10.0.0.3"], &[]),
        pod(&["10.0.0.4"], &[]),
    ];
    pods[1].ready = false;
    pods[2].node = Some("unknown".into());
    pods[3].node = None;
    let nodes = [zone("node-a", "east"), zone("node-b", "west")];
    assert_eq!(
        shown(&service, &pods, &nodes),
        "web-derived-0-ipv4 p0=80: 10.0.0.1+s in east 10.0.0.2 in east 10.0.0.3+s 10.0.0.4+s\n"
    );
    service.1.traffic_distribution = Some(TrafficDistribution::PreferSameZone);
    assert_eq!(
        shown(&service, &pods, &nodes),
        "web-derived-0-ipv4 p0=80: 10.0.0.1+s in east for [\"east\"] [] 10.0.0.2 in east \
         10.0.0.3+s 10.0.0.4+s\n"
    );
    service.1.traffic_distribution = Some(TrafficDistribution::PreferSameNode);
    assert_eq!(
        shown(&service, &pods, &nodes),
        "web-derived-0-ipv4 p0=80: 10.0.0.1+s in east for [\"east\"] [\"node-a\"] \
         10.0.0.2 in east 10.0.0.3+s for [] [\"unknown\"] 10.0.0.4+s\n"
    );
}

#[test]
fn a_slice_holds_at_most_a_thousand() {
    let (service, selection) = service(&[TargetPort::Number(number(80))]);
    let address = |index: usize| format!("10.0.{}.{}", index / 256, index % 256);
    let pods: Vec<_> = (1..=2001)
        .map(|index| pod(&[&address(index)], &[]))
        .collect();
    let slices = slices(&service, &selection, &pods, |_| None);
    let lengths: Vec<_> = slices.iter().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(lengths, [1000, 1000, 1]);
    let names: Vec<_> = slices.iter().map(|slice| slice.name.name()).collect();
    assert_eq!(
        names,
        [
            "web-derived-0-ipv4",
            "web-derived-1-ipv4",
            "web-derived-2-ipv4"
        ]
    );
}

#[test]
fn all_labels_must_match() {
    let selection = Selection::new([("app", "web"), ("tier", "front")]);
    let mut pod = pod(&["10.0.0.1"], &[]);
    assert!(!selection.selects(&pod));
    pod.labels.insert("tier".into(), "back".into());
    assert!(!selection.selects(&pod));
    pod.labels.insert("tier".into(), "front".into());
    pod.labels.insert("other".into(), String::new());
    assert!(selection.selects(&pod));
}
