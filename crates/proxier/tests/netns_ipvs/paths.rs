//! The fate of packets on their way to IPVS.

use std::net::SocketAddr;

use testbed::{Host, POD_CIDR_V4, POD_CIDR_V6, SERVICE_CIDR_V4, SERVICE_CIDR_V6, Topology};

use super::*;

const MASQUERADE: u32 = 0x4000;

/// The fate of a connection's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It reaches IPVS with this mark.
    Mark(u32),
    /// It is rejected with an error.
    Refused,
    /// It is dropped.
    Dropped,
}

use Fate::{Dropped, Mark, Refused};

/// The addresses of one family.
struct Addresses {
    family: Family,
    vip: IpAddr,
    lb: IpAddr,
    node: IpAddr,
    pod: IpAddr,
    outside: IpAddr,
    loopback: IpAddr,
}

impl Addresses {
    fn of(family: Family, topology: &Topology) -> Self {
        let node = topology.node();
        let of = |host: &Host| match family {
            Family::V4 => IpAddr::from(host.v4),
            Family::V6 => host.v6.into(),
        };
        let [vip, lb, loopback] = match family {
            Family::V4 => ["10.96.0.1", "203.0.113.7", "127.0.0.1"],
            Family::V6 => ["fd00:10:96::1", "2001:db8::7", "::1"],
        };
        Self {
            family,
            vip: vip.parse().unwrap(),
            lb: lb.parse().unwrap(),
            node: of(&node.host),
            pod: of(&node.pods[0]),
            outside: of(&topology.client),
            loopback: loopback.parse().unwrap(),
        }
    }

    /// The elements of the Services.
    fn elements(&self) -> Vec<Element> {
        use Element::{CapturedAddress, Dropped, NoEndpoints, Restricted, VirtualServer};
        let tcp = |address, port: u16| FrontendKey {
            protocol: Protocol::Tcp,
            address,
            port: port.try_into().unwrap(),
        };
        let udp = |key: FrontendKey| FrontendKey {
            protocol: Protocol::Udp,
            ..key
        };
        let Self {
            vip,
            lb,
            node,
            pod,
            family,
            ..
        } = *self;
        let port = |port| node_port(Protocol::Tcp, family, port);
        let captured = |key, bits| mark(key, Purpose::Capture, 0x2000 | bits);
        let mut elements = vec![
            VirtualServer(tcp(vip, 80)),
            VirtualServer(tcp(vip, 30080)),
            NoEndpoints(udp(tcp(vip, 82))),
            NoEndpoints(tcp(vip, 82)),
            Dropped(tcp(vip, 85), Audience::All),
            // For all clients; with local backends for outside clients; without backends; without
            // backends for outside clients; for the pod only.
            VirtualServer(tcp(lb, 80)),
            captured(tcp(lb, 80), MASQUERADE),
            VirtualServer(tcp(lb, 81)),
            captured(tcp(lb, 81), 0),
            mark(tcp(lb, 81), Purpose::External, 0x0002_2000),
            NoEndpoints(tcp(lb, 82)),
            captured(tcp(lb, 82), MASQUERADE),
            NoEndpoints(udp(tcp(lb, 82))),
            captured(udp(tcp(lb, 82)), MASQUERADE),
            VirtualServer(tcp(lb, 83)),
            captured(tcp(lb, 83), 0),
            Dropped(tcp(lb, 83), Audience::External),
            VirtualServer(tcp(lb, 84)),
            captured(tcp(lb, 84), MASQUERADE),
            Restricted(tcp(lb, 84)),
            Element::SourceRange(tcp(lb, 84), pod.into()),
            CapturedAddress(lb),
            // The node's own address, and a node port of the same number.
            VirtualServer(tcp(node, 30084)),
            captured(tcp(node, 30084), MASQUERADE),
            CapturedAddress(node),
            mark(port(30084), Purpose::NodePort, 0x0007_6000),
            mark(port(30080), Purpose::NodePort, 0x0001_6000),
            mark(port(30081), Purpose::NodePort, 0x0003_6000),
            mark(port(30081), Purpose::External, 0x0004_2000),
            NoEndpoints(port(30082)),
            NoEndpoints(udp(port(30082))),
            mark(port(30083), Purpose::NodePort, 0x0005_6000),
            Dropped(port(30083), Audience::External),
        ];
        let node_ports = match family {
            Family::V4 => "172.18.0.0/16",
            Family::V6 => "fd00:172:18::/64",
        };
        elements.push(Element::NodePortAddresses(node_ports.parse().unwrap()));
        for (port, range) in self.ranges() {
            let key = tcp(lb, port);
            elements.extend([
                VirtualServer(key),
                captured(key, MASQUERADE),
                Restricted(key),
                Element::SourceRange(key, range),
            ]);
        }
        elements
    }

    /// Ports with a source range of the load-balancer IP: networks of the pod, and their neighbours.
    fn ranges(&self) -> Vec<(u16, IpNet)> {
        let lengths = match self.family {
            Family::V4 => [0, 16, 28],
            Family::V6 => [0, 64, 124],
        };
        let ranges = (1000..).zip(lengths).flat_map(|(port, length)| {
            let around = IpNet::new(self.pod, length).unwrap().trunc();
            let beside = around
                .supernet()
                .into_iter()
                .flat_map(|both| both.subnets(length));
            let beside = beside.flatten().find(|network| *network != around);
            [
                Some((port, around)),
                beside.map(|beside| (port + 1000, beside)),
            ]
        });
        ranges.flatten().collect()
    }

    /// Destinations, with the fate of packets from outside, from a pod and from the node itself.
    fn tcp_cases(&self) -> Vec<(SocketAddr, [Fate; 3])> {
        let masquerade = Mark(MASQUERADE);
        let Self { vip, lb, node, .. } = *self;
        let cases = [
            (vip, 80, [masquerade, Mark(0), masquerade]),
            // The number of a node port on another address is not a node port.
            (vip, 30080, [masquerade, Mark(0), masquerade]),
            (vip, 30081, [Refused; 3]),
            (vip, 82, [Refused; 3]),
            (vip, 85, [Dropped; 3]),
            (lb, 80, [masquerade; 3]),
            (lb, 81, [Mark(0x0002_2000), Mark(0), masquerade]),
            (lb, 82, [Refused; 3]),
            (lb, 83, [Dropped, Mark(0), masquerade]),
            (lb, 84, [Dropped, masquerade, masquerade]),
            // Addresses of other hosts are left alone: their route leads back to the client.
            (lb, 99, [Dropped, Dropped, Mark(0)]),
            (node, 30080, [Mark(0x0001_6000); 3]),
            (
                node,
                30081,
                [Mark(0x0004_2000), Mark(0x0003_6000), Mark(0x0003_6000)],
            ),
            (node, 30082, [Refused; 3]),
            (node, 30083, [Dropped, Mark(0x0005_6000), Mark(0x0005_6000)]),
            // The virtual server of the address takes precedence.
            (node, 30084, [masquerade; 3]),
            (node, 22, [Mark(0); 3]),
        ];
        let of_range = |(port, range): (u16, IpNet)| {
            let fates = [self.outside, self.pod].map(|source| match range.contains(&source) {
                true => masquerade,
                false => Dropped,
            });
            (lb, port, [fates[0], fates[1], masquerade])
        };
        cases
            .into_iter()
            .chain(self.ranges().into_iter().map(of_range))
            .map(|(address, port, fates)| (SocketAddr::new(address, port), fates))
            .collect()
    }
}

/// A separate table, which records the marks of packets at the position of IPVS.
const PROBE: &str = "table inet probe {
    set in { type inet_service . mark; flags dynamic; size 1000; }
    set out { type inet_service . mark; flags dynamic; size 1000; }
    chain in { type filter hook input priority 97; ct state new add @in { th dport . meta mark }; }
    chain out { type filter hook output priority -98; ct state new add @out { th dport . meta mark }; }
}";

fn seen(node: &Namespace, set: &str, port: u16) -> Option<u32> {
    let listed = node
        .run(["nft", "-n", "list", "set", "inet", "probe", set])
        .unwrap();
    let begin = format!("{port} . 0x");
    let at = listed.find(&begin)? + begin.len();
    u32::from_str_radix(&listed[at..at + 8], 16).ok()
}

/// Sends the first packet of a connection, and returns its fate.
fn fate(topology: &Topology, sender: &Host, protocol: Protocol, to: SocketAddr) -> Fate {
    let node = &topology.node().host;
    node.run(["nft", "flush set inet probe in; flush set inet probe out"])
        .unwrap();
    let is_refused = sender.enter(|| match protocol {
        Protocol::Udp => {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            socket.connect(to).unwrap();
            let _ = socket.send(b"x");
            socket
                .recv(&mut [0])
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        }
        _ => TcpStream::connect_timeout(&to, Duration::from_millis(300))
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused),
    });
    let arrived = seen(node, "in", to.port());
    // IPVS handles the node's own packets in the output hook; those without a virtual server return
    // over `lo`.
    let left = seen(node, "out", to.port()).filter(|_| sender.v4 == node.v4);
    match (arrived, left) {
        (_, Some(mark)) if !is_refused || arrived.is_some() => Mark(mark),
        (Some(mark), None) => Mark(mark),
        _ if is_refused => Refused,
        _ => Dropped,
    }
}

#[test]
#[ignore = "netns: needs root"]
fn packets_reach_ipvs_as_expected() {
    let topology = Topology::new("paths", &[1]).unwrap();
    let (node, client) = (topology.node(), &topology.client);
    let families = [Family::V4, Family::V6].map(|family| Addresses::of(family, &topology));
    node.host.run_with_input(["nft", "-f", "-"], PROBE).unwrap();
    for of in &families {
        let via = format!("route add {} via {}", of.lb, of.node);
        client.ip(&[via]).unwrap();
    }
    let mut config = Config::new("node", vec![]);
    config.cluster_cidrs = [POD_CIDR_V4, POD_CIDR_V6]
        .map(|cidr| cidr.parse().unwrap())
        .into();
    node.host.enter(|| {
        let mut kernel = kernel();
        let routes = [
            route(SERVICE_CIDR_V4, &node.host.v4.to_string()),
            route(SERVICE_CIDR_V6, &node.host.v6.to_string()),
        ];
        let elements = families.iter().flat_map(Addresses::elements);
        let cidrs = [SERVICE_CIDR_V4, SERVICE_CIDR_V6].map(cidr);
        let steps = [Step::InstallRuleset(Ruleset::new(&config))]
            .into_iter()
            .chain(elements.chain(cidrs).map(add))
            .chain(routes.map(Step::AddRoute))
            .chain([policy(Family::V4), policy(Family::V6)].map(Step::AddPolicyRoute));
        succeed(&mut kernel, steps);
    });

    // As on nodes with WireGuard, the mark is used for the route back to the sender.
    node.host
        .sysctl("net/ipv4/conf/all/src_valid_mark", "1")
        .unwrap();
    let senders = [client, &node.pods[0], &node.host];
    for of in &families {
        for (to, fates) in of.tcp_cases() {
            let found = senders.map(|sender| fate(&topology, sender, Protocol::Tcp, to));
            assert_eq!(found, fates, "from outside, a pod, the node to {to}");
        }
        for (address, port) in [(of.vip, 82), (of.lb, 82), (of.node, 30082)] {
            let to = SocketAddr::new(address, port);
            let found = senders.map(|sender| fate(&topology, sender, Protocol::Udp, to));
            assert_eq!(
                found, [Refused; 3],
                "from outside, a pod, the node to {to} udp"
            );
        }
        // Loopback addresses serve no node ports.
        let to = SocketAddr::new(of.loopback, 30080);
        assert_eq!(
            fate(&topology, &node.host, Protocol::Tcp, to),
            Mark(0),
            "{to}"
        );
    }
}

/// A first packet that is sent again after the answer must not get a mark.
#[test]
#[ignore = "netns: needs root"]
fn the_nodes_own_connections_translated_by_other_programs_get_no_mark() {
    let topology = Topology::new("others", &[1]).unwrap();
    let (host, pod) = (&topology.node().host, &topology.node().pods[0]);
    let port = node_port(Protocol::Tcp, Family::V4, 30080);
    let elements = [
        mark(port, Purpose::NodePort, 0x0001_6000),
        Element::NodePortAddresses("172.18.0.0/16".parse().unwrap()),
    ];
    host.enter(|| {
        let rules = Step::InstallRuleset(Ruleset::retired(&config()));
        let steps = [rules].into_iter().chain(elements.map(add));
        succeed(&mut kernel(), steps);
    });
    let others = format!(
        "table inet probe {{
            set out {{ type inet_service . mark; flags dynamic; size 1000; }}
            chain nat {{ type nat hook output priority -100; tcp dport 30080 dnat ip to {0}:8080; }}
            chain out {{
                type filter hook output priority -98;
                ip daddr {0} add @out {{ th dport . meta mark }};
            }}
        }}",
        pod.v4
    );
    host.run_with_input(["nft", "-f", "-"], &others).unwrap();
    let at = SocketAddr::from((pod.v4, 8080));
    let _server = testbed::Backend::start(pod, testbed::Protocol::Tcp, at, "pod").unwrap();
    let to = SocketAddr::from((host.v4, 30080));
    testbed::ask(host, testbed::Protocol::Tcp, to).unwrap();
    let marks = host.run(["nft", "-n", "list", "set", "inet", "probe", "out"]);
    assert_eq!(marks.unwrap().matches("8080 . 0x").count(), 1);
    assert_eq!(seen(host, "out", 8080), Some(0));
}
