//! The manifests of `examples/standalone/`, without a cluster: names resolve, the environment is
//! printed, and requests arrive.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;

use testbed::{Protocol, eventually};

use crate::fallback::fetch;
use crate::follower::{Follower, PATIENCE};
use crate::lab::{Lab, client, succeed};
use crate::ports::{Port, port};

const CART: Port = port(
    Protocol::Tcp,
    "10.96.0.20:8080",
    &["10.244.1.10:8080", "10.244.1.11:8080"],
);

/// The address that the DNS server answers on: the node's.
fn dig(lab: &Lab, port: u16, question: &str) -> String {
    let server = format!("@{}", lab.node().v4);
    let port = port.to_string();
    let mut dig: Command = lab.probe().command("dig");
    dig.args([&server, "-p", &port, "+short", "+tries=1", "+time=10"]);
    dig.args(question.split(' '));
    let mut lines: Vec<_> = succeed(&mut dig).lines().map(str::to_owned).collect();
    lines.sort();
    lines.join(" ")
}

fn standalone(mode: &str) {
    let lab = Lab::new(&format!("alone-{mode}"), &[CART]);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/standalone");
    for file in ["services.yaml", "cart.yaml", "store.yaml"] {
        lab.write(
            file,
            &std::fs::read_to_string(directory.join(file)).unwrap(),
        );
    }
    let dns = format!("--dns-address={}:53", lab.node().v4);
    let mut command = lab.svcproxy(&[&format!("--mode={mode}"), "--log-format=json", &dns]);
    let svcproxy = Follower::start(command.args(lab.settings()));
    svcproxy.wait("a sync", |event| event["message"] == "synced");

    // Names resolve, for a pod, at the node's address.
    let dig = |question: &str| dig(&lab, 53, question);
    let name = |name: &str| format!("{name}.shop.svc.cluster.local");
    assert_eq!(dig(&name("cart")), "10.96.0.20");
    assert_eq!(dig(&name("store")), "10.244.1.20 10.244.1.21");
    assert_eq!(dig(&name("store-1.store")), "10.244.1.21");
    let servers = ["store-0", "store-1"].map(|host| format!("0 50 6379 {host}.{}.", name("store")));
    assert_eq!(
        dig(&format!("{} SRV", name("_redis._tcp.store"))),
        servers.join(" ")
    );
    assert_eq!(dig("-x 10.244.1.20"), format!("store-0.{}.", name("store")));
    assert_eq!(dig(&name("bank")), "payments.example.com.");

    // Requests arrive at the address that the name leads to, at both carts.
    let vip = SocketAddr::new(dig(&name("cart")).parse().unwrap(), 8080);
    let mut seen = std::collections::BTreeSet::new();
    eventually(PATIENCE, || {
        let answer = client(Protocol::Tcp, vip).ask(lab.probe());
        seen.insert(answer.map_err(|error| error.to_string())?.backend);
        (seen.len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .unwrap();

    // The environment of a container names the same address.
    let manifests = lab.manifests().to_str().unwrap();
    let script = format!(
        "eval \"$({} env -n shop --manifests {manifests})\" && echo $CART_SERVICE_HOST:$CART_PORT_8080_TCP_PORT",
        env!("CARGO_BIN_EXE_svcproxy")
    );
    let printed = succeed(Command::new("sh").args(["-c", &script]));
    assert_eq!(printed, "10.96.0.20:8080\n");

    // A change of the files changes the names.
    lab.remove("store.yaml");
    eventually(PATIENCE, || match dig(&name("store")).as_str() {
        "" => Ok(()),
        other => Err(other.to_owned()),
    })
    .unwrap();
    svcproxy.terminate();
}

/// An address that another program has is a condition everywhere, until it is free.
#[test]
#[ignore = "netns: needs root"]
fn an_address_of_the_dns_server_that_is_taken_is_a_condition() {
    let lab = Lab::new("alone-taken", &[CART]);
    let address = SocketAddr::new(lab.node().v4.into(), 53);
    let taken = lab.node().enter(|| UdpSocket::bind(address)).unwrap();
    let dns = format!("--dns-address={address}");
    let mut command = lab.svcproxy(&["--mode=userspace", "--log-format=json", &dns]);
    let svcproxy = Follower::start(command.args(lab.settings()));
    svcproxy.wait("the condition", |event| event["reason"] == "DnsNotServed");
    let says = |port, path, what: &str| {
        let text = fetch(&lab, port, path);
        assert!(text.contains(what), "{path}: {text}");
    };
    says(10249, "/conditions", "ss -lntup");
    says(
        10249,
        "/metrics",
        "svcproxy_conditions{reason=\"DnsNotServed\"} 1",
    );
    let listening = format!("svcproxy_dns_listening{{address=\"{address}\"}}");
    says(10249, "/metrics", &format!("{listening} 0"));
    says(10256, "/healthz", "DnsNotServed");
    let status = succeed(&mut lab.svcproxy(&["status"]));
    assert!(status.contains("does not serve"), "{status}");

    drop(taken);
    eventually(PATIENCE, || {
        let conditions = fetch(&lab, 10249, "/conditions");
        match conditions.contains("DnsNotServed") {
            true => Err(conditions),
            false => Ok(()),
        }
    })
    .unwrap();
    says(10249, "/metrics", &format!("{listening} 1"));
    svcproxy.terminate();
}

#[test]
#[ignore = "netns: needs root"]
fn examples_standalone_work_in_mode_iptables() {
    standalone("iptables");
}

#[test]
#[ignore = "netns: needs root"]
fn examples_standalone_work_in_mode_nftables() {
    standalone("nftables");
}

#[test]
#[ignore = "netns: needs root"]
fn examples_standalone_work_in_mode_userspace() {
    standalone("userspace");
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn kernel_examples_standalone_work_in_mode_ipvs() {
    standalone("ipvs");
}
