//! iptables mode takes over from kube-proxy, on this machine's kernel.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::net::SocketAddr;

use testbed::{Backend, Client, Connection, Host, KubeProxy, Protocol, ServicePort, Topology};

const MANIFEST: &str = "apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.90
  ports: [{port: 80, targetPort: 8080, nodePort: 30090}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.90}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.244.1.1], nodeName: node-a}
- {addresses: [10.244.2.1], nodeName: node-b}
";

/// Every address of the Service.
const WAYS: [&str; 3] = ["10.96.0.90:80", "172.18.0.1:30090", "203.0.113.90:80"];

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn kube_proxy(node: &Host) -> KubeProxy<'_> {
    let endpoints = ["10.244.1.1:8080", "10.244.2.1:8080"].map(address);
    let mut shop = ServicePort::new("tcp", address(WAYS[0]), endpoints.to_vec());
    shop.node_port = Some(address(WAYS[1]).port());
    shop.load_balancer = Some(address(WAYS[2]).ip());
    KubeProxy::new(node, vec![node.v4.into()], vec![shop])
}

/// kube-proxy's state on the node.
fn left(node: &Host) -> Vec<String> {
    let mut left = Vec::new();
    for command in [
        "iptables-nft-save",
        "iptables-legacy-save",
        "ip6tables-nft-save",
        "ip6tables-legacy-save",
        "nft list tables",
    ] {
        let text = node.run(command.split(' ')).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.contains("KUBE-") || line.contains("kube-"));
        left.extend(lines.map(|line| format!("{command}: {line}")));
    }
    left
}

/// Connections from all clients to every address keep their backends, and new ones work.
fn is_taken_over(name: &str, write: impl Fn(&KubeProxy<'_>)) {
    let topology = Topology::new(name, &[2, 1]).unwrap();
    let node = &topology.node().host;
    node.sysctl("net/ipv4/ip_forward", "1").unwrap();
    write(&kube_proxy(node));
    let start = |pod: &Host| {
        let at = SocketAddr::new(pod.v4.into(), 8080);
        Backend::start(pod, Protocol::Tcp, at, &at.to_string()).unwrap()
    };
    let _backends = [&topology.nodes[0].pods[0], &topology.nodes[1].pods[0]].map(start);
    let clients = [&topology.nodes[0].pods[1], node, &topology.client];
    let ways = || {
        clients
            .iter()
            .flat_map(|from| WAYS.map(|to| (*from, address(to))))
    };
    let mut open: Vec<(Connection, String)> = ways()
        .map(|(from, to)| {
            let mut connection = Client::new(Protocol::Tcp, to).connect(from).unwrap();
            let backend = connection.ask().unwrap().backend;
            (connection, backend)
        })
        .collect();

    let manifests = tempfile::tempdir().unwrap();
    std::fs::write(manifests.path().join("shop.yaml"), MANIFEST).unwrap();
    let output = node
        .command(env!("CARGO_BIN_EXE_svcproxy"))
        .args(["--mode=iptables", "--once", "--node-name=node-a"])
        .arg(format!("--manifests={}", manifests.path().display()))
        .arg(format!("--node-ip={}", node.v4))
        .arg(format!("--cluster-cidr={}", testbed::POD_CIDR_V4))
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("removed what kube-proxy left"), "{log}");
    assert_eq!(left(node), [""; 0]);
    for (connection, backend) in &mut open {
        assert_eq!(connection.ask().unwrap().backend, *backend);
    }
    for (from, to) in ways() {
        Client::new(Protocol::Tcp, to).ask(from).unwrap();
    }
}

#[test]
#[ignore = "netns: needs root"]
fn from_the_iptables_mode_over_nft() {
    is_taken_over("from-nft", |kube_proxy| {
        kube_proxy.write_iptables("nft").unwrap()
    });
}

#[test]
#[ignore = "netns: needs root"]
fn from_the_iptables_mode_over_legacy() {
    is_taken_over("from-legacy", |kube_proxy| {
        kube_proxy.write_iptables("legacy").unwrap()
    });
}

#[test]
#[ignore = "netns: needs root"]
fn from_the_nftables_mode() {
    is_taken_over("from-nftables", |kube_proxy| {
        kube_proxy.write_nftables().unwrap()
    });
}
