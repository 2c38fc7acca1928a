//! A client that uses one source port for several virtual IPs of one endpoint.
//!
//! Systems do this by default: a source port is free for each destination separately. IPVS finds
//! the connection of an answer by the addresses and ports of client and real server, which are then
//! the same for all of them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use testbed::{Connection, Host};

use crate::lab::{Lab, client};
use crate::ports::{Port, same_endpoint};

/// Outside of the kernel's range of ephemeral ports.
static SOURCE_PORT: AtomicU16 = AtomicU16::new(20_000);

/// The Services of [`same_endpoint`].
fn manifests() -> String {
    let ingress = "loadBalancer: {ingress: [{ip: 203.0.113.22}, {ip: '2001:db8:203::22'}]}";
    let one = service("one", 21, "NodePort", "");
    one + &service("other", 22, "LoadBalancer", ingress)
}

fn service(name: &str, number: u8, kind: &str, status: &str) -> String {
    let slice = |(version, address)| {
        format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{version}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv{version}
ports: [{{name: tcp, port: 8080}}, {{name: udp, port: 8080, protocol: UDP}}]
endpoints: [{{addresses: ['{address}'], nodeName: node-b}}]
"
        )
    };
    let slices = [(4, "10.244.2.22"), (6, "fd00:10:244:2::22")].map(slice);
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: {kind}
  clusterIPs: [10.96.0.{number}, 'fd00:10:96::{number}']
  ipFamilies: [IPv4, IPv6]
  ports:
  - {{name: tcp, port: 80, nodePort: 300{number}}}
  - {{name: udp, port: 80, nodePort: 300{number}, protocol: UDP}}
status: {{{status}}}
{}",
        slices.concat()
    )
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn each_connection_gets_its_own_answers() {
    let same_endpoint = same_endpoint();
    let lab = Lab::new("port", &same_endpoint.concat());
    lab.write("twice.yaml", &manifests());
    let svcproxy = lab.follow();
    for ports in &same_endpoint {
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
    // IPVS has an entry for a UDP client from its first packet on.
    for _ in 0..2 {
        for (connection, port) in connections.iter_mut().zip(ports) {
            let answer = connection.ask();
            assert!(answer.is_ok(), "{port:?} from {}: {answer:?}", from.name());
        }
    }
}
