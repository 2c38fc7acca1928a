//! Random API objects: few names, addresses and ports, so that Services collide, share endpoints
//! and change hands.

use std::fmt::Debug;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proxier::desired::Config;
use proxier::model::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Family, Hints, Node, ObjectName,
    PortName, Protocol, Service, ServicePort, SessionAffinity, TrafficPolicy,
};
use proxier::store::Change;

const SERVICES: u8 = 5;
const SLICES: u8 = 6;

/// One is outside of the Service CIDRs, one is the node's own.
const CLUSTER_IPS: [&str; 4] = ["10.96.0.1", "10.96.0.2", "172.20.0.1", "192.0.2.1"];
/// A cluster IP, the node's own address, another node's, and an excluded one.
const EXTERNAL_IPS: [&str; 5] = [
    "10.96.0.1",
    "192.0.2.1",
    "192.0.2.2",
    "198.51.100.9",
    "2001:db8::2",
];
const LOAD_BALANCER_IPS: [&str; 3] = ["203.0.113.1", "192.0.2.2", "2001:db8::3"];
const RANGES: [&str; 4] = [
    "198.18.0.0/15",
    "198.18.7.0/24",
    "2001:db8:1::/48",
    "0.0.0.0/0",
];

fn service_name(n: u8) -> ObjectName {
    let namespace = ["default", "kube-system"][usize::from(n % 2)];
    ObjectName::new(namespace, &format!("service-{n}")).unwrap()
}

fn slice_name(n: u8) -> ObjectName {
    ObjectName::new("default", &format!("slice-{n}")).unwrap()
}

fn port_name(n: u8) -> PortName {
    PortName::new(["", "metrics"][usize::from(n)]).unwrap()
}

fn port(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).unwrap()
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local])
}

fn some_of<T>(texts: &'static [&'static str]) -> impl Strategy<Value = Box<[T]>>
where
    T: FromStr + Debug + Clone,
    T::Err: Debug,
{
    let parse = |texts: Vec<&str>| {
        texts
            .into_iter()
            .map(|text| text.parse().unwrap())
            .collect()
    };
    subsequence(texts, 0..=texts.len().min(2)).prop_map(parse)
}

prop_compose! {
    fn ports()(
        ports in btree_map((0..2_u8, 80..82_u16), (protocol(), option::of(30080..30083_u16)), 0..3),
    ) -> Box<[ServicePort]> {
        let port = |((name, number), (protocol, node_port)): ((u8, u16), (Protocol, Option<u16>))| {
            let mut service_port = ServicePort::new(port_name(name), protocol, port(number));
            service_port.node_port = node_port.map(port);
            service_port
        };
        ports.into_iter().map(port).collect()
    }
}

prop_compose! {
    fn service()(
        name in 0..SERVICES,
        v4 in option::of(select(&CLUSTER_IPS[..])),
        v6 in option::of(Just("fd00:10:96::1")),
        ports in ports(),
        external_ips in some_of(&EXTERNAL_IPS),
        load_balancer_ips in some_of(&LOAD_BALANCER_IPS),
        ranges in some_of(&RANGES),
        policies in (policy(), policy()),
        affinity in option::of(1..3_u32),
        created in option::of(0..3_i64),
        health in option::of(Just(port(32000))),
    ) -> Service {
        let mut service = Service::new(service_name(name));
        service.cluster_ips = v4.into_iter().chain(v6).map(|ip| ip.parse().unwrap()).collect();
        service.ports = ports;
        if !service.cluster_ips.is_empty() {
            service.external_ips = external_ips;
            service.load_balancer_ips = load_balancer_ips;
        }
        service.load_balancer_source_ranges = ranges;
        (service.internal_traffic_policy, service.external_traffic_policy) = policies;
        if let Some(seconds) = affinity.and_then(NonZeroU32::new) {
            service.session_affinity = SessionAffinity::ClientIp(seconds);
        }
        service.created = created;
        service.health_check_node_port = health;
        service
    }
}

fn names(of: &'static [&'static str]) -> impl Strategy<Value = Box<[Arc<str>]>> {
    let names = |names: Vec<&str>| names.into_iter().map(Arc::from).collect();
    subsequence(of, 0..=of.len()).prop_map(names)
}

prop_compose! {
    fn endpoint()(
        host in 1..5_u8,
        conditions in (option::of(any::<bool>()), option::of(any::<bool>()), option::of(any::<bool>())),
        node in option::of(select(vec!["here", "there"])),
        hints in option::of((names(&["a", "b"]), names(&["here", "there"]))),
        weight in select(vec![0, 1, 1, 1, 3]),
        v6: bool,
    ) -> Endpoint {
        let address = if v6 { format!("fd00:10:244::{host}") } else { format!("10.244.0.{host}") };
        let mut endpoint = Endpoint::new(address.parse().unwrap());
        endpoint.conditions = EndpointConditions::new(conditions.0, conditions.1, conditions.2);
        endpoint.weight = weight;
        endpoint.node = node.map(Into::into);
        endpoint.hints = hints.map(|(zones, nodes)| Box::new(Hints::new(zones, nodes)));
        endpoint
    }
}

prop_compose! {
    fn slice()(
        name in 0..SLICES,
        service in 0..SERVICES,
        v6: bool,
        ports in btree_set((0..2_u8, protocol(), 8080..8082_u16), 0..3),
        endpoints in vec(endpoint(), 0..4),
    ) -> EndpointSlice {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut slice = EndpointSlice::new(slice_name(name), service_name(service), family);
        slice.ports = ports
            .into_iter()
            .map(|(name, protocol, number)| EndpointPort::new(port_name(name), protocol, port(number)))
            .collect();
        let of_family = |endpoint: &Endpoint| endpoint.address.is_ipv6() == v6;
        slice.endpoints = endpoints.into_iter().filter(of_family).collect();
        slice
    }
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => service().prop_map(Change::ServiceApplied),
        1 => (0..SERVICES).prop_map(|n| Change::ServiceDeleted(service_name(n))),
        1 => vec(service(), 0..4).prop_map(Change::ServicesReplaced),
        6 => slice().prop_map(Change::EndpointSliceApplied),
        1 => (0..SLICES).prop_map(|n| Change::EndpointSliceDeleted(slice_name(n))),
        1 => vec(slice(), 0..4).prop_map(Change::EndpointSlicesReplaced),
        1 => option::of(select(vec!["a", "b"])).prop_map(node),
    ]
}

/// This node's Node in a zone; without a zone, no Node.
fn node(zone: Option<&str>) -> Change {
    Change::NodeReplaced(zone.map(|zone| {
        let mut node = Node::new("here");
        node.zone = Some(zone.into());
        node
    }))
}

pub(crate) fn config(drain_seconds: u64) -> Arc<Config> {
    let node_ips: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"]
        .map(|ip| ip.parse().unwrap())
        .into();
    let mut config = Config::new("here", node_ips);
    config.service_cidrs = ["10.96.0.0/12", "fd00:10:96::/112"]
        .map(|cidr| cidr.parse().unwrap())
        .into();
    config.cluster_cidrs.push("10.244.0.0/16".parse().unwrap());
    config
        .exclude_cidrs
        .push("198.51.100.0/24".parse().unwrap());
    config.drain_timeout = std::time::Duration::from_secs(drain_seconds);
    config.follow_node.zone = true;
    config.validate().unwrap();
    Arc::new(config)
}
