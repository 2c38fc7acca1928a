//! iptables mode takes over from kube-proxy, on this machine's kernel.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::net::SocketAddr;

use serde_json::{Value, json};
use testbed::{
    ApiServer, Backend, Behaviour, Client, Connection, Host, KubeProxy, Protocol, Resource,
    ServicePort, Topology,
};

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

/// The ConfigMap as kubeadm makes it.
fn config_map(mode: &str) -> Value {
    let config = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         mode: {mode}\nclusterCIDR: 10.244.0.0/16\nfeatureGates: {{SomeGate: true}}\n\
         clientConnection: {{kubeconfig: /var/lib/kube-proxy/kubeconfig.conf}}\n"
    );
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "kube-system", "name": "kube-proxy"},
        "data": {"config.conf": config},
    })
}

/// The report names what kube-proxy has, and changes nothing.
#[test]
#[ignore = "netns: needs root"]
fn a_migration_is_reported_and_nothing_changes() {
    let topology = Topology::new("migrate", &[1, 1]).unwrap();
    let node = &topology.node().host;
    node.sysctl("net/ipv4/ip_forward", "1").unwrap();
    kube_proxy(node).write_iptables("nft").unwrap();
    let before = left(node);
    let server = node.enter(|| ApiServer::start(Behaviour::default()).unwrap());
    server.put(Resource::ConfigMaps, config_map("iptables"));
    server.put(
        Resource::Services,
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "shop", "namespace": "default"},
            "spec": {
                "clusterIP": "10.96.0.90", "clusterIPs": ["10.96.0.90"],
                "ports": [{"port": 80, "protocol": "TCP"}],
                "externalIPs": ["10.96.0.13"],
            },
        }),
    );
    let migrate = |arguments: &[&str]| {
        let mut command = node.command(env!("CARGO_BIN_EXE_svcproxy"));
        command.args(["migrate", "--mode=iptables", "--node-name=node-a"]);
        command.arg("--service-cidr=10.96.0.0/12");
        let output = command.args(arguments).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (text, log, output.status.code().unwrap())
    };
    let master = format!("--master={}", server.url());
    let (text, log, code) = migrate(&[&master, "-o=json"]);
    assert_eq!(code, 1, "{log}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["verdict"], "atRisk", "{report:#}");
    assert_eq!(report["configuration"], "ConfigMap kube-system/kube-proxy");
    assert_eq!(report["kubeProxyMode"], "iptables");
    let findings = report["findings"].as_array().unwrap();
    let of = |subject: &str| -> Vec<_> {
        let of = findings.iter().filter(|of| of["subject"] == subject);
        of.map(|of| {
            (
                of["kind"].as_str().unwrap(),
                of["message"].as_str().unwrap(),
            )
        })
        .collect()
    };
    let [(kind, held)] = of("kube-proxy")[..] else {
        panic!("{report:#}")
    };
    assert_eq!(kind, "same");
    assert!(held.contains("iptables chains. svcproxy adopts"), "{held}");
    let [(kind, refused)] = of("Service default/shop")[..] else {
        panic!("{report:#}")
    };
    assert_eq!(kind, "risk", "{refused}");
    assert_eq!(of("featureGates.SomeGate")[0].0, "noEffect");
    assert_eq!(of("clusterCIDR"), [("same", "10.244.0.0/16")]);
    assert_eq!(left(node), before);

    // From a file, for another mode than the node has.
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = config_map("ipvs")["data"]["config.conf"]
        .as_str()
        .unwrap()
        .to_owned();
    std::fs::write(file.path(), text).unwrap();
    let config = format!("--config={}", file.path().display());
    let (text, _, code) = migrate(&[&config]);
    assert_eq!(code, 1);
    assert!(text.contains("\nAt risk\n"), "{text}");
    assert!(
        text.contains("the node has what mode iptables makes"),
        "{text}"
    );
    assert!(text.contains("Services: were not read"), "{text}");
    let (text, _, _) = migrate(&[&config, "-o=markdown"]);
    assert!(
        text.contains("\n## At risk\n\n| what | finding | remedy |\n"),
        "{text}"
    );
    // Nobody knows it.
    server.delete(Resource::ConfigMaps, "kube-system/kube-proxy");
    let (_, log, code) = migrate(&[&master]);
    assert_eq!(code, 1);
    assert!(log.contains("give --config FILE"), "{log}");
    assert!(log.contains("404"), "{log}");
    std::fs::write(file.path(), "kind: Other\n").unwrap();
    let (_, log, code) = migrate(&[&config]);
    assert_eq!(code, 2, "{log}");
    assert_eq!(left(node), before);
}
