//! The IPVS backend on a kernel with IPVS, with real traffic.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "kernel_backend/conntrack.rs"]
mod conntrack;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use ipvs::{Change, Forwarding, RealServer, VirtualServer, VirtualServerKey};
use proxier::backend::{Backend as _, IpvsBackend, cleanup};
use proxier::desired::{Config, FrontendKey, Marks};
use proxier::netfilter::Ruleset;
use proxier::plan::{
    Audience, Element, NodeState, Plan, PolicyRoute, Purpose, Step, base_elements, base_routes,
    base_sysctls,
};
use testbed::{
    AskError, Backend, Client, Family, Host, POD_CIDR_V4, POD_CIDR_V6, Protocol, SERVICE_CIDR_V4,
    SERVICE_CIDR_V6, Topology, ping,
};

const PORT: u16 = 80;
const TARGET: u16 = 8080;
/// For an answer, in an emulated machine.
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

/// What a node has whatever its Services.
fn base(node: &Host) -> Vec<Step> {
    let config = config(node);
    let mark = config.marks.ours();
    let policy = |family| Step::AddPolicyRoute(PolicyRoute { family, mark });
    let sysctls = base_sysctls(&config).map(|(sysctl, value)| Step::SetSysctl(sysctl, value));
    sysctls
        .chain([Step::InstallRuleset(Ruleset::new(&config))])
        .chain(base_elements(&config).map(|element| Step::AddElement(element, None)))
        .chain(base_routes(&config).map(Step::AddRoute))
        .chain([ipvs::Family::V4, ipvs::Family::V6].map(policy))
        .collect()
}

/// A virtual server with one real server, which is on this node or on another.
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

/// A virtual server of a mark, with one real server.
fn marked(key: FrontendKey, purpose: Purpose, number: u32, pod: IpAddr) -> Vec<Step> {
    let masquerade = purpose == Purpose::NodePort;
    let mark = Marks::default().number(number, masquerade).unwrap();
    let element = Element::Mark { key, purpose, mark };
    let server = VirtualServerKey::firewall_mark(mark, key.family());
    let mut steps = vec![Step::AddElement(element, None)];
    steps.extend(virtual_server(server, pod));
    steps
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
    // What must never answer on a VIP.
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
        let mut backend = IpvsBackend::open().unwrap();
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
        // Linux's SCTP takes no notice of the ICMP error and tries on.
        let refused = match protocol {
            Protocol::Sctp => AskError::TimedOut,
            _ => AskError::Refused,
        };
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

/// Services that are reached from outside, at addresses of one family, for one protocol.
struct Outside<'a> {
    protocol: Protocol,
    family: Family,
    other_node: &'a Host,
    near: &'a Host,
    far: &'a Host,
}

impl Outside<'_> {
    /// A load balancer's address.
    fn lb(&self, number: u8) -> IpAddr {
        let address = match self.family {
            Family::V4 => format!("203.0.113.{number}"),
            Family::V6 => format!("2001:db8::{number:x}"),
        };
        address.parse().unwrap()
    }

    fn node_port(&self, port: u16) -> FrontendKey {
        let any = FrontendKey::node_port(
            protocol(self.protocol),
            self.key(self.lb(1)).family(),
            port.try_into().unwrap(),
        );
        assert!(any.is_node_port());
        any
    }

    fn key(&self, address: IpAddr) -> FrontendKey {
        key(self.protocol, address)
    }

    /// To tell who is served how, clients in the cluster have the far pod where those from
    /// outside have the near one.
    fn steps(&self, first_number: u32) -> Vec<Step> {
        let (near, far) = (
            self.near.address(self.family),
            self.far.address(self.family),
        );
        let captured = |key: FrontendKey, masquerade| {
            let mark = Marks::default().captured(masquerade).try_into().unwrap();
            let purpose = Purpose::Capture;
            let address = Element::CapturedAddress(key.address);
            [Element::Mark { key, purpose, mark }, address]
                .map(|element| Step::AddElement(element, None))
        };
        let keys = [1, 2, 3, 4].map(|number| self.key(self.lb(number)));
        let [all, local, nobody, restricted] = keys;
        let external = self.key(self.other_node.address(self.family));
        let node_port = |port| self.node_port(port);
        let elements = [
            Element::NoEndpoints(nobody),
            Element::Restricted(restricted),
            Element::SourceRange(restricted, near.into()),
            Element::NoEndpoints(node_port(30082)),
            Element::Dropped(node_port(30083), Audience::External),
        ];
        let mut steps: Vec<_> = elements
            .map(|element| Step::AddElement(element, None))
            .into();
        for (key, pod, masquerade) in [
            (all, near, true),
            (local, far, false),
            (restricted, far, true),
            (external, near, true),
        ] {
            steps.extend(captured(key, masquerade));
            steps.extend(service(key, pod, pod == near));
        }
        steps.extend(captured(nobody, true));
        for (number, (key, purpose, pod)) in (first_number..).zip([
            (local, Purpose::External, near),
            (node_port(30080), Purpose::NodePort, near),
            (node_port(30081), Purpose::NodePort, far),
            (node_port(30081), Purpose::External, near),
            (node_port(30083), Purpose::NodePort, far),
        ]) {
            steps.extend(marked(key, purpose, number, pod));
        }
        steps
    }
}

#[test]
#[ignore = "kernel: needs IPVS; addresses that are reached from outside"]
fn carries_traffic_from_outside() {
    load_modules();
    let topology = Topology::new("outside", &[1, 1]).unwrap();
    let [first, second] = &topology.nodes[..] else {
        unreachable!()
    };
    let (node, other_node, client) = (&first.host, &second.host, &topology.client);
    let (near, far) = (&first.pods[0], &second.pods[0]);
    let services: Vec<_> = [Family::V4, Family::V6]
        .into_iter()
        .flat_map(|family| {
            [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| Outside {
                protocol,
                family,
                other_node,
                near,
                far,
            })
        })
        .collect();
    let listen = |of: &Outside<'_>, host: &Host, port, name| {
        let address = SocketAddr::new(host.address(of.family), port);
        Backend::start(host, of.protocol, address, name).unwrap()
    };
    let _backends: Vec<_> = services
        .iter()
        .flat_map(|of| {
            [
                listen(of, near, TARGET, "near"),
                listen(of, far, TARGET, "far"),
                // What is reached where nothing is captured.
                listen(of, other_node, PORT, "other"),
                listen(of, other_node, PORT + 1, "other"),
            ]
        })
        .collect();
    let routes = [
        format!("route add 203.0.113.0/24 via {}", node.v4),
        format!("route add 2001:db8::/64 via {}", node.v6),
    ];
    client.ip(&routes).unwrap();
    let services_steps = (0..).zip(&services);
    let steps = services_steps.flat_map(|(n, of)| of.steps(1 + n * 5));
    let plan: Plan = base(node).into_iter().chain(steps).collect();
    // Addresses are captured for every protocol, once.
    let mut seen = std::collections::HashSet::new();
    let is_first = |step: &&Step| match step {
        Step::AddElement(element, _) => seen.insert(*element),
        _ => true,
    };
    let plan: Plan = plan.steps().iter().filter(is_first).cloned().collect();
    node.enter(|| {
        let mut backend = IpvsBackend::open().unwrap();
        let mut expected = backend.observe().unwrap();
        let report = backend.apply(&plan);
        assert!(report.failures.is_empty(), "{:#?}", report.failures);
        expected.record(&plan, &[]);
        assert!(backend.observe().unwrap() == expected);
    });

    for of in &services {
        let address = |host: &Host| host.address(of.family);
        // Linux's SCTP takes no notice of the ICMP error and tries on.
        let refused = match of.protocol {
            Protocol::Sctp => Err(AskError::TimedOut),
            _ => Err(AskError::Refused),
        };
        // Refused on its way out, and told so by send(2) before the ICMP error comes.
        let not_sent = match of.protocol {
            Protocol::Udp => Err(AskError::Unreachable(ErrorKind::PermissionDenied)),
            _ => refused.clone(),
        };
        let dropped = || Err(AskError::TimedOut);
        let by = |backend: &str, source: &Host| Ok((backend.to_owned(), address(source)));
        let (near_masked, far_masked) = (|| by("near", node), || by("far", node));
        let here = address(node);
        let there = address(other_node);
        // From outside, from the near pod, from the node.
        let cases = [
            (
                of.lb(1),
                PORT,
                [near_masked(), near_masked(), near_masked()],
            ),
            (
                of.lb(2),
                PORT,
                [by("near", client), by("far", near), far_masked()],
            ),
            (of.lb(3), PORT, [refused.clone(), refused.clone(), not_sent]),
            (of.lb(4), PORT, [dropped(), far_masked(), far_masked()]),
            (here, 30080, [near_masked(), near_masked(), near_masked()]),
            (
                here,
                30081,
                [by("near", client), far_masked(), far_masked()],
            ),
            (
                here,
                30082,
                [refused.clone(), refused.clone(), refused.clone()],
            ),
            (here, 30083, [dropped(), far_masked(), far_masked()]),
            // Another node's address: its own but for the port that is captured here; the
            // client's way there does not lead through this node.
            (
                there,
                PORT,
                [by("other", client), near_masked(), near_masked()],
            ),
            (
                there,
                PORT + 1,
                [by("other", client), by("other", near), by("other", node)],
            ),
        ];
        for (to, port, expected) in cases {
            let answers = [client, near, node].map(|from| {
                let to = SocketAddr::new(to, port);
                let answer = Client::new(of.protocol, to).timeout(PATIENCE).ask(from);
                answer.map(|answer| (answer.backend, answer.seen_source.ip()))
            });
            let case = format!("{to} {port} {:?}", of.protocol);
            assert_eq!(answers, expected, "outside, pod, node to {case}");
        }
    }
}

#[test]
#[ignore = "kernel: needs IPVS; cleanup"]
fn cleanup_leaves_what_is_not_ours() {
    load_modules();
    let topology = Topology::new("cleanup", &[1]).unwrap();
    let node = &topology.node().host;
    node.enter(|| {
        let foreign = VirtualServer::new("tcp 192.0.2.9:80".parse().unwrap());
        ipvs::Client::open()
            .unwrap()
            .add_virtual_server(&foreign)
            .unwrap();
        let mut backend = IpvsBackend::open().unwrap();
        let before = backend.observe().unwrap();
        let mut steps = base(node);
        steps.extend(service(
            key(Protocol::Tcp, vip(Family::V4, 1)),
            node.address(Family::V4),
            true,
        ));
        let report = backend.apply(&steps.into_iter().collect());
        assert!(report.failures.is_empty(), "{:#?}", report.failures);

        // Not by the one who made it, as after a restart.
        let mut backend = IpvsBackend::open().unwrap();
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
fn a_change_that_fails_does_not_take_the_others_down() {
    load_modules();
    let topology = Topology::new("partial", &[1]).unwrap();
    let node = &topology.node().host;
    node.enter(|| {
        let mut backend = IpvsBackend::open().unwrap();
        let mut steps = base(node);
        let services = (1..=200).map(|n| {
            service(
                key(Protocol::Tcp, vip(Family::V4, n)),
                [10, 244, 1, 1].into(),
                false,
            )
        });
        steps.extend(services.flatten());
        // Nothing there to be deleted.
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
        // Once more: each step either fails because it was done, or changes nothing.
        let again = backend.apply(&plan);
        assert!(again.failures.len() > 400);
        assert!(backend.observe().unwrap() == expected);
    });
}
