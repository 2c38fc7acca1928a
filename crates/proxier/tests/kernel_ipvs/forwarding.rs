//! Direct routing and tunnels: the endpoints answer the client themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxier::Proxier;
use proxier::mode::ipvs::Ipvs;
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Forwarding, ObjectName, PortName, Service, ServicePort,
};
use proxier::store::Change as Changed;

use super::*;

const VIRTUAL_IPS: [&str; 2] = ["10.96.0.80", "203.0.113.80"];
const WEIGHTS: [(&str, u16); 2] = [("light", 1), ("heavy", 3)];
const ROUNDS: usize = 5;

/// A Service at both addresses, with these hosts as endpoints.
fn web(forwarding: Forwarding, hosts: &[&Host]) -> [Changed; 2] {
    let name = ObjectName::new("shop", "web").unwrap();
    let port = PORT.try_into().unwrap();
    let mut service = Service::new(name.clone());
    service.cluster_ips = [VIRTUAL_IPS[0].parse().unwrap()].into();
    service.external_ips = [VIRTUAL_IPS[1].parse().unwrap()].into();
    service.ports = [ServicePort::new(
        PortName::UNNAMED,
        ipvs::Protocol::Tcp,
        port,
    )]
    .into();
    service.forwarding = forwarding;
    let mut slice = EndpointSlice::new(name.clone(), name, ipvs::Family::V4);
    slice.ports = [EndpointPort::new(
        PortName::UNNAMED,
        ipvs::Protocol::Tcp,
        port,
    )]
    .into();
    let endpoints = hosts.iter().zip(WEIGHTS).map(|(host, (_, weight))| {
        let mut endpoint = Endpoint::new(host.v4.into());
        endpoint.weight = weight;
        endpoint
    });
    slice.endpoints = endpoints.collect();
    let services = Changed::ServicesReplaced(vec![service]);
    [services, Changed::EndpointSlicesReplaced(vec![slice])]
}

/// Makes a host accept packets to the virtual IPs, plain or in a tunnel.
fn accept(host: &Host) {
    host.sysctl("net/ipv4/conf/all/arp_ignore", "1").unwrap();
    let addresses = VIRTUAL_IPS.map(|vip| format!("address add {vip}/32 dev lo"));
    host.ip(&addresses).unwrap();
    host.ip(&["link set tunl0 up"]).unwrap();
    for device in ["all", "tunl0"] {
        let name = format!("net/ipv4/conf/{device}/rp_filter");
        host.sysctl(&name, "0").unwrap();
    }
}

#[test]
#[ignore = "kernel: needs IPVS; a whole node's data plane"]
fn endpoints_answer_clients_themselves_by_weight() {
    load_modules();
    let tunnels = Command::new("modprobe").arg("ipip").status().unwrap();
    assert!(tunnels.success());
    let topology = Topology::new("direct", &[0, 0, 0]).unwrap();
    let [director, servers @ ..] = &topology.nodes[..] else {
        unreachable!("three nodes");
    };
    let servers: Vec<_> = servers.iter().map(|node| &node.host).collect();
    let mut backends = Vec::new();
    for (host, (name, _)) in servers.iter().zip(WEIGHTS) {
        accept(host);
        let listen = |vip: &str| {
            let address = SocketAddr::new(vip.parse().unwrap(), PORT);
            Backend::start(host, Protocol::Tcp, address, name).unwrap()
        };
        backends.extend(VIRTUAL_IPS.map(listen));
    }
    // No network of pods: no client is masqueraded.
    let mut config = config(&director.host);
    config.cluster_cidrs.clear();
    let backend = director.host.enter(|| IpvsKernel::open().unwrap());
    let mut proxier = Proxier::new(Arc::new(config), Ipvs::new(backend));

    let client = &topology.client;
    for method in [
        Forwarding::DirectRouting,
        Forwarding::Tunnel(ipvs::Tunnel::Ipip),
    ] {
        let changes = web(method, &servers);
        let report = director.host.enter(|| proxier.handle(changes)).unwrap();
        let report = report.unwrap();
        assert!(report.is_success(), "{method:?}: {:?}", report.applied);
        assert_eq!(proxier.problems(), []);
        for vip in VIRTUAL_IPS {
            let to = SocketAddr::new(vip.parse().unwrap(), PORT);
            let mut answers = BTreeMap::new();
            // Weighted round robin takes each endpoint as often as its weight says, in four.
            for _ in 0..4 * ROUNDS {
                let answer = Client::new(Protocol::Tcp, to).timeout(PATIENCE).ask(client);
                let answer = answer.unwrap_or_else(|error| panic!("{method:?} {vip}: {error}"));
                assert_eq!(answer.seen_source.ip(), IpAddr::from(client.v4));
                *answers.entry(answer.backend).or_insert(0) += 1;
            }
            let expected =
                WEIGHTS.map(|(name, weight)| (name.to_owned(), ROUNDS * usize::from(weight)));
            assert_eq!(answers, BTreeMap::from(expected), "{method:?} {vip}");
        }
    }
    drop(backends);
}
