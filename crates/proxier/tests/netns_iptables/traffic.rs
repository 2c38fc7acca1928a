//! Real clients and endpoints: the table of docs/traffic.md, as for the IPVS backend.

use std::path::Path;
use std::time::Duration;

use proxier::mode::iptables;
use proxier::mode::trace::Surroundings;
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, ObjectName, PortName, Service, ServicePort,
};
use proxier::source::manifest::parse;
use testbed::traffic::{Cluster, NEW_ADDRESS_V4, NEW_ADDRESS_V6, manifest, table};
use testbed::{
    Backend, Client, POD_CIDR_V4, POD_CIDR_V6, Protocol, SERVICE_CIDR_V4, SERVICE_CIDR_V6,
    Topology, eventually,
};

use super::table_traces::{addresses, deviations};
use super::*;

/// All except SCTP, for which not every kernel has sockets.
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// The node that svcproxy runs on.
fn settings(topology: &Topology) -> Config {
    let node = &topology.node().host;
    let mut config = Config::new("node-a", vec![node.v4.into(), node.v6.into()]);
    let cidrs = |cidrs: [&str; 2]| cidrs.map(|cidr| cidr.parse().unwrap()).to_vec();
    config.cluster_cidrs = cidrs([POD_CIDR_V4, POD_CIDR_V6]);
    config.service_cidrs = cidrs([SERVICE_CIDR_V4, SERVICE_CIDR_V6]);
    config
}

fn whole_table(flavour: Flavour, protocols: &[Protocol]) {
    let topology = Topology::new("table", &[2, 2]).unwrap();
    whole_table_over(&topology, flavour, protocols);
}

fn whole_table_over(topology: &Topology, flavour: Flavour, protocols: &[Protocol]) {
    let cluster = Cluster::with_protocols(topology, protocols).unwrap();
    let reading = parse(Path::new("services.yaml"), &manifest());
    assert!(!reading.has_errors(), "{:#?}", reading.diagnostics);
    let state = desired(&reading.changes, &Arc::new(settings(topology)));
    assert_eq!(state.problems(), []);
    let host = &topology.node().host;
    host.enter(|| {
        let mut backend = backend(flavour);
        let mut node = backend.observe().unwrap();
        let plan = Plan::new(&state, &node, Scope::Full);
        apply(&mut backend, &plan, &mut node);
    });
    // Without becoming the source of the node's own connections.
    host.ip(&[
        format!("address add {NEW_ADDRESS_V4}/16 dev eth0"),
        format!("address add {NEW_ADDRESS_V6}/64 dev eth0 nodad preferred_lft 0"),
    ])
    .unwrap();
    let table = table().unwrap();
    let failures = cluster.failures(&table);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // What the rules are said to do is what they do.
    let node = host.enter(|| backend(flavour).observe().unwrap());
    let own = addresses(topology);
    let is_own = |address| own.contains(&address);
    let deviations = deviations(&cluster.packets(&table), |packet| {
        let rules = node.rules(packet.family());
        iptables::trace(rules, packet, Surroundings::new(&is_own))
    });
    assert!(deviations.is_empty(), "{}", deviations.join("\n"));
}

#[test]
#[ignore = "netns: needs root"]
fn whole_table_by_nft() {
    whole_table(Flavour::Nft, &PROTOCOLS);
}

#[test]
#[ignore = "netns: needs root"]
fn whole_table_by_legacy() {
    whole_table(Flavour::Legacy, &PROTOCOLS);
}

/// kubernetes/kubernetes#59656: Docker sets the policy of FORWARD to drop.
#[test]
#[ignore = "netns: needs root"]
fn whole_table_under_policies_that_drop() {
    let topology = Topology::new("drop", &[2, 2]).unwrap();
    let families = [
        ("iptables-nft-restore", testbed::Family::V4),
        ("ip6tables-nft-restore", testbed::Family::V6),
    ];
    for (program, family) in families {
        let firewall = testbed::traffic::firewall(family);
        let node = &topology.node().host;
        node.run_with_input([program], &firewall).unwrap();
    }
    whole_table_over(&topology, Flavour::Nft, &PROTOCOLS);
}

#[test]
#[ignore = "kernel: needs SCTP"]
fn kernel_whole_table_of_sctp_by_nft() {
    whole_table(Flavour::Nft, &[Protocol::Sctp]);
}

#[test]
#[ignore = "kernel: needs SCTP"]
fn kernel_whole_table_of_sctp_by_legacy() {
    whole_table(Flavour::Legacy, &[Protocol::Sctp]);
}

/// Datagrams of one socket, a flow to connection tracking, from a client outside, a pod and the
/// node itself.
#[test]
#[ignore = "netns: needs root"]
fn datagrams_of_a_removed_endpoint_move_on() {
    for flavour in FLAVOURS {
        let topology = Topology::new("flows", &[3]).unwrap();
        let node = topology.node();
        let pods = [&node.pods[0], &node.pods[1]];
        let _backends = pods.map(|pod| {
            let address = (pod.v4, 5353).into();
            Backend::start(pod, Protocol::Udp, address, pod.name()).unwrap()
        });
        let config = Arc::new(settings(&topology));
        let mut proxier = Proxier::new(config, Iptables::new(node.host.enter(|| backend(flavour))));
        let mut sync = |changes: Vec<Change>| {
            let report = node
                .host
                .enter(|| proxier.handle(changes))
                .unwrap()
                .unwrap();
            assert!(report.is_success(), "{report:#?}");
            report.applied.counts.flows
        };
        let name = ObjectName::new("default", "dns").unwrap();
        let mut service = Service::new(name.clone());
        let mut port = ServicePort::new(
            PortName::UNNAMED,
            proxier::model::Protocol::Udp,
            53.try_into().unwrap(),
        );
        port.node_port = Some(30053.try_into().unwrap());
        service.cluster_ips = [[10, 96, 0, 10].into()].into();
        service.ports = [port].into();
        let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
        let target = EndpointPort::new(
            PortName::UNNAMED,
            proxier::model::Protocol::Udp,
            5353.try_into().unwrap(),
        );
        slice.ports = [target].into();
        let mut to = |pods: &[&testbed::Host]| {
            let endpoints = pods.iter().map(|pod| Endpoint::new(pod.v4.into()));
            slice.endpoints = endpoints.collect();
            Change::EndpointSliceApplied(slice.clone())
        };
        sync(vec![
            Change::ServicesReplaced(vec![service]),
            Change::EndpointSlicesReplaced(vec![]),
            to(&pods[..1]),
        ]);

        let node_port = (node.host.v4, 30053).into();
        let cluster_ip = ([10, 96, 0, 10], 53).into();
        let ways = [
            (&topology.client, node_port),
            (&node.pods[2], cluster_ip),
            (&node.host, cluster_ip),
        ];
        let mut flows = ways.map(|(from, to)| {
            let client = Client::new(Protocol::Udp, to).timeout(Duration::from_secs(5));
            client.connect(from).unwrap()
        });
        for flow in &mut flows {
            assert_eq!(flow.ask().unwrap().backend, pods[0].name());
        }
        // No flow is deleted while the endpoint exists.
        assert_eq!(sync(vec![to(&pods)]), 0);
        for flow in &mut flows {
            assert_eq!(flow.ask().unwrap().backend, pods[0].name());
        }
        assert_eq!(sync(vec![to(&pods[1..])]), 3);
        for flow in &mut flows {
            assert_eq!(flow.ask().unwrap().backend, pods[1].name());
        }
        // Also after a time without endpoints.
        sync(vec![to(&[])]);
        for flow in &mut flows {
            assert!(flow.ask().is_err());
        }
        sync(vec![to(&pods[..1])]);
        for flow in &mut flows {
            // The socket may first report the rejection of an earlier datagram.
            let answer = eventually(Duration::from_secs(10), || flow.ask());
            assert_eq!(answer.unwrap().backend, pods[0].name());
        }
    }
}
