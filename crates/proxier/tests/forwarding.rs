//! Direct routing and tunnels, and the addresses where they cannot work.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::IpAddr;
use std::sync::Arc;

use ipvs::Tunnel;
use ipvs::ipvsadm::real_server;
use proxier::Proxier;
use proxier::desired::{Config, DesiredState, FrontendKey};
use proxier::mode::ipvs::plan::Purpose;
use proxier::mode::ipvs::{FakeNode, Ipvs, Kernel as _};
use proxier::mode::{limits, limits_of};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, Forwarding, ObjectName, PortName, Protocol,
    ProxyProtocol, Service, ServicePort, TrafficPolicy,
};
use proxier::store::{Change, Store};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config() -> Config {
    let mut config = Config::new("node-a", vec![address("192.0.2.1")]);
    config.service_cidrs.clear();
    config
}

/// A Service at 198.51.100.1:80, with endpoints 192.0.2.7 and 192.0.2.8 at this port.
fn web(forwarding: Forwarding, endpoint_port: u16) -> (Service, EndpointSlice) {
    let name = ObjectName::new("shop", "web").unwrap();
    let mut web = Service::new(name.clone());
    web.cluster_ips = [address("198.51.100.1")].into();
    web.forwarding = forwarding;
    let port = |number: u16| number.try_into().unwrap();
    web.ports = [ServicePort::new(PortName::UNNAMED, Protocol::Tcp, port(80))].into();
    let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
    let endpoint_port = EndpointPort::new(PortName::UNNAMED, Protocol::Tcp, port(endpoint_port));
    slice.ports = [endpoint_port].into();
    slice.endpoints = ["192.0.2.7", "192.0.2.8"]
        .map(|ip| Endpoint::new(address(ip)))
        .into();
    (web, slice)
}

fn changes((service, slice): (Service, EndpointSlice)) -> [Change; 2] {
    let services = Change::ServicesReplaced(vec![service]);
    [services, Change::EndpointSlicesReplaced(vec![slice])]
}

/// The rules of ipvsadm for what the node then has, sorted, and the problems.
fn served(config: Config, web: (Service, EndpointSlice)) -> (Vec<String>, Vec<String>) {
    let node = FakeNode::default();
    let data_plane = Ipvs::new(node.kernel().unwrap());
    let mut proxier = Proxier::new(Arc::new(config), data_plane);
    let report = proxier.handle(changes(web)).unwrap().unwrap();
    assert!(report.is_success(), "{:?}", report.applied);
    let rules = node.ipvs().client().unwrap().table().unwrap();
    let rules = rules.iter().flat_map(|entry| {
        let key = entry.virtual_server.server.key;
        let real_servers = entry.real_servers.iter();
        real_servers.map(move |real| real_server(&key, &real.server).to_string())
    });
    let mut rules: Vec<String> = rules.collect();
    rules.sort_unstable();
    let problems = proxier.problems();
    (rules, problems.iter().map(ToString::to_string).collect())
}

const DIRECT: [&str; 2] = [
    "-a -t 198.51.100.1:80 -r 192.0.2.7:80 -g -w 1",
    "-a -t 198.51.100.1:80 -r 192.0.2.8:80 -g -w 1",
];
const MASQUERADE: [&str; 2] = [
    "-a -t 198.51.100.1:80 -r 192.0.2.7:80 -m -w 1",
    "-a -t 198.51.100.1:80 -r 192.0.2.8:80 -m -w 1",
];

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn each_method_reaches_ipvs() {
    let of = |forwarding| served(config(), web(forwarding, 80));
    assert_eq!(
        of(Forwarding::Masquerade),
        (MASQUERADE.map(String::from).into(), none())
    );
    assert_eq!(
        of(Forwarding::DirectRouting),
        (DIRECT.map(String::from).into(), none())
    );
    let tunnel = DIRECT
        .map(|rule| rule.replace("-g -w 1", "-i -w 1 --tun-type ipip"))
        .into();
    assert_eq!(of(Forwarding::Tunnel(Tunnel::Ipip)), (tunnel, none()));
}

#[test]
fn weights_and_methods_go_together() {
    let (service, mut slice) = web(Forwarding::DirectRouting, 80);
    slice.endpoints[0].weight = 5;
    let (rules, _) = served(config(), (service, slice));
    assert_eq!(
        rules,
        [DIRECT[0].replace("-w 1", "-w 5"), DIRECT[1].to_owned()]
    );
}

/// Answers that do not pass the node must go to the client's own address.
#[test]
fn clients_are_not_masqueraded() {
    for (forwarding, masquerades) in [
        (Forwarding::Masquerade, true),
        (Forwarding::DirectRouting, false),
    ] {
        for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            let (mut service, mut slice) = web(forwarding, 80);
            service.external_ips = [address("203.0.113.1")].into();
            service.external_traffic_policy = policy;
            slice.endpoints[0].node = Some("node-a".into());
            let config = config();
            let masquerade = config.marks.masquerade();
            let node = FakeNode::default();
            let data_plane = Ipvs::new(node.kernel().unwrap());
            let mut proxier = Proxier::new(Arc::new(config), data_plane);
            proxier.handle(changes((service, slice))).unwrap();
            let elements = node.kernel().unwrap().observe().unwrap().elements;
            let key = FrontendKey::of(&"tcp 203.0.113.1:80".parse().unwrap()).unwrap();
            let mark = elements.mark(key, Purpose::Capture).unwrap().get();
            let is_masqueraded = masquerades && policy == TrafficPolicy::Cluster;
            assert_eq!(
                mark & masquerade != 0,
                is_masqueraded,
                "{forwarding:?} {policy:?}"
            );
            assert_eq!(proxier.problems(), []);
        }
    }
}

/// Such an address is served by masquerade, and a problem says why.
#[test]
fn what_cannot_work_is_a_problem() {
    let is_masquerade = |(rules, problems): (Vec<String>, Vec<String>), port: u16, why: &str| {
        let expected = MASQUERADE.map(|rule| rule.replace(":80 -m", &format!(":{port} -m")));
        assert_eq!(rules, expected);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(why), "{problems:?}");
    };
    let direct = Forwarding::DirectRouting;
    is_masquerade(
        served(config(), web(direct, 8080)),
        8080,
        "port of endpoint 192.0.2.7 is 8080",
    );
    let mut pods = config();
    pods.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    is_masquerade(
        served(pods, web(direct, 80)),
        80,
        "clients that are masqueraded",
    );
    let tunnel = Forwarding::Tunnel(Tunnel::Gue {
        port: 0,
        checksum: ipvs::TunnelChecksum::None,
    });
    is_masquerade(
        served(config(), web(tunnel, 80)),
        80,
        "the tunnel has port 0",
    );

    // A node port, beside a cluster IP that is served as asked for.
    let (mut service, slice) = web(direct, 80);
    service.ports[0].node_port = 30080.try_into().ok();
    let (rules, problems) = served(config(), (service, slice));
    assert_eq!(rules[2..], DIRECT);
    assert!(
        rules[..2]
            .iter()
            .all(|rule| rule.contains("-a -f") && rule.contains("-m"))
    );
    assert!(problems[0].contains("tcp node port 30080 (ipv4) is served by masquerade"));
}

/// Endpoints that expect a header with the client's address refuse connections without one.
#[test]
fn modes_without_the_proxy_protocol_say_so() {
    let (mut service, slice) = web(Forwarding::Masquerade, 80);
    service.proxy_protocol = Some(ProxyProtocol::V2);
    let mut store = Store::default();
    changes((service.clone(), slice.clone()))
        .into_iter()
        .for_each(|change| store.apply(change));
    let desired = DesiredState::from_store(Arc::new(config()), &store);
    let problems = limits(&desired, "nftables");
    let of_one = limits_of(&problems[0].service, &desired, "nftables");
    assert_eq!(of_one.collect::<Vec<_>>(), problems);
    let text = "Service shop/web: metadata.annotations[svcproxy.io/proxy-protocol]: ignored: mode \
                nftables sends no PROXY protocol, and endpoints that expect it refuse its connections";
    assert_eq!(problems[0].to_string(), text);
    let (_, problems) = served(config(), (service, slice));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("mode ipvs sends no PROXY protocol"));
}

#[test]
fn iptables_mode_says_that_it_masquerades() {
    let mut store = Store::default();
    changes(web(Forwarding::DirectRouting, 80))
        .into_iter()
        .for_each(|change| store.apply(change));
    let desired = DesiredState::from_store(Arc::new(config()), &store);
    let problems = limits(&desired, "iptables");
    let of_one = limits_of(&problems[0].service, &desired, "iptables");
    assert_eq!(of_one.collect::<Vec<_>>(), problems);
    let text = "Service shop/web: forwarding: mode iptables always masquerades";
    assert_eq!(problems[0].to_string(), text);
}
