//! Addresses for clients outside: node ports, load-balancer and external IPs.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::UdpSocket;

use proxier::desired::Marks;
use proxier::mode::ipvs::plan::{Audience, Purpose};

use super::*;

/// A firewall-mark virtual server with one real server.
fn marked(key: FrontendKey, purpose: Purpose, number: u32, pod: IpAddr) -> Vec<Step> {
    let masquerade = purpose == Purpose::NodePort;
    let mark = Marks::default().number(number, masquerade).unwrap();
    let element = Element::Mark { key, purpose, mark };
    let server = VirtualServerKey::firewall_mark(mark, key.family());
    let mut steps = vec![Step::AddElement(element, None)];
    steps.extend(virtual_server(server, pod));
    steps
}

/// Services with external addresses of one family, for one protocol.
struct Outside<'a> {
    protocol: Protocol,
    family: Family,
    other_node: &'a Host,
    near: &'a Host,
    far: &'a Host,
}

impl Outside<'_> {
    /// A load-balancer IP.
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

    /// To distinguish the virtual servers, clients in the cluster get the far pod and clients
    /// outside the near one.
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
                // The listener that is reached where nothing is captured.
                listen(of, other_node, PORT, "other"),
                listen(of, other_node, PORT + 1, "other"),
            ]
        })
        .collect();
    let route = format!("route add 2001:db8::/64 via {}", node.v6);
    client.ip(&[route]).unwrap();
    let services_steps = (0..).zip(&services);
    let steps = services_steps.flat_map(|(n, of)| of.steps(1 + n * 5));
    let plan: Plan = base(node).into_iter().chain(steps).collect();
    // An address is captured once, for all protocols.
    let mut seen = HashSet::new();
    let is_first = |step: &&Step| match step {
        Step::AddElement(element, _) => seen.insert(*element),
        _ => true,
    };
    let plan: Plan = plan.steps().iter().filter(is_first).cloned().collect();
    node.enter(|| {
        let mut backend = IpvsKernel::open().unwrap();
        let mut expected = backend.observe().unwrap();
        let report = backend.apply(&plan);
        assert!(report.failures.is_empty(), "{:#?}", report.failures);
        expected.record(&plan, &[]);
        assert!(backend.observe().unwrap() == expected);
    });

    for of in &services {
        let address = |host: &Host| host.address(of.family);
        let refused = Err(AskError::Refused);
        // Rejected on the way out: send(2) fails before the ICMP error arrives.
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
            // Another node's address: only one port is captured here, and the client's route to it
            // does not go through this node.
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
#[ignore = "kernel: needs IPVS; ICMP errors about what was captured"]
fn errors_about_captured_connections_are_captured() {
    load_modules();
    let topology = Topology::new("errors", &[1, 1]).unwrap();
    let (node, client) = (&topology.node().host, &topology.client);
    let near = &topology.node().pods[0];
    let route = format!("route add 2001:db8::/64 via {}", node.v6);
    client.ip(&[route]).unwrap();
    // Otherwise IPVS might handle forwarded packets.
    node.ip(&[
        "route add unreachable 203.0.113.0/24",
        "route add unreachable 2001:db8::/64",
    ])
    .unwrap();
    for (number, family) in [(1, Family::V4), (11, Family::V6)] {
        let of = Outside {
            protocol: Protocol::Udp,
            family,
            other_node: &topology.nodes[1].host,
            near,
            far: &topology.nodes[1].pods[0],
        };
        let base = if family == Family::V4 {
            base(node)
        } else {
            Vec::new()
        };
        let plan: Plan = base.into_iter().chain(of.steps(number)).collect();
        let report = node.enter(|| IpvsKernel::open().unwrap().apply(&plan));
        assert!(report.failures.is_empty(), "{:#?}", report.failures);

        let server = SocketAddr::new(near.address(family), TARGET);
        let server = near.enter(|| UdpSocket::bind(server).unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let asks = SocketAddr::new(client.address(family), 0);
        let asks = client.enter(|| UdpSocket::bind(asks).unwrap());
        // To the near pod, which sees the client's address.
        asks.send_to(b"?", SocketAddr::new(of.lb(2), PORT)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(from, asks.local_addr().unwrap());
        server.connect(from).unwrap();
        server.send(b"!").unwrap();
        asks.recv(&mut [0; 8]).unwrap();

        // The second answer finds no socket: the client sends an ICMP error to the load-balancer
        // IP, which is not the node's.
        drop(asks);
        server.send(b"!").unwrap();
        let error = server.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}");
    }
}
