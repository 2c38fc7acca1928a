//! Real clients and endpoints: the table of docs/traffic.md, as for the other modes.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use proxier::mode::nftables::{Ruleset, trace};
use proxier::mode::trace::Surroundings;
use proxier::source::manifest::parse;
use testbed::traffic::{Cluster, NEW_ADDRESS_V4, NEW_ADDRESS_V6, manifest, table};
use testbed::{Client, Protocol as Transport, Topology, eventually};

use super::lab::{Lab, answers, backends, settings};
use super::table_traces::{addresses, deviations};
use super::*;

/// All except SCTP, for which not every kernel has sockets.
const PROTOCOLS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

fn whole_table(protocols: &[Transport]) {
    let topology = Topology::new("table", &[2, 2]).unwrap();
    let cluster = Cluster::with_protocols(&topology, protocols).unwrap();
    let reading = parse(Path::new("services.yaml"), &manifest());
    assert!(!reading.has_errors(), "{:#?}", reading.diagnostics);
    let state = desired(&reading.changes, &Arc::new(settings(&topology)));
    assert_eq!(state.problems(), []);
    let host = &topology.node().host;
    host.enter(|| {
        let mut backend = NftablesKernel::open().unwrap();
        let mut node = backend.observe().unwrap();
        apply(
            &mut backend,
            &Plan::new(&state, &node, Scope::Full),
            &mut node,
        );
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
    let node = host.enter(|| NftablesKernel::open().unwrap().observe().unwrap());
    let ruleset = Ruleset::new(state.config());
    assert_eq!(node.ruleset, Some(ruleset.fingerprint()));
    let own = addresses(&topology);
    let is_own = |address| own.contains(&address);
    let deviations = deviations(&cluster.packets(&table), |packet| {
        trace(Some(&ruleset), &node, packet, Surroundings::new(&is_own))
    });
    assert!(deviations.is_empty(), "{}", deviations.join("\n"));
}

#[test]
#[ignore = "netns: needs root"]
fn whole_table_in_mode_nftables() {
    whole_table(&PROTOCOLS);
}

#[test]
#[ignore = "kernel: needs SCTP"]
fn kernel_whole_table_of_sctp_in_mode_nftables() {
    whole_table(&[Transport::Sctp]);
}

fn lab(topology: &Topology, protocol: Protocol, number: u16) -> Lab<'_, Nftables> {
    let backend = topology
        .node()
        .host
        .enter(|| NftablesKernel::open().unwrap());
    let data_plane = Nftables::new(backend);
    Lab::new(topology, settings(topology), data_plane, protocol, number)
}

/// Datagrams of one socket, a flow to connection tracking, from a client outside, a pod and the
/// node itself.
#[test]
#[ignore = "netns: needs root"]
fn datagrams_of_a_removed_endpoint_move_on() {
    let topology = Topology::new("flows", &[3]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1]];
    let _backends = backends(&pods, Transport::Udp);
    let mut lab = lab(&topology, Protocol::Udp, 53);
    lab.serve(&pods[..1]);
    let node_port = (node.host.v4, 30053).into();
    let cluster_ip = ([10, 96, 0, 10], 53).into();
    let ways = [
        (&topology.client, node_port),
        (&node.pods[2], cluster_ip),
        (&node.host, cluster_ip),
    ];
    let mut flows = ways.map(|(from, to)| {
        let client = Client::new(Transport::Udp, to).timeout(Duration::from_secs(5));
        client.connect(from).unwrap()
    });
    for flow in &mut flows {
        assert_eq!(flow.ask().unwrap().backend, pods[0].name());
    }
    // No flow is deleted while the endpoint exists.
    assert_eq!(lab.serve(&pods), 0);
    for flow in &mut flows {
        assert_eq!(flow.ask().unwrap().backend, pods[0].name());
    }
    assert_eq!(lab.serve(&pods[1..]), 3);
    for flow in &mut flows {
        assert_eq!(flow.ask().unwrap().backend, pods[1].name());
    }
    // Also after a time without endpoints.
    lab.serve(&[]);
    for flow in &mut flows {
        assert!(flow.ask().is_err());
    }
    lab.serve(&pods[..1]);
    for flow in &mut flows {
        // The socket may first report the rejection of an earlier datagram.
        let answer = eventually(Duration::from_secs(10), || flow.ask());
        assert_eq!(answer.unwrap().backend, pods[0].name());
    }
}

/// Connections to a removed endpoint go on, and new ones go elsewhere.
#[test]
#[ignore = "netns: needs root"]
fn connections_of_a_removed_endpoint_drain() {
    let topology = Topology::new("drain", &[3]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1]];
    let _backends = backends(&pods, Transport::Tcp);
    let mut lab = lab(&topology, Protocol::Tcp, 80);
    lab.serve(&pods[..1]);
    let to = ([10, 96, 0, 10], 80).into();
    let client = Client::new(Transport::Tcp, to);
    let mut old = client.connect(&node.pods[2]).unwrap();
    assert_eq!(old.ask().unwrap().backend, pods[0].name());
    lab.serve(&pods[1..]);
    assert_eq!(old.ask().unwrap().backend, pods[0].name());
    for _ in 0..8 {
        let answer = client.ask(&node.pods[2]).unwrap();
        assert_eq!(answer.backend, pods[1].name());
    }
    assert_eq!(old.ask().unwrap().backend, pods[0].name());
}

/// A client keeps its endpoint, also when others come and go, and gets another one when it goes.
#[test]
#[ignore = "netns: needs root"]
fn a_client_keeps_its_endpoint_while_it_is_one() {
    let topology = Topology::new("affinity", &[4]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1], &node.pods[2]];
    let _backends = backends(&pods, Transport::Tcp);
    let mut lab = lab(&topology, Protocol::Tcp, 80);
    let seconds = NonZeroU32::new(60).unwrap();
    lab.service.session_affinity = SessionAffinity::ClientIp(seconds);
    lab.serve(&pods);
    for (from, to) in [
        (&node.pods[3], ([10, 96, 0, 10], 80).into()),
        (&topology.client, (node.host.v4, 30080).into()),
    ] {
        let client = Client::new(Transport::Tcp, to);
        let kept = client.ask(from).unwrap().backend;
        assert_eq!(answers(from, &client, 12), [(kept.clone(), 12)].into());
        let others: Vec<_> = pods.into_iter().filter(|pod| pod.name() != kept).collect();
        // One of the others goes; all come back.
        let own = pods.into_iter().find(|pod| pod.name() == kept).unwrap();
        lab.serve(&[own, others[0]]);
        assert_eq!(answers(from, &client, 6), [(kept.clone(), 6)].into());
        lab.serve(&pods);
        assert_eq!(answers(from, &client, 6), [(kept.clone(), 6)].into());
        // Its own goes: it keeps the next one, also when the first is back.
        lab.serve(&others);
        let next = client.ask(from).unwrap().backend;
        assert_ne!(next, kept);
        assert_eq!(answers(from, &client, 12), [(next.clone(), 12)].into());
        lab.serve(&pods);
        assert_eq!(answers(from, &client, 12), [(next, 12)].into());
    }
}

#[test]
#[ignore = "netns: needs root"]
fn weights_decide_how_many_connections_an_endpoint_gets() {
    let topology = Topology::new("weights", &[3]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1]];
    let _backends = backends(&pods, Transport::Tcp);
    let mut lab = lab(&topology, Protocol::Tcp, 80);
    lab.serve(&pods);
    let mut heavy = Endpoint::new(pods[0].v4.into());
    heavy.weight = 30;
    let mut light = Endpoint::new(pods[1].v4.into());
    light.weight = 10;
    lab.slice.endpoints = [heavy, light].into();
    lab.handle(vec![Change::EndpointSliceApplied(lab.slice.clone())]);
    let client = Client::new(Transport::Tcp, ([10, 96, 0, 10], 80).into());
    let answers = answers(&node.pods[2], &client, 200);
    // 150 are expected; 6 standard deviations are 37.
    let of_heavy = answers[pods[0].name()];
    assert!((113..=187).contains(&of_heavy), "{answers:?}");
}
