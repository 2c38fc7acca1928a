//! Mode userspace: what the commands say of it, what it needs, and the way to and from other modes.

use serde_json::Value;
use testbed::{AskError, eventually};

use crate::fallback::fetch;
use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, client, succeed};
use crate::load::{nothing_left, of_iptables_mode, of_nftables_mode, start};
use crate::ports::SHOP;
use crate::shop::{FIRST, SECOND, THIRD, shop};

/// The routes with svcproxy's protocol number.
fn routes(lab: &Lab) -> Vec<String> {
    let listed = ["-4", "-6"].map(|family| {
        let words = [
            "ip", family, "route", "show", "table", "local", "proto", "73",
        ];
        lab.node().run(words).unwrap()
    });
    let lines = listed.iter().flat_map(|text| text.lines());
    lines.map(|line| line.trim().to_owned()).collect()
}

fn everyone_is_served(lab: &Lab) {
    for from in [lab.probe(), lab.node(), lab.client()] {
        for port in SHOP {
            eventually(PATIENCE, || lab.ask(from, port))
                .unwrap_or_else(|error| panic!("{port:?} from {}: {error}", from.name()));
        }
    }
}

/// `plan` has the steps of a start; `status`, `services` and `describe` ask the process; `cleanup`
/// removes the routes.
#[test]
#[ignore = "netns: needs root"]
fn commands_in_mode_userspace() {
    let lab = Lab::new("userspace", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let plan = |arguments: &[&str]| {
        let mut command = lab.svcproxy(&["plan", "--mode=userspace"]);
        succeed(command.args(lab.settings()).args(arguments))
    };
    for steps in [plan(&[]), plan(&["--against=kernel"])] {
        assert!(steps.contains("listen on tcp 10.96.0.90:80\n"), "{steps}");
        assert!(steps.contains("listen on tcp 203.0.113.90:80\n"), "{steps}");
        assert!(
            steps.contains("add route local 10.96.0.0/12 dev lo src"),
            "{steps}"
        );
    }
    assert_eq!(routes(&lab), [""; 0]);

    let svcproxy = start(&lab, &["--mode=userspace"]);
    everyone_is_served(&lab);
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&succeed(&mut lab.svcproxy(arguments))).unwrap()
    };
    let status = json(&["status", "-o=json"]);
    assert_eq!(status["mode"], "userspace", "{status:#}");
    let vips = status["services"][0]["vips"].as_array().unwrap();
    let cluster_ip = vips
        .iter()
        .find(|vip| vip["address"] == "10.96.0.90" && vip["protocol"] == "tcp");
    let endpoints = cluster_ip.unwrap()["realServers"].as_array().unwrap();
    assert_eq!(endpoints.len(), 3, "{status:#}");
    let total: u64 = endpoints
        .iter()
        .map(|endpoint| endpoint["totalConnections"].as_u64().unwrap())
        .sum();
    assert!(total >= 3, "{status:#}");
    let text = succeed(&mut lab.svcproxy(&["services"]));
    assert!(text.contains("10.96.0.90"), "{text}");
    let text = succeed(&mut lab.svcproxy(&["describe", "shop"]));
    assert!(text.contains(FIRST), "{text}");
    let metrics = fetch(&lab, 10249, "/metrics");
    let has = |line: &str| assert!(metrics.lines().any(|of| of.starts_with(line)), "{metrics}");
    has("svcproxy_proxied_connections_total{protocol=\"tcp\"} ");
    has("svcproxy_proxied_open_limit{protocol=\"tcp\"} ");
    has("svcproxy_proxy_mode{mode=\"userspace\"} 1");
    assert_eq!(routes(&lab).len(), 3, "{:?}", routes(&lab));

    svcproxy.terminate();
    // Nobody listens any more, and the routes are still there.
    assert_eq!(lab.ask(lab.probe(), &SHOP[0]), Err(AskError::Refused));
    let mut services = lab.svcproxy(&["services", "--mode=userspace"]);
    assert_eq!(services.output().unwrap().status.code(), Some(1));
    succeed(lab.svcproxy(&["cleanup"]).env("SVCPROXY_LOG", "warn"));
    assert_eq!(routes(&lab), [""; 0]);
}

#[test]
#[ignore = "netns: needs root"]
fn modes_are_switched_to_userspace_and_back() {
    let lab = Lab::new("touser", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    for mode in ["iptables", "nftables"] {
        let svcproxy = start(&lab, &[&format!("--mode={mode}")]);
        everyone_is_served(&lab);
        svcproxy.terminate();
        let svcproxy = start(&lab, &["--mode=userspace"]);
        nothing_left(&svcproxy, || {
            [of_iptables_mode(&lab), of_nftables_mode(&lab)].concat()
        });
        everyone_is_served(&lab);
        assert_eq!(routes(&lab).len(), 3);
        svcproxy.terminate();
        let svcproxy = start(&lab, &[&format!("--mode={mode}")]);
        nothing_left(&svcproxy, || routes(&lab));
        everyone_is_served(&lab);
        svcproxy.terminate();
        succeed(lab.svcproxy(&["cleanup"]).env("SVCPROXY_LOG", "warn"));
    }
}

/// svcproxy in mode userspace without any capability.
pub(crate) fn start_without_capabilities(lab: &Lab, arguments: &[&str]) -> Follower {
    let mut command = lab.node().command("setpriv");
    command
        .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
        .arg(env!("CARGO_BIN_EXE_svcproxy"))
        .args(["--mode=userspace", "--log-format=json"])
        .args(lab.settings())
        .args(arguments);
    let follower = Follower::start(&mut command);
    follower.wait("a sync", |event| event["message"] == "synced");
    follower
}

/// A node port works for a user without any capability, and cluster IPs that are routed to the node
/// and named.
#[test]
#[ignore = "netns: needs root"]
fn a_user_without_capabilities_serves_node_ports_and_given_addresses() {
    let lab = Lab::new("nouser", SHOP);
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    let start = |arguments: &[&str]| start_without_capabilities(&lab, arguments);
    let ask =
        |address: [u8; 4], port| client(SHOP[0].protocol, (address, port).into()).ask(lab.client());
    let node = lab.node().v4.octets();
    let svcproxy = start(&[]);
    svcproxy.wait("the condition", |event| {
        event["reason"] == "RoutesForbidden"
    });
    ask(node, 30090).unwrap();
    assert!(ask([10, 96, 0, 90], 80).is_err());
    // It may not look for what others left, which is no condition: there may be nothing.
    svcproxy.wait("a warning", |event| {
        let message = event["message"].as_str().unwrap_or_default();
        message.starts_with("cannot check whether kube-proxy, svcproxy's mode ipvs, ")
    });
    let log = svcproxy.terminate();
    let left = log
        .iter()
        .filter(|event| event["reason"] == "PredecessorLeft");
    assert_eq!(left.count(), 0, "{log:#?}");

    lab.node()
        .ip(&["route add local 10.96.0.0/12 dev lo".to_owned()])
        .unwrap();
    lab.node()
        .sysctl("net/ipv4/ip_unprivileged_port_start", "80")
        .unwrap();
    let svcproxy = start(&["--listen=10.96.0.0/12"]);
    ask([10, 96, 0, 90], 80).unwrap();
    ask(node, 30090).unwrap();
    svcproxy.terminate();
}

#[track_caller]
fn has_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

/// A node without an address that others can reach serves nothing, and says so.
#[test]
#[ignore = "netns: needs root"]
fn a_node_without_an_address_says_so() {
    let namespace = testbed::Namespace::new("noaddress").unwrap();
    let mut check = namespace.command(env!("CARGO_BIN_EXE_svcproxy"));
    let text = succeed(check.args(["check", "--mode=userspace"]));
    has_all(
        &text,
        &["no address that other machines can reach", "--node-ip"],
    );
    check = namespace.command(env!("CARGO_BIN_EXE_svcproxy"));
    let text = succeed(check.args(["check", "--mode=userspace", "--node-ip=192.0.2.1"]));
    assert!(!text.contains("no address"), "{text}");
}
