//! Real clients and endpoints: the table of docs/traffic.md, as for the other modes.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use proxier::mode::nftables::{Ruleset, trace};
use proxier::mode::trace::Surroundings;
use proxier::source::manifest::parse;
use testbed::traffic::{Cluster, NEW_ADDRESS_V4, NEW_ADDRESS_V6, manifest, table};
use testbed::{
    Backend, Client, POD_CIDR_V4, POD_CIDR_V6, Protocol as Transport, SERVICE_CIDR_V4,
    SERVICE_CIDR_V6, Topology, eventually,
};

use super::table_traces::{addresses, deviations};
use super::*;

/// All except SCTP, for which not every kernel has sockets.
const PROTOCOLS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// The node that svcproxy runs on.
fn settings(topology: &Topology) -> Config {
    let node = &topology.node().host;
    let mut config = Config::new("node-a", vec![node.v4.into(), node.v6.into()]);
    let cidrs = |cidrs: [&str; 2]| cidrs.map(|cidr| cidr.parse().unwrap()).to_vec();
    config.cluster_cidrs = cidrs([POD_CIDR_V4, POD_CIDR_V6]);
    config.service_cidrs = cidrs([SERVICE_CIDR_V4, SERVICE_CIDR_V6]);
    config
}

fn whole_table(protocols: &[Transport]) {
    let topology = Topology::new("table", &[2, 2]).unwrap();
    let cluster = Cluster::with_protocols(&topology, protocols).unwrap();
    let reading = parse(Path::new("services.yaml"), &manifest());
    assert!(!reading.has_errors(), "{:#?}", reading.diagnostics);
    let state = desired(&reading.changes, &Arc::new(settings(&topology)));
    assert_eq!(state.problems(), []);
    let host = &topology.node().host;
    host.enter(|| {
        let mut backend = NftablesBackend::open().unwrap();
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
    let node = host.enter(|| NftablesBackend::open().unwrap().observe().unwrap());
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

/// A proxier on a node with pods, and a Service that it serves.
struct Lab<'a> {
    topology: &'a Topology,
    proxier: Proxier<Nftables>,
    service: Service,
    slice: EndpointSlice,
}

impl<'a> Lab<'a> {
    fn new(topology: &'a Topology, protocol: Protocol, number: u16) -> Self {
        let node = &topology.node().host;
        let backend = node.enter(|| NftablesBackend::open().unwrap());
        let config = Arc::new(settings(topology));
        let name = ObjectName::new("default", "web").unwrap();
        let mut service = Service::new(name.clone());
        let mut of = ServicePort::new(PortName::UNNAMED, protocol, port(number));
        of.node_port = Some(port(30_000 + number));
        service.cluster_ips = [[10, 96, 0, 10].into()].into();
        service.ports = [of].into();
        let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
        slice.ports = [EndpointPort::new(PortName::UNNAMED, protocol, port(5353))].into();
        let mut lab = Self {
            topology,
            proxier: Proxier::new(config, Nftables::new(backend)),
            service,
            slice,
        };
        lab.handle(vec![
            Change::ServicesReplaced(vec![]),
            Change::EndpointSlicesReplaced(vec![]),
        ]);
        lab
    }

    /// Returns the number of flows that were deleted.
    fn handle(&mut self, changes: Vec<Change>) -> u64 {
        let node = &self.topology.node().host;
        let report = node
            .enter(|| self.proxier.handle(changes))
            .unwrap()
            .unwrap();
        assert!(report.is_success(), "{report:#?}");
        report.applied.counts.flows
    }

    fn serve(&mut self, pods: &[&testbed::Host]) -> u64 {
        let endpoints = pods.iter().map(|pod| Endpoint::new(pod.v4.into()));
        self.slice.endpoints = endpoints.collect();
        self.handle(vec![
            Change::ServiceApplied(self.service.clone()),
            Change::EndpointSliceApplied(self.slice.clone()),
        ])
    }
}

fn backends(pods: &[&testbed::Host], protocol: Transport) -> Vec<Backend> {
    let start = |pod: &&testbed::Host| {
        Backend::start(pod, protocol, (pod.v4, 5353).into(), pod.name()).unwrap()
    };
    pods.iter().map(start).collect()
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
    let mut lab = Lab::new(&topology, Protocol::Udp, 53);
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
    let mut lab = Lab::new(&topology, Protocol::Tcp, 80);
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

/// How often each endpoint answers.
fn answers(from: &testbed::Host, client: &Client, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        *answers
            .entry(client.ask(from).unwrap().backend)
            .or_default() += 1;
    }
    answers
}

/// A client keeps its endpoint, also when others come and go, and gets another one when it goes.
#[test]
#[ignore = "netns: needs root"]
fn a_client_keeps_its_endpoint_while_it_is_one() {
    let topology = Topology::new("affinity", &[4]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1], &node.pods[2]];
    let _backends = backends(&pods, Transport::Tcp);
    let mut lab = Lab::new(&topology, Protocol::Tcp, 80);
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
    let mut lab = Lab::new(&topology, Protocol::Tcp, 80);
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
