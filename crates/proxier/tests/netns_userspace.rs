//! Userspace mode in network namespaces of this machine: the table of docs/traffic.md with its
//! differences, and what happens to open connections and flows.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "kernel_ipvs/lab.rs"]
mod lab;

use std::net::{IpAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxier::mode::userspace::{Userspace, UserspaceProxy, remove_routes, routes};
use proxier::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort, SessionAffinity,
};
use proxier::notice::Reason;
use proxier::source::manifest::parse;
use proxier::store::Change;
use proxier::{Proxier, Runtime};
use testbed::traffic::{
    Cell, Cluster, Expected, NEW_ADDRESS_V4, NEW_ADDRESS_V6, Seen, Service as Kind, Way, Who,
    manifest, table,
};
use testbed::{AskError, Client, Protocol as Transport, SERVICE_CIDR_V4, Topology, eventually};

use lab::{Lab, answers, backends, port, settings};

/// A proxy on the first node; its threads are in the node's namespace.
fn proxy(topology: &Topology) -> (Runtime, UserspaceProxy) {
    topology.node().host.enter(|| {
        let runtime = Runtime::start().unwrap();
        let backend = UserspaceProxy::open(&runtime).unwrap();
        (runtime, backend)
    })
}

/// What the table says of the other modes, in this one: `None` if it does not serve the address.
fn differently(cell: Cell, transport: Transport) -> Option<Cell> {
    let expected = match cell.expected {
        _ if cell.way == Way::OtherNodesIp => return None,
        // The endpoint's client is the proxy.
        Expected::Reached { who, .. } if who != Who::Owner => Expected::Reached {
            who,
            see: Seen::Node,
            itself: Seen::Node,
        },
        Expected::Refused
            if transport == Transport::Tcp
                && matches!(cell.service, Kind::Nobody | Kind::NobodyLocal) =>
        {
            Expected::Reset
        }
        as_others => as_others,
    };
    Some(Cell { expected, ..cell })
}

fn whole_table(transport: Transport) {
    let topology = Topology::new("table", &[2, 2]).unwrap();
    let protocols = [transport];
    let cluster = Cluster::with_protocols(&topology, &protocols).unwrap();
    let reading = parse(Path::new("services.yaml"), &manifest());
    assert!(!reading.has_errors(), "{:#?}", reading.diagnostics);
    let (_runtime, backend) = proxy(&topology);
    let mut proxier = Proxier::new(Arc::new(settings(&topology)), Userspace::new(backend));
    let host = &topology.node().host;
    let report = host.enter(|| proxier.handle(reading.changes).unwrap().unwrap());
    assert!(report.is_success(), "{report:#?}");
    // Without becoming the source of the node's own connections.
    host.ip(&[
        format!("address add {NEW_ADDRESS_V4}/16 dev eth0"),
        format!("address add {NEW_ADDRESS_V6}/64 dev eth0 nodad preferred_lft 0"),
    ])
    .unwrap();
    let report = host.enter(|| proxier.audit().unwrap().unwrap());
    assert!(report.is_success(), "{report:#?}");
    let cells = table().unwrap();
    let cells = cells
        .into_iter()
        .filter_map(|cell| differently(cell, transport));
    let failures = cluster.failures(&cells.collect::<Vec<_>>());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Addresses of other machines, and SCTP.
    let problems = proxier.problems();
    let other = topology.nodes[1].host.v4.to_string();
    let others = problems.iter().filter(|one| one.message.contains(&other));
    assert!(others.count() > 0, "{problems:#?}");
    host.enter(|| {
        drop(proxier);
        assert_ne!(remove_routes().unwrap(), [""; 0]);
        assert_eq!(routes().unwrap(), [""; 0]);
    });
}

#[test]
#[ignore = "netns: needs root"]
fn whole_table_of_tcp() {
    whole_table(Transport::Tcp);
}

#[test]
#[ignore = "netns: needs root"]
fn whole_table_of_udp() {
    whole_table(Transport::Udp);
}

fn lab(topology: &Topology, protocol: Protocol, number: u16) -> (Runtime, Lab<'_, Userspace>) {
    let (runtime, backend) = proxy(topology);
    let mut config = settings(topology);
    config.drain_timeout = Duration::from_secs(60);
    let lab = Lab::new(topology, config, Userspace::new(backend), protocol, number);
    (runtime, lab)
}

/// Drains at a later time. Returns the number of steps.
fn drain(lab: &mut Lab<'_, Userspace>, after: Duration) -> usize {
    let node = &lab.topology.node().host;
    let drained = node
        .enter(|| lab.proxier.drain(Instant::now() + after))
        .unwrap();
    drained.map_or(0, |report| report.plan.steps().len())
}

#[test]
#[ignore = "netns: needs root"]
fn datagrams_of_a_removed_endpoint_move_on() {
    let topology = Topology::new("flows", &[3]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1]];
    let _backends = backends(&pods, Transport::Udp);
    let (_runtime, mut lab) = lab(&topology, Protocol::Udp, 53);
    lab.serve(&pods[..1]);
    let cluster_ip = ([10, 96, 0, 10], 53).into();
    let ways = [
        (&topology.client, (node.host.v4, 30053).into()),
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
    lab.serve(&pods);
    for flow in &mut flows {
        assert_eq!(flow.ask().unwrap().backend, pods[0].name());
    }
    lab.serve(&pods[1..]);
    for flow in &mut flows {
        let answer = eventually(Duration::from_secs(10), || flow.ask());
        assert_eq!(answer.unwrap().backend, pods[1].name());
    }
    // Also after a time without endpoints, in which the kernel answers.
    lab.serve(&[]);
    for flow in &mut flows {
        let refused = || match flow.ask() {
            Err(AskError::Refused) => Ok(()),
            other => Err(format!("{other:?}")),
        };
        eventually(Duration::from_secs(10), refused).unwrap();
    }
    lab.serve(&pods[..1]);
    for flow in &mut flows {
        let answer = eventually(Duration::from_secs(10), || flow.ask());
        assert_eq!(answer.unwrap().backend, pods[0].name());
    }
}

/// Connections to a removed endpoint go on until the drain timeout, and new ones go elsewhere.
#[test]
#[ignore = "netns: needs root"]
fn connections_of_a_removed_endpoint_drain() {
    let topology = Topology::new("drain", &[3]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1]];
    let _backends = backends(&pods, Transport::Tcp);
    let (_runtime, mut lab) = lab(&topology, Protocol::Tcp, 80);
    lab.serve(&pods[..1]);
    let client = Client::new(Transport::Tcp, ([10, 96, 0, 10], 80).into());
    let mut old = client.connect(&node.pods[2]).unwrap();
    assert_eq!(old.ask().unwrap().backend, pods[0].name());
    lab.serve(&pods[1..]);
    assert!(lab.proxier.is_draining());
    assert_eq!(old.ask().unwrap().backend, pods[0].name());
    for _ in 0..8 {
        let answer = client.ask(&node.pods[2]).unwrap();
        assert_eq!(answer.backend, pods[1].name());
    }
    assert_eq!(drain(&mut lab, Duration::from_secs(50)), 0);
    assert_eq!(old.ask().unwrap().backend, pods[0].name());
    assert_eq!(drain(&mut lab, Duration::from_secs(60)), 1);
    assert!(old.ask().is_err());
    assert!(!lab.proxier.is_draining());
    // What has ended by itself needs no timeout.
    let mut old = client.connect(&node.pods[2]).unwrap();
    old.ask().unwrap();
    lab.serve(&pods[..1]);
    assert!(lab.proxier.is_draining());
    drop(old);
    eventually(Duration::from_secs(10), || {
        match drain(&mut lab, Duration::ZERO) {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .unwrap();
}

/// What a deleted Service leaves: nothing that listens, and node ports drain as in mode ipvs.
#[test]
#[ignore = "netns: needs root"]
fn a_deleted_service_closes_its_listeners() {
    let topology = Topology::new("deleted", &[3]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0]];
    let _backends = backends(&pods, Transport::Tcp);
    let (_runtime, mut lab) = lab(&topology, Protocol::Tcp, 80);
    lab.serve(&pods);
    let cluster_ip = Client::new(Transport::Tcp, ([10, 96, 0, 10], 80).into());
    let node_port = Client::new(Transport::Tcp, (node.host.v4, 30080).into());
    let mut to_vip = cluster_ip.connect(&node.pods[2]).unwrap();
    let mut to_port = node_port.connect(&topology.client).unwrap();
    to_vip.ask().unwrap();
    to_port.ask().unwrap();
    lab.handle(vec![Change::ServiceDeleted(lab.service.name.clone())]);
    assert!(to_vip.ask().is_err());
    to_port.ask().unwrap();
    assert_eq!(cluster_ip.ask(&node.pods[2]), Err(AskError::Refused));
    assert_eq!(node_port.ask(&topology.client), Err(AskError::Refused));
}

/// A new process serves at once what the earlier one served, with the routes that it left.
#[test]
#[ignore = "netns: needs root"]
fn a_restart_adopts_the_routes() {
    let topology = Topology::new("restart", &[2]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0]];
    let _backends = backends(&pods, Transport::Tcp);
    let client = Client::new(Transport::Tcp, ([10, 96, 0, 10], 80).into());
    let mut routes_before = None;
    for _ in 0..3 {
        let (_runtime, mut lab) = lab(&topology, Protocol::Tcp, 80);
        lab.service.external_ips = [[203, 0, 113, 7].into()].into();
        lab.serve(&pods);
        client.ask(&node.pods[1]).unwrap();
        let external = Client::new(Transport::Tcp, ([203, 0, 113, 7], 80).into());
        external.ask(&topology.client).unwrap();
        let now = node.host.enter(|| routes().unwrap());
        assert_eq!(now.len(), 3, "{now:?}");
        assert_eq!(routes_before.get_or_insert_with(|| now.clone()), &now);
        let audit = node.host.enter(|| lab.proxier.audit().unwrap().unwrap());
        assert!(audit.plan.is_empty(), "{:#?}", audit.plan);
    }
    // The kernel refuses while no process listens.
    let refused = || match client.ask(&node.pods[1]) {
        Err(AskError::Refused) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually(Duration::from_secs(10), refused).unwrap();
}

/// Whatever another program does to the routes is repaired by the next audit.
#[test]
#[ignore = "netns: needs root"]
fn deleted_routes_come_back() {
    let topology = Topology::new("drift", &[2]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0]];
    let _backends = backends(&pods, Transport::Tcp);
    let (_runtime, mut lab) = lab(&topology, Protocol::Tcp, 80);
    lab.serve(&pods);
    node.host
        .ip(&[format!("route del local {SERVICE_CIDR_V4} table local")])
        .unwrap();
    let audit = node.host.enter(|| lab.proxier.audit().unwrap().unwrap());
    assert_eq!(audit.plan.steps().len(), 1, "{:#?}", audit.plan);
    let client = Client::new(Transport::Tcp, ([10, 96, 0, 10], 80).into());
    client.ask(&node.pods[1]).unwrap();
}

/// A client keeps its endpoint, also when others come and go, and gets another one when it goes or
/// does not answer.
#[test]
#[ignore = "netns: needs root"]
fn a_client_keeps_its_endpoint_while_it_answers() {
    let topology = Topology::new("affinity", &[4]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1], &node.pods[2]];
    let mut servers = backends(&pods, Transport::Tcp);
    let (_runtime, mut lab) = lab(&topology, Protocol::Tcp, 80);
    let seconds = NonZeroU32::new(60).unwrap();
    lab.service.session_affinity = SessionAffinity::ClientIp(seconds);
    lab.serve(&pods);
    let client = Client::new(Transport::Tcp, (node.host.v4, 30080).into());
    let from = &topology.client;
    let kept = client.ask(from).unwrap().backend;
    assert_eq!(answers(from, &client, 12), [(kept.clone(), 12)].into());
    let own = pods.iter().position(|pod| pod.name() == kept).unwrap();
    let other = pods[(own + 1) % 3];
    lab.serve(&[pods[own], other]);
    assert_eq!(answers(from, &client, 6), [(kept.clone(), 6)].into());
    // Its server stops, and the endpoint is still there: the connection is tried at the other one.
    drop(servers.remove(own));
    assert_eq!(
        answers(from, &client, 6),
        [(other.name().to_owned(), 6)].into()
    );
}

#[test]
#[ignore = "netns: needs root"]
fn weights_decide_how_many_connections_an_endpoint_gets() {
    let topology = Topology::new("weights", &[3]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1]];
    let _backends = backends(&pods, Transport::Tcp);
    let (_runtime, mut lab) = lab(&topology, Protocol::Tcp, 80);
    lab.serve(&pods);
    let mut heavy = Endpoint::new(pods[0].v4.into());
    heavy.weight = 30;
    let mut light = Endpoint::new(pods[1].v4.into());
    light.weight = 10;
    lab.slice.endpoints = [heavy, light].into();
    lab.handle(vec![Change::EndpointSliceApplied(lab.slice.clone())]);
    let client = Client::new(Transport::Tcp, ([10, 96, 0, 10], 80).into());
    let answers = answers(&node.pods[2], &client, 40);
    assert_eq!(answers[pods[0].name()], 30, "{answers:?}");
}

/// An address that cannot be listened on is a problem of its Service, until it can.
#[test]
#[ignore = "netns: needs root"]
fn a_port_that_another_program_has_is_a_problem_of_its_service() {
    let topology = Topology::new("taken", &[2]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0]];
    let _backends = backends(&pods, Transport::Tcp);
    let (_runtime, proxy) = proxy(&topology);
    let view = proxy.view();
    let data_plane = Userspace::new(proxy);
    let mut lab = Lab::new(
        &topology,
        settings(&topology),
        data_plane,
        Protocol::Tcp,
        80,
    );
    let take = || node.host.enter(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let other = take();
    lab.serve(&pods);
    let problems = lab.proxier.problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert_eq!(problems[0].service, lab.service.name);
    assert_eq!(problems[0].reason, Reason::ListenFailed);
    for part in ["tcp 10.96.0.10:80", "os error 98", "ss -lntup"] {
        assert!(problems[0].message.contains(part), "{problems:#?}");
    }
    assert_eq!(lab.proxier.problems_of(&lab.service.name), problems);
    let not_served = || {
        let served = view.served().into_iter();
        let reasons = served.filter_map(|of| Some((of.frontend.key.address, of.not_served?)));
        reasons.collect::<Vec<_>>()
    };
    let reasons = not_served();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert_eq!(reasons[0].0, IpAddr::from([10, 96, 0, 10]));
    // The other addresses of the Service are served.
    let node_port = Client::new(Transport::Tcp, (node.host.v4, 30080).into());
    node_port.ask(&topology.client).unwrap();

    // A try that fails again changes nothing.
    let audit =
        |lab: &mut Lab<'_, Userspace>| node.host.enter(|| lab.proxier.audit().unwrap().unwrap());
    let report = audit(&mut lab);
    assert!(report.is_success() && !report.is_complete(), "{report:#?}");
    assert_eq!(lab.proxier.problems(), problems);

    drop(other);
    assert!(audit(&mut lab).is_complete());
    assert_eq!(lab.proxier.problems(), []);
    assert_eq!(not_served(), []);
    let cluster_ip = Client::new(Transport::Tcp, ([10, 96, 0, 10], 80).into());
    cluster_ip.ask(&node.pods[1]).unwrap();

    // It ends with the Service, too.
    lab.handle(vec![Change::ServiceDeleted(lab.service.name.clone())]);
    let _other = take();
    lab.serve(&pods);
    assert_eq!(lab.proxier.problems(), problems);
    lab.handle(vec![Change::ServiceDeleted(lab.service.name.clone())]);
    assert_eq!(lab.proxier.problems(), []);
}

/// An endpoint that answers nothing, not even with an error, costs a connection its time limit, and then
/// the next one is tried.
#[test]
#[ignore = "netns: needs root"]
fn a_connection_to_a_silent_endpoint_is_tried_at_the_next_one() {
    let topology = Topology::new("silent", &[3]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0], &node.pods[1]];
    let _backends = backends(&pods, Transport::Tcp);
    let (_runtime, proxy) = proxy(&topology);
    let view = proxy.view();
    let data_plane = Userspace::new(proxy);
    let mut lab = Lab::new(
        &topology,
        settings(&topology),
        data_plane,
        Protocol::Tcp,
        80,
    );
    lab.serve(&pods);
    pods[0]
        .run([
            "iptables", "-A", "INPUT", "-p", "tcp", "--dport", "5353", "-j", "DROP",
        ])
        .unwrap();
    // They take turns, so one of two begins at the silent one.
    let client = Client::new(Transport::Tcp, ([10, 96, 0, 10], 80).into());
    let client = client.timeout(Duration::from_secs(60));
    let answers = answers(&node.pods[2], &client, 2);
    assert_eq!(answers, [(pods[1].name().to_owned(), 2)].into());
    assert_eq!(view.counts().retries, 1);
    assert_eq!(view.counts().unreachable, 0);
    // If all are silent, the client learns it.
    pods[1]
        .run([
            "iptables", "-A", "INPUT", "-p", "tcp", "--dport", "5353", "-j", "DROP",
        ])
        .unwrap();
    client.ask(&node.pods[2]).unwrap_err();
    assert_eq!(view.counts().unreachable, 1);
}

/// 10,000 listeners, and one change among them.
#[test]
#[ignore = "netns: needs root"]
fn ten_thousand_services_are_served() {
    let topology = Topology::new("many", &[2]).unwrap();
    let node = topology.node();
    let pods = [&node.pods[0]];
    let _backends = backends(&pods, Transport::Tcp);
    let (_runtime, backend) = proxy(&topology);
    let mut proxier = Proxier::new(Arc::new(settings(&topology)), Userspace::new(backend));
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for n in 0..10_000u16 {
        let name = ObjectName::new("default", &format!("web-{n}")).unwrap();
        let [high, low] = n.to_be_bytes();
        let mut service = Service::new(name.clone());
        service.cluster_ips = [[10, 97, high, low].into()].into();
        service.ports = [ServicePort::new(PortName::UNNAMED, Protocol::Tcp, port(80))].into();
        let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
        slice.ports = [EndpointPort::new(
            PortName::UNNAMED,
            Protocol::Tcp,
            port(5353),
        )]
        .into();
        slice.endpoints = [Endpoint::new(pods[0].v4.into())].into();
        services.push(service);
        slices.push(slice);
    }
    let last = slices[9_999].clone();
    let lists = [
        Change::ServicesReplaced(services),
        Change::EndpointSlicesReplaced(slices),
    ];
    let report = node.host.enter(|| proxier.handle(lists).unwrap().unwrap());
    assert!(
        report.is_success(),
        "{:#?}",
        report.applied.failures.first()
    );
    for n in [0u16, 4_711, 9_999] {
        let [high, low] = n.to_be_bytes();
        let client = Client::new(Transport::Tcp, ([10, 97, high, low], 80).into());
        client.ask(&node.pods[1]).unwrap();
    }
    let mut gone = last;
    gone.endpoints = Vec::new().into();
    let change = [Change::EndpointSliceApplied(gone)];
    let report = node.host.enter(|| proxier.handle(change).unwrap().unwrap());
    assert_eq!(report.plan.steps().len(), 1, "{:#?}", report.plan);
}
