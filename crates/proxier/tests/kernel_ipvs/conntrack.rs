//! Deletion of IPVS flows from connection tracking.

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use ipvs::{Change, Family, Protocol, RealServer, VirtualServer, VirtualServerKey};
use proxier::desired::FrontendKey;
use proxier::mode::ipvs::plan::Step;
use proxier::mode::ipvs::{IpvsKernel, Kernel};
use proxier::mode::{Flows, Sysctl};
use testbed::{AskError, Backend as Server, Client, Connection, Host, Topology, eventually};

const MARK: NonZeroU32 = NonZeroU32::new(0x12000).unwrap();

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Executes steps, none of which may fail; returns the number of deleted flows.
fn apply(node: &Host, steps: impl IntoIterator<Item = Step>) -> u64 {
    let plan = steps.into_iter().collect();
    let report = node.enter(|| IpvsKernel::open().unwrap().apply(&plan));
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
    report.counts.flows
}

fn add(virtual_server: VirtualServerKey, pod: SocketAddr) -> Step {
    Step::Ipvs(Change::AddRealServer {
        virtual_server,
        real_server: RealServer::new(pod.into()),
    })
}

fn delete(virtual_server: VirtualServerKey, pod: SocketAddr) -> Step {
    Step::Ipvs(Change::DeleteRealServer {
        virtual_server,
        real_server: pod.into(),
    })
}

/// The source of the answers to a flow, by the client's address.
fn answered_from(node: &Host, client: SocketAddr) -> SocketAddr {
    let table = node.enter(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap());
    let port = format!("sport={} ", client.port());
    let flow = table.lines().find(|line| line.contains(&port));
    let flow = flow.unwrap_or_else(|| panic!("no flow of {client}:\n{table}"));
    let reply = &flow[flow.rfind("src=").unwrap()..];
    let word = |name| {
        reply
            .split(' ')
            .find_map(|word| word.strip_prefix(name))
            .unwrap()
    };
    SocketAddr::new(
        word("src=").parse().unwrap(),
        word("sport=").parse().unwrap(),
    )
}

/// The backend that answers now. IPVS drops the packet with which it notices that a real server was
/// deleted.
fn answerer(client: &mut Connection) -> String {
    let answer = eventually(Duration::from_secs(20), || client.ask());
    answer.unwrap().backend
}

#[test]
#[ignore = "kernel: needs IPVS; root"]
fn flows_are_found_by_the_backend_that_ipvs_chose() {
    let topology = Topology::new("flows", &[2]).unwrap();
    let node = &topology.node().host;
    let [one, two] = [0, 1].map(|pod| &topology.node().pods[pod]);
    let at = |pod: &Host| SocketAddr::from((pod.v4, 5353));
    let server =
        |pod: &Host, name| Server::start(pod, testbed::Protocol::Udp, at(pod), name).unwrap();
    let _servers = [server(one, "one"), server(two, "two")];
    let route = format!("route add local 10.96.0.0/12 dev lo src {}", node.v4);
    node.ip(&[route]).unwrap();
    let rules = format!(
        "table inet test {{
            chain input {{
                type filter hook input priority 0
                udp dport 30053 meta mark set {MARK}
                ct state new accept comment \"so that connections are tracked\"
            }}
        }}"
    );
    node.run_with_input(["nft", "-f", "-"], &rules).unwrap();

    let vip = address("10.96.0.10:53");
    let node_port = SocketAddr::from((node.v4, 30053));
    let key = |address: SocketAddr| FrontendKey {
        protocol: Protocol::Udp,
        address: address.ip(),
        port: address.port().try_into().unwrap(),
    };
    let any = key(address("0.0.0.0:30053"));
    let connect = |to| {
        let client = Client::new(testbed::Protocol::Udp, to).timeout(Duration::from_secs(1));
        client.connect(&topology.client).unwrap()
    };
    let mut clients = [connect(vip), connect(node_port)];
    let answered_from = |client: &Connection| answered_from(node, client.source().unwrap());

    // Too early: these flows would stay unchanged when the virtual server exists.
    for (client, to) in clients.iter_mut().zip([vip, node_port]) {
        assert_eq!(client.ask(), Err(AskError::Refused));
        assert_eq!(answered_from(client), to);
    }
    let by_address = VirtualServerKey::udp(vip);
    let by_mark = VirtualServerKey::FirewallMark {
        mark: MARK,
        family: Family::V4,
    };
    let virtual_servers = [by_address, by_mark];
    let mut steps = vec![
        Step::SetSysctl(Sysctl::VS_CONNTRACK, 1),
        Step::SetSysctl(Sysctl::VS_EXPIRE_NODEST_CONN, 1),
    ];
    for key in virtual_servers {
        let server = Change::AddVirtualServer(VirtualServer::new(key));
        steps.extend([Step::Ipvs(server), add(key, at(one))]);
    }
    steps.extend([key(vip), any].map(|to| Step::DeleteFlows(Flows::to(to))));
    assert_eq!(apply(node, steps), 2);
    for client in &mut clients {
        assert_eq!(answerer(client), "one");
        assert_eq!(answered_from(client), at(one));
    }

    let by_one = |to| Step::DeleteFlows(Flows::to(to).answered_by(one.v4.into()));
    assert_eq!(apply(node, [by_one(key(vip))]), 1);
    // The flow to the node port has the same backend, and stays.
    assert_eq!(answered_from(&clients[1]), at(one));
    assert_eq!(apply(node, [by_one(any)]), 1);

    // IPVS may delete its own flows first.
    let replace = virtual_servers.map(|key| [add(key, at(two)), delete(key, at(one))]);
    let steps = replace.into_iter().flatten();
    apply(node, steps.chain([by_one(key(vip)), by_one(any)]));
    for client in &mut clients {
        assert_eq!(answerer(client), "two");
        assert_eq!(answered_from(client), at(two));
    }
}
