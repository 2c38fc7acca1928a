//! What the test bed does with kernel modules that not every machine has.

use std::net::SocketAddr;

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
}
