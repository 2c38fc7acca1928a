//! The IPVS backend on a kernel with IPVS, with real traffic.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "kernel_ipvs/conntrack.rs"]
mod conntrack;
#[path = "kernel_ipvs/forwarding.rs"]
mod forwarding;
#[path = "kernel_ipvs/glance.rs"]
mod glance;
#[path = "kernel_ipvs/outside.rs"]
mod outside;
#[path = "kernel_ipvs/table_traces.rs"]
mod table_traces;
#[path = "kernel_ipvs/traces.rs"]
mod traces;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use ipvs::{Change, Forwarding, RealServer, VirtualServer, VirtualServerKey};
use proxier::desired::{Config, FrontendKey};
use proxier::mode::ipvs::plan::{
    Element, NodeState, Plan, PolicyRoute, Step, base_elements, base_routes, base_sysctls,
};
use proxier::mode::ipvs::rules::Ruleset;
use proxier::mode::ipvs::{IpvsKernel, Kernel as _, cleanup};
use testbed::{
    AskError, Backend, Client, Family, Host, POD_CIDR_V4, POD_CIDR_V6, Protocol, SERVICE_CIDR_V4,
    SERVICE_CIDR_V6, Topology, ping,
};

const PORT: u16 = 80;
const TARGET: u16 = 8080;
/// How long to wait for an answer, in an emulated machine.
const PATIENCE: Duration = Duration::from_secs(2);

fn protocol(protocol: Protocol) -> ipvs::Protocol {
    match protocol {
        Protocol::Http | Protocol::Tcp => ipvs::Protocol::Tcp,
        Protocol::Udp => ipvs::Protocol::Udp,
        Protocol::Sctp => ipvs::Protocol::Sctp,
    }
}

/// A VIP by its last byte.
fn vip(family: Family, number: u8) -> IpAddr {
    let address = match family {
        Family::V4 => format!("10.96.0.{number}"),
        Family::V6 => format!("fd00:10:96::{number:x}"),
    };
    address.parse().unwrap()
}

fn key(of: Protocol, address: IpAddr) -> FrontendKey {
    FrontendKey {
        protocol: protocol(of),
        address,
        port: PORT.try_into().unwrap(),
    }
}

fn config(node: &Host) -> Config {
    let cidrs = |cidrs: [&str; 2]| cidrs.map(|cidr| cidr.parse().unwrap()).to_vec();
    let mut config = Config::new("node", vec![node.v4.into(), node.v6.into()]);
    config.cluster_cidrs = cidrs([POD_CIDR_V4, POD_CIDR_V6]);
    config.service_cidrs = cidrs([SERVICE_CIDR_V4, SERVICE_CIDR_V6]);
    config
}

/// The base steps of a node, without Services.
fn base(node: &Host) -> Vec<Step> {
    let config = config(node);
    let mark = config.marks.own();
    let policy = |family| Step::AddPolicyRoute(PolicyRoute { family, mark });
    let sysctls = base_sysctls(&config).map(|(sysctl, value)| Step::SetSysctl(sysctl, value));
    sysctls
        .chain([Step::InstallRuleset(Ruleset::new(&config))])
        .chain(base_elements(&config).map(|element| Step::AddElement(element, None)))
        .chain(base_routes(&config).map(Step::AddRoute))
        .chain([ipvs::Family::V4, ipvs::Family::V6].map(policy))
        .collect()
}

/// A virtual server with one real server, on this or another node.
fn service(key: FrontendKey, pod: IpAddr, is_local: bool) -> Vec<Step> {
    let comment = Some("default/web:http".into());
    let mut steps = vec![Step::AddElement(Element::VirtualServer(key), comment)];
    if is_local {
        steps.push(Step::AddElement(Element::Hairpin(pod), None));
    }
    steps.extend(virtual_server(key.virtual_server().unwrap(), pod));
    steps
}

fn virtual_server(virtual_server: VirtualServerKey, pod: IpAddr) -> [Step; 2] {
    let real_server = RealServer::new(SocketAddr::new(pod, TARGET).into());
    assert_eq!(real_server.forwarding, Forwarding::Masquerade);
    let server = Change::AddVirtualServer(VirtualServer::new(virtual_server));
    let real_server = Change::AddRealServer {
        virtual_server,
        real_server,
    };
    [server, real_server].map(Step::Ipvs)
}

fn load_modules() {
    let modules = ["ip_vs", "ip_vs_rr", "sctp"];
    assert!(
        Command::new("modprobe")
            .arg("-a")
            .args(modules)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
#[ignore = "kernel: needs IPVS; a whole node's data plane"]
fn carries_traffic() {
    load_modules();
    // The first pod is on the node under test, the second on another one.
    let topology = Topology::new("backend", &[1, 1]).unwrap();
    let (node, client) = (&topology.nodes[0].host, &topology.client);
    let (near, far) = (&topology.nodes[0].pods[0], &topology.nodes[1].pods[0]);
    let cases: Vec<_> = [Family::V4, Family::V6]
        .into_iter()
        .flat_map(|family| {
            let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
            protocols.map(|protocol| (family, protocol))
        })
        .collect();
    let listen = |host: &Host, (family, protocol), name| {
        let address = SocketAddr::new(host.address(family), TARGET);
        Backend::start(host, protocol, address, name).unwrap()
    };
    let _far: Vec<_> = cases.iter().map(|case| listen(far, *case, "far")).collect();
    let _near: Vec<_> = cases
        .iter()
        .map(|case| listen(near, *case, "near"))
        .collect();
    // Listeners that must never answer on a VIP.
    let _node: Vec<_> = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .flat_map(|protocol| {
            let port = |port| SocketAddr::from(([0; 16], port));
            [PORT, TARGET].map(|p| Backend::start(node, protocol, port(p), "node").unwrap())
        })
        .collect();

    let mut steps = base(node);
    for (family, protocol) in &cases {
        let far_vip = key(*protocol, vip(*family, 1));
        steps.extend(service(far_vip, far.address(*family), false));
        let near_vip = key(*protocol, vip(*family, 2));
        steps.extend(service(near_vip, near.address(*family), true));
        let nobody = key(*protocol, vip(*family, 3));
        steps.push(Step::AddElement(Element::NoEndpoints(nobody), None));
    }
    let plan: Plan = steps.into_iter().collect();
    node.enter(|| {
        let mut backend = IpvsKernel::open().unwrap();
        let mut expected = backend.observe().unwrap();
        assert_eq!(
            NodeState {
                sysctls: expected.sysctls.clone(),
                timeouts: expected.timeouts,
                ..NodeState::default()
            },
            expected
        );
        let report = backend.apply(&plan);
        assert!(report.failures.is_empty(), "{:#?}", report.failures);
        expected.record(&plan, &[]);
        assert_eq!(backend.observe().unwrap(), expected);
    });

    for (family, protocol) in cases {
        let from = |host: &Host, number, port| {
            let to = SocketAddr::new(vip(family, number), port);
            let answer = Client::new(protocol, to).timeout(PATIENCE).ask(host);
            answer.map(|answer| (answer.backend, answer.seen_source.ip()))
        };
        let ok = |backend: &str, source: &Host| Ok((backend.to_owned(), source.address(family)));
        let case = format!("{protocol:?} {family:?}");
        // A pod keeps its address; all others get the node's.
        assert_eq!(from(near, 1, PORT), ok("far", near), "{case}");
        assert_eq!(from(near, 2, PORT), ok("near", node), "hairpin, {case}");
        assert_eq!(from(node, 1, PORT), ok("far", node), "{case}");
        assert_eq!(from(node, 2, PORT), ok("near", node), "{case}");
        assert_eq!(from(client, 1, PORT), ok("far", node), "{case}");
        assert_eq!(from(client, 2, PORT), ok("near", node), "{case}");
        let refused = AskError::Refused;
        for host in [near, node, client] {
            assert_eq!(
                from(host, 3, PORT),
                Err(refused.clone()),
                "no endpoints, {case}"
            );
            assert_eq!(
                from(host, 1, TARGET),
                Err(refused.clone()),
                "other port, {case}"
            );
            assert_eq!(
                from(host, 9, PORT),
                Err(refused.clone()),
                "no Service, {case}"
            );
            ping(host, vip(family, 1)).unwrap();
            ping(host, vip(family, 9)).unwrap();
        }
    }
}

#[test]
#[ignore = "kernel: needs IPVS; cleanup"]
fn cleanup_keeps_foreign_state() {
    load_modules();
    let topology = Topology::new("cleanup", &[1]).unwrap();
    let node = &topology.node().host;
    node.enter(|| {
        let foreign = VirtualServer::new("tcp 192.0.2.9:80".parse().unwrap());
        ipvs::Client::open()
            .unwrap()
            .add_virtual_server(&foreign)
            .unwrap();
        let mut backend = IpvsKernel::open().unwrap();
        let before = backend.observe().unwrap();
        let mut steps = base(node);
        steps.extend(service(
            key(Protocol::Tcp, vip(Family::V4, 1)),
            node.address(Family::V4),
            true,
        ));
        let report = backend.apply(&steps.into_iter().collect());
        assert!(report.failures.is_empty(), "{:#?}", report.failures);

        // With another backend, as after a restart.
        let mut backend = IpvsKernel::open().unwrap();
        let done = cleanup(&mut backend).unwrap();
        assert!(
            done.applied.failures.is_empty(),
            "{:#?}",
            done.applied.failures
        );
        assert_eq!(done.applied.counts.ipvs_changes, 1);
        let after = backend.observe().unwrap();
        assert_eq!(after.virtual_servers, before.virtual_servers);
        assert_eq!(
            NodeState {
                sysctls: before.sysctls.clone(),
                timeouts: before.timeouts,
                ..after
            },
            before
        );
    });
}

#[test]
#[ignore = "kernel: needs IPVS; failures of single changes"]
fn a_failed_change_does_not_affect_others() {
    load_modules();
    let topology = Topology::new("partial", &[1]).unwrap();
    let node = &topology.node().host;
    node.enter(|| {
        let mut backend = IpvsKernel::open().unwrap();
        let mut steps = base(node);
        let services = (1..=200).map(|n| {
            service(
                key(Protocol::Tcp, vip(Family::V4, n)),
                [10, 244, 1, 1].into(),
                false,
            )
        });
        steps.extend(services.flatten());
        // The object to delete does not exist.
        let missing = key(Protocol::Udp, vip(Family::V4, 1))
            .virtual_server()
            .unwrap();
        let at = steps.len() - 100;
        steps.insert(at, Step::Ipvs(Change::DeleteVirtualServer(missing)));
        let plan: Plan = steps.into_iter().collect();
        let mut expected = backend.observe().unwrap();
        let report = backend.apply(&plan);
        assert_eq!(report.failed_steps(), [at], "{:#?}", report.failures);
        expected.record(&plan, &report.failed_steps());
        assert!(backend.observe().unwrap() == expected);
        // A second time: each step fails because it was executed before, or changes nothing.
        let again = backend.apply(&plan);
        assert!(again.failures.len() > 400);
        assert!(backend.observe().unwrap() == expected);
    });
}
