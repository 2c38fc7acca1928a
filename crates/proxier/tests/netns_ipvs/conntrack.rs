//! Deletion of flows from connection tracking. nftables translates them here instead of IPVS: both
//! set the reply's source to the backend.

use proxier::mode::Flows;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{fs, iter};

use socket2::{Domain, Socket, Type};
use testbed::{Backend as Server, Client};

use super::*;

const VIP: &str = "10.96.0.10";
const VIP_V6: &str = "fd00:10:96::a";
const NODE: &str = "192.0.2.1";
const NODE_V6: &str = "2001:db8::1";
const POD: &str = "10.244.1.5";
const OTHER_POD: &str = "10.244.1.6";
const POD_V6: &str = "fd00:10:244:1::5";

const IPPROTO_SCTP: i32 = 132;

/// A node with pods in its own namespace, which translates with `rules`.
pub(super) fn node(rules: &str) -> Namespace {
    let node = namespace();
    let mut lines: Vec<_> = [NODE, POD, OTHER_POD]
        .map(|ip| format!("address add {ip}/32 dev lo"))
        .into();
    lines.extend([NODE_V6, POD_V6].map(|ip| format!("address add {ip}/128 dev lo nodad")));
    lines.extend([
        format!("route add local 10.96.0.0/12 dev lo src {NODE}"),
        format!("route add local fd00:10:96::/112 dev lo src {NODE_V6}"),
        // A link to other nodes, which do not exist.
        "link add eth0 type veth peer name eth1".to_owned(),
        "link set eth0 up".to_owned(),
        "link set eth1 up".to_owned(),
        "route add 198.51.100.0/24 dev eth0".to_owned(),
    ]);
    node.ip(&lines).unwrap();
    // Long timeouts: an association without an answer would expire after 3 seconds.
    for state in [
        "udp_timeout",
        "sctp_timeout_cookie_wait",
        "sctp_timeout_closed",
    ] {
        node.sysctl(&format!("net/netfilter/nf_conntrack_{state}"), "600")
            .unwrap();
    }
    translate(&node, rules);
    node
}

fn translate(node: &Namespace, rules: &str) {
    let rules = format!(
        "table inet test\nflush table inet test\ntable inet test {{
            chain zones {{ type filter hook output priority -300; udp sport 7000-7999 ct zone set 7; }}
            chain output {{ type nat hook output priority -100; {rules};
            }}
        }}"
    );
    node.run_with_input(["nft", "-f", "-"], &rules).unwrap();
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Begins a flow from a port of the node; no answer is needed.
pub(super) fn begin(port: u16, to: &str) {
    let to = address(to);
    let from = if to.is_ipv4() { NODE } else { NODE_V6 };
    let from = SocketAddr::new(from.parse().unwrap(), port);
    UdpSocket::bind(from).unwrap().send_to(b"?", to).unwrap();
}

/// Begins an association with a raw packet, because the kernel may lack SCTP.
fn begin_sctp(port: u16, to: &str) {
    let to = address(to);
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(IPPROTO_SCTP.into())).unwrap();
    let from = SocketAddr::new(NODE.parse().unwrap(), 0);
    socket.bind(&from.into()).unwrap();
    let mut packet = port.to_be_bytes().to_vec();
    packet.extend(to.port().to_be_bytes());
    // No tag yet; the checksum is not verified on output.
    packet.extend([0; 8]);
    // INIT, 20 bytes: tag, window, streams out and in, first number.
    packet.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let to = SocketAddr::new(to.ip(), 0);
    socket.send_to(&packet, &to.into()).unwrap();
}

/// The client ports of all flows.
pub(super) fn flows() -> BTreeSet<u16> {
    let table = fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    let port = |line: &str| {
        let mut words = line.split_whitespace();
        words
            .find_map(|word| word.strip_prefix("sport="))?
            .parse()
            .ok()
    };
    table.lines().filter_map(port).collect()
}

fn udp(address: &str, port: u16) -> FrontendKey {
    key(Protocol::Udp, address, port)
}

/// Deletes flows; returns their number.
fn forget(kernel: &mut impl Kernel, flows: impl IntoIterator<Item = Flows>) -> u64 {
    succeed(kernel, flows.into_iter().map(Step::DeleteFlows)).flows
}

fn by(to: FrontendKey, backend: &str) -> Flows {
    Flows::to(to).answered_by(backend.parse().unwrap())
}

#[test]
#[ignore = "netns: needs root"]
fn a_client_goes_on_with_another_backend() {
    let node = node(&format!("ip daddr {VIP} udp dport 53 dnat ip to {POD}:53"));
    let server = |ip, name| Server::start(&node, testbed::Protocol::Udp, address(ip), name);
    let _one = server("10.244.1.5:53", "one").unwrap();
    let _two = server("10.244.1.6:53", "two").unwrap();
    let client = Client::new(
        testbed::Protocol::Udp,
        SocketAddr::from(([10, 96, 0, 10], 53)),
    );
    let mut client = client.connect(&node).unwrap();
    let mut answers = || client.ask().unwrap().backend;
    assert_eq!(answers(), "one");
    translate(
        &node,
        &format!("ip daddr {VIP} udp dport 53 dnat ip to {OTHER_POD}:53"),
    );
    assert_eq!(answers(), "one");
    assert_eq!(
        node.enter(|| forget(&mut kernel(), [by(udp(VIP, 53), POD)])),
        1
    );
    assert_eq!(answers(), "two");
}

#[test]
#[ignore = "netns: needs root"]
fn flows_to_a_virtual_ip_go_and_others_stay() {
    let rules = format!(
        "udp sport {{ 4001, 4003, 4005, 7001 }} ip daddr 10.96.0.0/12 dnat ip to {POD}:5300
         udp sport 4002 ip daddr {VIP} dnat ip to {OTHER_POD}:5300
         udp sport 6001 ip6 daddr {VIP_V6} dnat ip6 to [{POD_V6}]:5300"
    );
    node(&rules).enter(|| {
        let mut kernel = kernel();
        begin(4001, "10.96.0.10:53");
        begin(4002, "10.96.0.10:53"); // another backend
        begin(4003, "10.96.0.11:53"); // another virtual IP
        begin(4004, "10.244.1.5:53"); // the pod itself
        begin(4005, "10.96.0.10:54"); // another port
        begin(4006, "10.96.0.10:53"); // not translated
        begin(7001, "10.96.0.10:53"); // in a zone
        begin(6001, "[fd00:10:96::a]:53");
        begin(6002, "[fd00:10:96::a]:53");
        begin_sctp(8001, "10.96.0.10:53");
        let all = [4001, 4002, 4003, 4004, 4005, 4006, 6001, 6002, 7001, 8001];
        assert_eq!(flows(), BTreeSet::from(all));

        assert_eq!(forget(&mut kernel, [by(udp(VIP, 53), POD)]), 2);
        let left = [4002, 4003, 4004, 4005, 4006, 6001, 6002, 8001];
        assert_eq!(flows(), BTreeSet::from(left));
        assert_eq!(forget(&mut kernel, [by(udp(VIP, 53), POD)]), 0);

        let several = [
            by(udp(VIP_V6, 53), POD_V6),
            Flows::to(udp("10.96.0.10", 54)),
            Flows::to(udp("10.96.0.11", 53)),
            Flows::to(udp("10.96.0.12", 53)),
        ];
        assert_eq!(forget(&mut kernel, several), 3);
        assert_eq!(flows(), BTreeSet::from([4002, 4004, 4006, 6002, 8001]));

        assert_eq!(forget(&mut kernel, [Flows::to(udp(VIP, 53))]), 2);
        assert_eq!(flows(), BTreeSet::from([4004, 6002, 8001]));
    });
}

#[test]
#[ignore = "netns: needs root"]
fn associations_go_too() {
    let rules = format!("sctp sport 8001 ip daddr {VIP} dnat ip to {POD}:5300");
    node(&rules).enter(|| {
        begin_sctp(8001, "10.96.0.10:132");
        begin_sctp(8002, "10.96.0.10:132");
        begin(4001, "10.96.0.10:132");
        assert_eq!(flows(), BTreeSet::from([4001, 8001, 8002]));
        let to = key(Protocol::Sctp, VIP, 132);
        assert_eq!(forget(&mut kernel(), [by(to, POD)]), 1);
        assert_eq!(flows(), BTreeSet::from([4001, 8002]));
        assert_eq!(forget(&mut kernel(), [Flows::to(to)]), 1);
        assert_eq!(flows(), BTreeSet::from([4001]));
    });
}

#[test]
#[ignore = "netns: needs root"]
fn flows_to_a_node_port_go_and_others_stay() {
    let rules = format!(
        "udp sport {{ 4001, 4005 }} udp dport 30053 dnat ip to {POD}:5300
         udp sport 4002 udp dport 30053 dnat ip to {OTHER_POD}:5300"
    );
    let v4 = udp(&Ipv4Addr::UNSPECIFIED.to_string(), 30053);
    let v6 = udp(&Ipv6Addr::UNSPECIFIED.to_string(), 30053);
    node(&rules).enter(|| {
        let mut kernel = kernel();
        begin(4001, "192.0.2.1:30053");
        begin(4002, "192.0.2.1:30053"); // another backend
        begin(4003, "192.0.2.1:30053"); // not translated
        begin(4004, "198.51.100.7:30053"); // another node's
        begin(4005, "198.51.100.7:30053"); // an address that was this node's
        begin(4006, "10.244.1.5:30053"); // the pod's own port
        begin(4007, "192.0.2.1:30054"); // another port
        begin(6001, "[2001:db8::1]:30053");
        assert_eq!(flows(), (4001..=4007).chain([6001]).collect());

        assert_eq!(forget(&mut kernel, [by(v4, POD)]), 2);
        assert_eq!(
            flows(),
            BTreeSet::from([4002, 4003, 4004, 4006, 4007, 6001])
        );
        assert_eq!(forget(&mut kernel, [Flows::to(v6)]), 1);
        // Here, the pod's addresses are also the node's.
        assert_eq!(forget(&mut kernel, [Flows::to(v4)]), 3);
        assert_eq!(flows(), BTreeSet::from([4004, 4007]));
    });
}

#[test]
#[ignore = "netns: needs root"]
fn more_flows_than_one_send_takes() {
    let rules = format!("udp sport 10000-10999 ip daddr {VIP} dnat ip to {POD}:5300");
    node(&rules).enter(|| {
        (10_000..10_500)
            .chain([4001])
            .for_each(|port| begin(port, "10.96.0.10:53"));
        assert_eq!(flows().len(), 501);
        let twice = iter::repeat_n(by(udp(VIP, 53), POD), 2);
        assert_eq!(forget(&mut kernel(), twice), 500);
        assert_eq!(flows(), BTreeSet::from([4001]));
    });
}
