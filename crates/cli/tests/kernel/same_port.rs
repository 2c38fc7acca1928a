//! A client that uses one source port for several virtual IPs of one endpoint.
//!
//! Systems do so by themselves: a source port is free for each destination anew. IPVS knows whose
//! a real server's answer is by the two ends it is between, which are then the same for all.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use testbed::{Connection, Host};

use crate::lab::{Lab, client};
use crate::ports::{Port, SAME_ENDPOINT, SAME_ENDPOINT_MANIFEST};

/// Outside of what the kernel chooses from.
static SOURCE_PORT: AtomicU16 = AtomicU16::new(20_000);

#[test]
#[ignore = "kernel: needs IPVS"]
fn each_connection_gets_its_own_answers() {
    let lab = Lab::new("port", &SAME_ENDPOINT.concat());
    lab.write("twice.yaml", SAME_ENDPOINT_MANIFEST);
    let svcproxy = lab.follow();
    for ports in SAME_ENDPOINT {
        for from in [lab.probe(), lab.node(), lab.client()] {
            ask_in_turn(from, ports);
        }
    }
    svcproxy.terminate();
}

fn ask_in_turn(from: &Host, ports: &[Port]) {
    let source = SOURCE_PORT.fetch_add(1, Ordering::Relaxed);
    let connect = |port: &Port| {
        let source = SocketAddr::new(from.address(port.family()), source);
        let to = client(port.protocol, port.vip()).from(source);
        to.connect(from).unwrap()
    };
    let mut connections: Vec<Connection> = ports.iter().map(connect).collect();
    // IPVS knows of a UDP client from its first question on.
    for _ in 0..2 {
        for (connection, port) in connections.iter_mut().zip(ports) {
            let answer = connection.ask();
            assert!(answer.is_ok(), "{port:?} from {}: {answer:?}", from.name());
        }
    }
}
