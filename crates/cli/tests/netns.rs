//! Tests on this machine's kernel, with or without IPVS, in separate network namespaces.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

#[path = "netns/conditions.rs"]
mod conditions;
#[path = "netns/confined.rs"]
mod confined;
#[path = "kernel/confined_shop.rs"]
mod confined_shop;
#[path = "netns/fallback.rs"]
mod fallback;
#[path = "kernel/family.rs"]
mod family;
#[allow(dead_code, reason = "the kernel's tests use more of it")]
#[path = "kernel/follower.rs"]
mod follower;
#[path = "netns/hanging.rs"]
mod hanging;
#[path = "netns/host.rs"]
mod host;
#[allow(dead_code, reason = "the kernel's tests use more of it")]
#[path = "kernel/lab.rs"]
mod lab;
#[path = "kernel/load.rs"]
mod load;
#[path = "netns/log.rs"]
mod log;
#[path = "netns/look.rs"]
mod look;
#[path = "netns/page.rs"]
mod page;
#[allow(dead_code, reason = "the kernel's tests use more of it")]
#[path = "kernel/ports.rs"]
mod ports;
#[path = "netns/quick_start.rs"]
mod quick_start;
#[path = "netns/refused.rs"]
mod refused;
#[path = "kernel/repair.rs"]
mod repair;
#[path = "netns/repair.rs"]
mod repair_iptables;
#[allow(dead_code, reason = "the kernel's tests use more of it")]
#[path = "kernel/shop.rs"]
mod shop;
#[path = "netns/standalone.rs"]
mod standalone;
#[path = "netns/support_bundle.rs"]
mod support_bundle;
#[path = "netns/switching.rs"]
mod switching;
#[path = "netns/top.rs"]
mod top;
#[path = "netns/userspace.rs"]
mod userspace;
#[path = "netns/userspace_limits.rs"]
mod userspace_limits;
#[path = "netns/verify.rs"]
mod verify;
#[path = "netns/way.rs"]
mod way;

use serde_json::Value;
use testbed::{Backend, Client, Protocol, Topology};

/// As kube-proxy's users call it: without a source, and with a file that may be missing.
#[test]
#[ignore = "netns: needs root"]
fn cleanup_as_a_flag_needs_nothing_else() {
    let topology = Topology::new("cleanup", &[0]).unwrap();
    let node = &topology.node().host;
    let svcproxy = |arguments: &[&str]| {
        let mut command = node.command(env!("CARGO_BIN_EXE_svcproxy"));
        let output = command.args(arguments).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {log}");
        log
    };
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let rules = || {
        let saved = node.run(["iptables-save"]).unwrap();
        let lines = saved.lines().filter(|line| line.starts_with("-A"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for cleanup in [
        &["--cleanup"][..],
        &[
            "--cleanup",
            "--config=/nonexistent/config.conf",
            "--hostname-override=node-a",
        ],
    ] {
        svcproxy(&["--mode=iptables", "--once", "--manifests", examples]);
        assert!(rules().len() > 10);
        let log = svcproxy(cleanup);
        assert_eq!(rules(), [""; 0], "{log}");
        // A second time there is nothing to do.
        svcproxy(cleanup);
    }
}

#[test]
#[ignore = "netns: needs root"]
fn once_gives_up_where_no_api_server_answers() {
    let topology = Topology::new("giveup", &[0]).unwrap();
    let node = &topology.node().host;
    let mut command = node.command(env!("CARGO_BIN_EXE_svcproxy"));
    command.args(["--mode=iptables", "--once", "--node-name=node-a"]);
    command.args(["--master=http://127.0.0.1:9", "--timeout=5s"]);
    let output = command.output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    let last = log.lines().last().unwrap();
    assert!(
        last.contains("after 5s (--timeout): missing EndpointSlice, Node ("),
        "{log}"
    );
    assert!(
        last.contains("cannot reach the API server http://127.0.0.1:9: "),
        "{log}"
    );
    let saved = node.run(["iptables-save"]).unwrap();
    assert!(!saved.contains("SVCPROXY"), "{saved}");
}

#[test]
#[ignore = "netns: needs root"]
fn pods_reach_ipv6_services_without_an_ipv6_address_in_mode_iptables() {
    family::pods_reach_both_families("--mode=iptables");
}

/// Without --node-ip, on a machine whose kernel has only one of the two families.
#[test]
#[ignore = "netns: needs root"]
fn a_missing_family_does_not_affect_the_other() {
    let topology = Topology::new("onefamily", &[0]).unwrap();
    let node = &topology.node().host;
    let off = "net.ipv6.conf.all.disable_ipv6=1";
    node.run(["sysctl", "-qw", off]).unwrap();
    let examples = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/dual-stack.yaml"
    );
    let mut command = node.command(env!("CARGO_BIN_EXE_svcproxy"));
    command.args([
        "--mode=iptables",
        "--once",
        "--node-name=node-a",
        "--log-format=json",
        "--manifests",
        examples,
    ]);
    command.args(["--service-cidr=10.96.0.0/12,fd00:10:96::/112"]);
    let output = command.output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{log}");
    let events = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let reasons: Vec<_> = events
        .filter_map(|event| Some(event["reason"].as_str()?.to_owned()))
        .collect();
    assert_eq!(reasons, ["FamilyLeftOut"], "{log}");
    let [four, six] = ["iptables-save", "ip6tables-save"].map(|save| node.run([save]).unwrap());
    assert!(four.contains("-d 10.96.0.84/32"), "{four}");
    assert!(!six.contains("SVCPROXY"), "{six}");
}

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  sessionAffinity: ClientIP
  externalTrafficPolicy: Local
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.1.1], nodeName: node-a}, {addresses: [10.244.2.1], nodeName: node-b}]
";

/// The plan before and after a sync, and the status of the rules.
#[test]
#[ignore = "netns: needs root"]
fn plan_and_status_in_iptables_mode_read_the_kernel() {
    let topology = Topology::new("status", &[1, 1]).unwrap();
    let node = &topology.node().host;
    let manifests = tempfile::tempdir().unwrap();
    std::fs::write(manifests.path().join("web.yaml"), WEB).unwrap();
    let source = format!("--manifests={}", manifests.path().display());
    let address = format!("--node-ip={},{}", node.v4, node.v6);
    let cluster = "--cluster-cidr=10.244.0.0/16";
    let svcproxy = |arguments: &[&str]| {
        let mut command = node.command(env!("CARGO_BIN_EXE_svcproxy"));
        let output = command.args(arguments).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {log}");
        String::from_utf8(output.stdout).unwrap()
    };
    let settings = [
        "--mode=iptables",
        &source,
        "--node-name=node-a",
        &address,
        cluster,
    ];
    let plan = |more: &[&str]| svcproxy(&[&["plan"], &settings[..], more].concat());

    let before: Value = serde_json::from_str(&plan(&["--against=kernel", "-o=json"])).unwrap();
    let restores = before["restores"].as_array().unwrap();
    assert_eq!(restores.len(), 2);
    for (restore, program) in restores
        .iter()
        .zip(["iptables-restore", "ip6tables-restore"])
    {
        let text = restore["text"].as_str().unwrap();
        node.run_with_input([program, "--noflush", "--test"], text)
            .unwrap();
    }
    svcproxy(&[&settings[..], &["--once"]].concat());
    assert_eq!(plan(&["--against=kernel"]), "# nothing to do\n");

    let pod = &topology.node().pods[0];
    let backend = (pod.v4, 8080).into();
    let _backend = Backend::start(pod, Protocol::Tcp, backend, "web").unwrap();
    let answer = Client::new(Protocol::Tcp, (node.v4, 30080).into()).ask(&topology.client);
    assert_eq!(answer.unwrap().backend, "web");
    let text = svcproxy(&["status", "--services"]);
    let seconds = 10_800;
    let expected = format!(
        "default/nobody\n  \
         tcp 10.96.0.11:80 no endpoints: refused\n\
         default/web\n  \
         tcp node port 30080 (ipv4) (http) clients in the cluster: random, client keeps its endpoint \
         {seconds} s\n    \
         -> 10.244.1.1:8080              total 0\n    \
         -> 10.244.2.1:8080              total 0\n  \
         tcp node port 30080 (ipv4) (http) clients outside of the cluster: random, client keeps its \
         endpoint {seconds} s\n    \
         -> 10.244.1.1:8080              total 1\n  \
         tcp 10.96.0.10:80 (http) random, client keeps its endpoint {seconds} s\n    \
         -> 10.244.1.1:8080              total 0\n    \
         -> 10.244.2.1:8080              total 0\n"
    );
    assert_eq!(text, expected);
    let summary = svcproxy(&["status"]);
    for line in [
        "running     no: this is what the kernel has",
        "mode        iptables",
        "serves      2 Services, 4 VIP ports, 5 real servers",
        "conditions  unknown, no svcproxy answers",
    ] {
        assert!(summary.lines().any(|one| one == line), "{summary}");
    }
    let json: Value = serde_json::from_str(&svcproxy(&["status", "-o=json"])).unwrap();
    let outside = &json["services"][1]["vips"][1];
    assert_eq!(outside["clients"], "outside");
    assert_eq!(outside["realServers"][0]["totalConnections"], 1);
    assert_eq!(outside["realServers"][0]["weight"], Value::Null);
}
