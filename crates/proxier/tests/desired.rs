//! What single Services mean on a node: which endpoints count, and why there are none.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use proxier::desired::{Config, DesiredState, FollowNode, FrontendKey, Need, NoEndpoints};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort, TrafficPolicy,
};
use proxier::notice::Reason;
use proxier::store::{Change, Store};

fn port(number: u16) -> NonZeroU16 {
    number.try_into().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> PortName {
    PortName::new(text).unwrap()
}

fn config() -> Config {
    Config::new("node-a", vec![address("192.0.2.1")])
}

fn web() -> ObjectName {
    ObjectName::new("shop", "web").unwrap()
}

/// A Service at 10.96.0.1:80, TCP, with the port name `http`.
fn service() -> Service {
    let mut service = Service::new(web());
    service.cluster_ips = [address("10.96.0.1")].into();
    service.ports = [ServicePort::new(name("http"), Protocol::Tcp, port(80))].into();
    service
}

/// An endpoint of node-a, for each last part of an address.
fn endpoints(lasts: &[u8]) -> Vec<Endpoint> {
    let endpoint = |last: &u8| {
        let mut endpoint = Endpoint::new([10, 244, 1, *last].into());
        endpoint.node = Some("node-a".into());
        endpoint
    };
    lasts.iter().map(endpoint).collect()
}

/// A slice of the Service with these ports.
fn slice(of: &str, ports: &[(&str, Protocol)], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let own = ObjectName::new("shop", of).unwrap();
    let mut slice = EndpointSlice::new(own, web(), Family::V4);
    let ports = ports.iter();
    let ports = ports.map(|(text, protocol)| EndpointPort::new(name(text), *protocol, port(8080)));
    slice.ports = ports.collect();
    slice.endpoints = endpoints.into();
    slice
}

fn desired(config: Config, service: Service, slices: Vec<EndpointSlice>) -> DesiredState {
    let mut store = Store::default();
    store.apply(Change::ServicesReplaced(vec![service]));
    store.apply(Change::EndpointSlicesReplaced(slices));
    DesiredState::from_store(Arc::new(config), &store)
}

const HTTP: &[(&str, Protocol)] = &[("http", Protocol::Tcp)];

fn key() -> FrontendKey {
    FrontendKey {
        protocol: Protocol::Tcp,
        address: address("10.96.0.1"),
        port: port(80),
    }
}

/// Why the Service's port has no endpoint at all.
fn why(slices: Vec<EndpointSlice>) -> NoEndpoints {
    let desired = desired(config(), service(), slices);
    let frontend = desired.frontend(&key()).unwrap();
    let why = desired.why_no_endpoints(frontend, false).cloned();
    assert_eq!(
        desired.why_no_endpoints(frontend, true),
        None,
        "no policy needs this node"
    );
    why.unwrap()
}

#[test]
fn the_reason_for_no_endpoints_tells_the_cases_apart() {
    let with = |change: fn(&mut Endpoint)| {
        let mut all = endpoints(&[1, 2]);
        all.iter_mut().for_each(change);
        why(vec![slice("a", HTTP, all)])
    };
    let not_ready = with(|endpoint| endpoint.conditions.ready = false);
    assert_eq!(not_ready, NoEndpoints::NotReady(2));
    let terminating = with(|endpoint| {
        endpoint.conditions.ready = false;
        endpoint.conditions.serving = false;
        endpoint.conditions.terminating = true;
    });
    assert_eq!(terminating, NoEndpoints::Terminating(2));
    assert_eq!(
        with(|endpoint| endpoint.weight = 0),
        NoEndpoints::WithoutWeight(2)
    );
    // Only those that would answer count.
    let mut mixed = endpoints(&[1, 2, 3]);
    mixed[0].weight = 0;
    mixed[1].conditions.ready = false;
    mixed[2].conditions.ready = false;
    mixed[2].weight = 0;
    assert_eq!(
        why(vec![slice("a", HTTP, mixed)]),
        NoEndpoints::WithoutWeight(1)
    );
    let mut mixed = endpoints(&[1, 2]);
    for endpoint in &mut mixed {
        endpoint.conditions.ready = false;
        endpoint.conditions.serving = false;
    }
    mixed[0].conditions.terminating = true;
    assert_eq!(why(vec![slice("a", HTTP, mixed)]), NoEndpoints::NotReady(2));
}

/// A port belongs to the Service's only with the same name and protocol.
#[test]
fn ports_of_another_protocol_or_name_do_not_count() {
    let of = |ports: &[&[(&str, Protocol)]]| {
        let slices = ports.iter().zip(["a", "b"]);
        let slices = slices.map(|(ports, own)| slice(own, ports, endpoints(&[1])));
        match why(slices.collect()) {
            NoEndpoints::NoSuchPort { found, .. } => {
                found.iter().map(ToString::to_string).collect::<Vec<_>>()
            }
            other => vec![format!("{other:?}")],
        }
    };
    assert_eq!(of(&[&[("http", Protocol::Udp)]]), [""; 0]);
    assert_eq!(
        of(&[&[("web", Protocol::Tcp)], &[("admin", Protocol::Tcp)]]),
        ["admin", "web"]
    );
}

/// The reason belongs to the port of the same protocol.
/// The same name in several slices, protocols and families, in any order.
#[test]
fn the_ports_of_all_slices_with_the_name_count() {
    let unordered = &[
        ("https", Protocol::Tcp),
        ("http", Protocol::Udp),
        ("http", Protocol::Tcp),
        ("a", Protocol::Tcp),
    ];
    let mut twice = slice("b", &[HTTP[0], HTTP[0]], endpoints(&[2]));
    twice.ports[1].port = port(8081);
    let mut v6 = slice("c", HTTP, vec![Endpoint::new(address("fd00:10:244::3"))]);
    v6.family = Family::V6;
    let slices = vec![slice("a", unordered, endpoints(&[1])), twice, v6];
    let desired = desired(config(), service(), slices);
    let backends = desired.frontend(&key()).unwrap().backends.iter();
    let found: Vec<_> = backends.map(|b| (b.address, b.port.get())).collect();
    let expected = [("10.244.1.1", 8080), ("10.244.1.2", 8080)];
    assert_eq!(found, expected.map(|(ip, port)| (address(ip), port)));
}

/// At most five names, in order, each once, and none of the other protocol or family.
#[test]
fn ports_that_exist_instead_are_named() {
    let ports = ["f", "e", "d", "c", "b", "a"].map(|text| (text, Protocol::Tcp));
    let mut v6 = slice("c", &[("0", Protocol::Tcp)], Vec::new());
    v6.family = Family::V6;
    let reason = why(vec![
        slice("a", &ports, endpoints(&[1])),
        slice(
            "b",
            &[("a", Protocol::Tcp), ("aa", Protocol::Udp)],
            endpoints(&[2]),
        ),
        v6,
    ]);
    let expected = NoEndpoints::NoSuchPort {
        protocol: Protocol::Tcp,
        wanted: name("http"),
        found: ["a", "b", "c", "d", "e"].map(name).into(),
    };
    assert_eq!(reason, expected);
}

#[test]
fn two_ports_of_one_name_have_their_own_reasons() {
    let mut both = service();
    let tcp = ServicePort::new(name("dns"), Protocol::Tcp, port(53));
    let udp = ServicePort::new(name("dns"), Protocol::Udp, port(53));
    both.ports = [tcp, udp].into();
    let mut quiet = endpoints(&[1]);
    quiet[0].conditions.ready = false;
    let slices = vec![slice("a", &[("dns", Protocol::Udp)], quiet)];
    let desired = desired(config(), both, slices);
    let reason = |protocol| {
        let key = FrontendKey {
            protocol,
            port: port(53),
            ..key()
        };
        let frontend = desired.frontend(&key).unwrap();
        desired.why_no_endpoints(frontend, false).cloned().unwrap()
    };
    assert!(matches!(
        reason(Protocol::Tcp),
        NoEndpoints::NoSuchPort { .. }
    ));
    assert_eq!(reason(Protocol::Udp), NoEndpoints::NotReady(1));
}

/// A load balancer's health check counts what may get connections here.
#[test]
fn health_checks_count_ready_endpoints_with_weight_on_this_node() {
    let mut checked = service();
    checked.external_traffic_policy = TrafficPolicy::Local;
    checked.health_check_node_port = Some(port(32_000));
    let mut all = endpoints(&[1, 2, 3, 4]);
    all[1].weight = 0;
    all[2].conditions.ready = false;
    all[3].node = Some("node-b".into());
    let desired = desired(config(), checked, vec![slice("a", HTTP, all)]);
    let counts: Vec<_> = desired
        .health_checks()
        .map(|check| check.local_endpoints)
        .collect();
    assert_eq!(counts, [1]);
    // The node has no IPv6.
    assert!(desired.needs(&Need::HealthCheck(Family::V4, port(32_000))));
    assert!(!desired.needs(&Need::HealthCheck(Family::V6, port(32_000))));
}

/// Under policy Local, a frontend without endpoints here lacks only local ones if there are others.
#[test]
fn what_lacks_local_backends_has_others() {
    let mut local = service();
    local.internal_traffic_policy = TrafficPolicy::Local;
    let lacks = |endpoints: Vec<Endpoint>| {
        let desired = desired(config(), local.clone(), vec![slice("a", HTTP, endpoints)]);
        desired.frontend(&key()).unwrap().lacks_local_backends()
    };
    let mut elsewhere = endpoints(&[1]);
    elsewhere[0].node = Some("node-b".into());
    assert!(lacks(elsewhere));
    assert!(!lacks(endpoints(&[1])));
    assert!(!lacks(Vec::new()));
}

/// A Service without problems has none, also after it had one.
#[test]
fn a_problem_ends_with_its_cause() {
    let mut store = Store::default();
    let mut bad = service();
    bad.external_ips = [address("127.0.0.1")].into();
    store.apply(Change::ServicesReplaced(vec![bad]));
    store.apply(Change::EndpointSlicesReplaced(Vec::new()));
    let mut state = DesiredState::from_store(Arc::new(config()), &store);
    let reasons = |state: &DesiredState| {
        let problems = state.problems().into_iter();
        problems.map(|problem| problem.reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(&state), [Reason::AddressRefused]);
    store.apply(Change::ServiceApplied(service()));
    for name in store.take_touched() {
        state.update(
            &name,
            store.get(&name),
            &mut proxier::desired::Touched::default(),
        );
    }
    assert_eq!(reasons(&state), []);
}

/// An operator's Service CIDR that contains pods is a mistake; the API's is only shared.
#[test]
fn a_service_cidr_with_pods_in_it() {
    let cidr = |text: &str| text.parse().unwrap();
    let mut named = config();
    named.service_cidrs = vec![cidr("10.96.0.0/12")];
    named.cluster_cidrs = vec![cidr("10.100.0.0/16")];
    assert!(named.following(None, &[]).is_err());
    let mut followed = config();
    followed.cluster_cidrs = named.cluster_cidrs.clone();
    followed.follow_node = FollowNode::default().with_service_cidrs(true);
    let followed = followed.following(None, &[cidr("10.96.0.0/12")]).unwrap();
    assert_eq!(followed.shared_cidrs, [cidr("10.96.0.0/12")]);
}
