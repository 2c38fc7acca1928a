//! Tests of the test bed that need kernel modules which not every machine has.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use testbed::traffic::{Cell, Cluster, Expected, Way, table};
use testbed::{AskError, Backend, Client, Family, Protocol, Topology, ask};

#[test]
#[ignore = "kernel: needs SCTP"]
fn sctp_answers_and_refuses() {
    let topology = Topology::new("tb-sctp", &[1]).unwrap();
    let node = &topology.node().host;
    let pod = &topology.node().pods[0];
    for family in [Family::V4, Family::V6] {
        let address = SocketAddr::from((pod.address(family), 9));
        assert_eq!(ask(node, Protocol::Sctp, address), Err(AskError::Refused));
        let _backend = Backend::start(pod, Protocol::Sctp, address, "sctp").unwrap();
        let mut connection = Client::new(Protocol::Sctp, address).connect(node).unwrap();
        for _ in 0..3 {
            let answer = connection.ask().unwrap();
            assert_eq!(answer.backend, "sctp");
            assert_eq!(answer.seen_source.ip(), node.address(family));
        }
    }
    // SCTP itself sends an abort. A packet filter cannot, and sends an ICMP error.
    let filter = "table inet t {
        chain c {
            type filter hook input priority 0
            sctp dport 10 reject
        }
    }";
    pod.run_with_input(["nft", "-f", "-"], filter).unwrap();
    for family in [Family::V4, Family::V6] {
        let address = SocketAddr::from((pod.address(family), 10));
        assert_eq!(ask(node, Protocol::Sctp, address), Err(AskError::Refused));
    }
}

#[test]
#[ignore = "kernel: needs SCTP"]
fn table_without_a_proxy_holds_for_the_nodes_own_ports_alone() {
    let topology = Topology::new("tb-table", &[2, 2]).unwrap();
    let cluster = Cluster::new(&topology).unwrap();
    let cells = table().unwrap();
    let to = |ways: &[Way]| -> Vec<Cell> {
        let cells = cells.iter().filter(|cell| ways.contains(&cell.way));
        cells.copied().collect()
    };
    let own = to(&[Way::ThisNodesPort, Way::OtherNodesPort, Way::Loopback]);
    assert_eq!(cluster.failures(&own), [""; 0]);

    let mut node_ports = to(&[Way::NodePort]);
    node_ports.retain(|cell| cell.expected != Expected::Refused);
    let failed: BTreeSet<_> = cluster
        .failures(&node_ports)
        .into_iter()
        .map(|failure| failure.split(", tcp").next().unwrap().to_owned())
        .collect();
    for cell in node_ports {
        assert!(failed.contains(&cell.to_string()), "{cell}");
    }
}
