//! The way of docs/install.md from kube-proxy to svcproxy and back in a cluster of kubeadm: only
//! the image changes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testbed::{
    ApiServer, Authority, Behaviour, Clients, Host, Https, KubeProxy, Resource, ServicePort,
};

use crate::follower::Follower;
use crate::lab::{Lab, run_logged};
use crate::ports::SHOP;
use crate::shop::Lasting;

/// As kubeadm 1.37 writes it into the ConfigMap `kube-proxy`, but with a fixed mode.
const CONFIG: &str = include_str!("../kube-proxy/kubeadm.conf");
const TOKEN: &str = "a-token-of-a-service-account";

/// The other file of the ConfigMap.
fn kubeconfig(server: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    server: {server}
  name: default
contexts:
- context:
    cluster: default
    namespace: default
    user: default
  name: default
current-context: default
users:
- name: default
  user:
    tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
"
    )
}

/// What the API server has: the Service of [`SHOP`], this node, and the Service CIDRs.
fn fill(server: &ApiServer, node: &Host) {
    let metadata = |name: &str| json!({"name": name, "namespace": "default"});
    server.put(
        Resource::Nodes,
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": node.v4},
                {"type": "InternalIP", "address": node.v6},
            ]},
        }),
    );
    server.put(
        Resource::ServiceCidrs,
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": [testbed::SERVICE_CIDR_V4, testbed::SERVICE_CIDR_V6]},
        }),
    );
    server.put(
        Resource::Services,
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata("shop"),
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.90", "clusterIPs": ["10.96.0.90"],
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30090}],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.90"}]}},
        }),
    );
    server.put(Resource::EndpointSlices, slice("shop"));
}

/// The endpoints of [`SHOP`] for a Service.
fn slice(service: &str) -> Value {
    let endpoint = |address: String| json!({"addresses": [address], "conditions": {"ready": true}});
    let backends = SHOP[0].backends();
    let endpoints: Vec<_> = backends
        .map(|backend| endpoint(backend.ip().to_string()))
        .collect();
    let labels = json!({"kubernetes.io/service-name": service});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-1"), "namespace": "default", "labels": labels},
        "addressType": "IPv4", "ports": [{"port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// What the kubelet mounts into the pod: the ConfigMap, swapped by a link, and the service account.
fn mount(directory: &Path, server: &Https, authority: &Authority) {
    let version = directory.join("config/..2026_01_01");
    fs::create_dir_all(&version).unwrap();
    fs::write(version.join("config.conf"), CONFIG).unwrap();
    fs::write(version.join("kubeconfig.conf"), kubeconfig(&server.url())).unwrap();
    symlink("..2026_01_01", directory.join("config/..data")).unwrap();
    for file in ["config.conf", "kubeconfig.conf"] {
        let target = Path::new("..data").join(file);
        symlink(target, directory.join("config").join(file)).unwrap();
    }
    let account = directory.join("account");
    fs::create_dir(&account).unwrap();
    fs::write(account.join("ca.crt"), authority.certificate()).unwrap();
    fs::write(account.join("token"), TOKEN).unwrap();
    symlink(env!("CARGO_BIN_EXE_svcproxy"), directory.join("kube-proxy")).unwrap();
}

/// The container of kubeadm's DaemonSet, with the mounts at their places and the variables that
/// kubeadm copies from its own environment.
fn container(lab: &Lab, directory: &Path) -> Command {
    let mut command = lab.node().command("unshare");
    let script = "set -e
mount --make-rprivate /
mkdir -p /run/secrets
for place in /var/lib /run/secrets; do mount -t tmpfs none $place; done
mkdir -p /var/lib/kube-proxy /run/secrets/kubernetes.io/serviceaccount
mount --bind \"$1/config\" /var/lib/kube-proxy
mount --bind \"$1/account\" /run/secrets/kubernetes.io/serviceaccount
exec \"$1/kube-proxy\" --config=/var/lib/kube-proxy/config.conf \"--hostname-override=$NODE_NAME\"";
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(directory)
        .env("NODE_NAME", "node-a")
        .env("HTTPS_PROXY", "http://192.0.2.1:3128")
        .env("HTTP_PROXY", "http://192.0.2.1:3128")
        .env("NO_PROXY", "127.0.0.0/8,10.96.0.0/12,.cluster.local")
        .env_remove("SVCPROXY_LOG");
    command
}

fn kube_proxy(lab: &Lab) -> KubeProxy<'_> {
    let mut shop = ServicePort::new("tcp", SHOP[0].vip(), SHOP[0].backends().collect());
    shop.node_port = Some(SHOP[1].vip().port());
    shop.load_balancer = Some(SHOP[2].vip().ip());
    let addresses = vec![lab.node().v4.into(), lab.node().v6.into()];
    KubeProxy::new(lab.node(), addresses, vec![shop])
}

/// Whether a line of the log contains a text.
fn says(text: &'static str) -> impl Fn(&Value) -> bool {
    move |line| line.as_str().is_some_and(|line| line.contains(text))
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn changing_the_image_of_kubeadms_daemon_set_is_enough() {
    let lab = Lab::new("kubeadm", SHOP);
    let (server, front, authority) = lab.node().enter(|| {
        let server = ApiServer::start(Behaviour::default()).unwrap();
        let authority = Authority::new().unwrap();
        let address = server.address();
        let front = Https::in_front_of(address, &authority, "127.0.0.1", Clients::All).unwrap();
        (server, front, authority)
    });
    fill(&server, lab.node());
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), &front, &authority);
    kube_proxy(&lab).write_ipvs("nft").unwrap();
    lab.node().sysctl("net/ipv4/vs/conntrack", "1").unwrap();
    lab.node().sysctl("net/ipv4/ip_forward", "1").unwrap();
    let mut lasting = Lasting::open(&lab, SHOP);

    let svcproxy = lasting.through(|lab| {
        let svcproxy = Follower::start(&mut container(lab, directory.path()));
        svcproxy.wait("a removal", says("removed what kube-proxy left"));
        svcproxy
    });
    for port in SHOP {
        for from in [lab.probe(), lab.node(), lab.client()] {
            lab.ask(from, port).unwrap();
        }
    }
    let routes = lab
        .node()
        .run(["ip", "route", "show", "table", "local"])
        .unwrap();
    assert!(routes.contains("local 10.96.0.0/12 "), "{routes}");
    // Changes arrive: the API server was reached with the mounted credentials.
    let metadata = json!({"name": "other", "namespace": "default"});
    server.put(
        Resource::Services,
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"clusterIP": "10.96.0.91", "clusterIPs": ["10.96.0.91"],
                     "ports": [{"port": 80, "protocol": "TCP"}]},
        }),
    );
    server.put(Resource::EndpointSlices, slice("other"));
    let is_there = || {
        let servers = lab.ipvsadm().join("\n");
        let is_there = servers.contains("-A -t 10.96.0.91:80 ");
        is_there.then_some(()).ok_or(servers)
    };
    testbed::eventually(crate::lab::PATIENCE, is_there).unwrap();
    svcproxy.terminate();

    // Back to kube-proxy.
    lasting.through(|lab| kube_proxy(lab).write_ipvs("nft").unwrap());
    let arguments = ["cleanup", "--log-format=json", "--drain-timeout=0"];
    let (log, code) = run_logged(&mut lab.svcproxy(&arguments));
    assert_eq!(code, 0, "{log:#?}");
    let tables = lab.node().run(["nft", "list", "tables"]).unwrap();
    assert!(!tables.contains("svcproxy"), "{tables}");
    for port in SHOP {
        for from in [lab.probe(), lab.node(), lab.client()] {
            lab.ask(from, port).unwrap();
        }
    }
}
