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

/// The text of `svcproxy explain ARGUMENTS`, and the exit code.
fn explain(lab: &Lab, arguments: &[&str]) -> (String, i32) {
    let mut command = lab.svcproxy(&[&["explain"], arguments].concat());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    (format!("{text}{error}"), output.status.code().unwrap())
}

#[track_caller]
fn has_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

/// `explain` follows a connection through routes, sockets and the proxy, as a real one goes; `verify` names
/// what differs from the plan, and connects.
#[test]
#[ignore = "netns: needs root"]
fn explain_and_verify_in_mode_userspace() {
    let lab = Lab::new("usexplain", SHOP);
    let metadata = "annotations: {svcproxy.io/proxy-protocol: v1}";
    lab.write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
    lab.write(
        "header.yaml",
        &crate::refused::manifest("header", "10.96.0.21", FIRST).replacen(
            "metadata: {",
            &format!("metadata: {{{metadata}, "),
            1,
        ),
    );
    lab.write(
        "late.yaml",
        &crate::refused::manifest("late", "10.96.0.22", FIRST),
    );
    // Another program has a port of a Service.
    let taken = lab
        .node()
        .enter(|| std::net::TcpListener::bind("0.0.0.0:8081"))
        .unwrap();
    lab.edit("late.yaml", "ports: [{port: 80}]", "ports: [{port: 8081}]");
    let settings = lab.settings();
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let source = [&settings[..], &["--mode=userspace"]].concat();
    // The plan alone.
    let (text, code) = explain(&lab, &[&["10.96.0.90:80"], &source[..]].concat());
    assert_eq!(code, 0, "{text}");
    has_all(
        &text,
        &["the plan, mode userspace", "listener tcp 10.96.0.90:80"],
    );
    // Nothing runs.
    let against = [&source[..], &["--against=kernel"]].concat();
    let (text, code) = explain(&lab, &[&["10.96.0.90:80"], &against[..]].concat());
    assert_eq!(code, 1, "{text}");
    has_all(&text, &["NotRunning: no svcproxy runs here", "Drift: "]);

    let svcproxy = start(&lab, &["--mode=userspace"]);
    everyone_is_served(&lab);
    let from_client = format!("--from={}", lab.client().v4);
    for arguments in [&[][..], &against] {
        let target = ["10.96.0.90:80", &from_client];
        let (text, code) = explain(&lab, &[&target[..], arguments].concat());
        assert_eq!(code, 0, "{text}");
        has_all(
            &text,
            &[
                "mode userspace\n",
                "Service   default/shop:",
                "delivered to this node by svcproxy's route to 10.96.0.0/12",
                "listener tcp 10.96.0.90:80: svcproxy accepts the connection",
                "served by 3 endpoints\n",
                "  -> 10.244.1.10:8080  sees an address of this node\n",
            ],
        );
        assert!(!text.contains("\nWhy"), "{text}");
        let (text, _) = explain(&lab, &[&["10.96.0.21:80"], arguments].concat());
        has_all(&text, &[", and the client's by the PROXY protocol v1\n"]);
        let target = ["node-port:30090", &from_client];
        let (text, code) = explain(&lab, &[&target[..], arguments].concat());
        assert!(code == 0 && !text.contains("\nWhy"), "{text}");
        // The program that listens on all addresses has the port.
        let (text, code) = explain(&lab, &[&["10.96.0.22:8081"], arguments].concat());
        assert_eq!(code, 1, "{text}");
        let holder = format!("PID {} (", std::process::id());
        has_all(
            &text,
            &["ListenFailed: svcproxy does not listen at tcp 10.96.0.22:8081: "],
        );
        has_all(&text, &[&holder, "has the port, at 0.0.0.0:8081"]);
        // A port of a Service CIDR that no Service has.
        let (text, code) = explain(&lab, &[&["10.96.0.99:80"], arguments].concat());
        assert_eq!(code, 1, "{text}");
        has_all(&text, &["nobody listens here", "NotAService: "]);
    }

    let verify = |arguments: &[&str]| -> Value {
        let mut command = lab.svcproxy(&[&["verify", "-o=json"], arguments].concat());
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"))
    };
    let differing = |document: &Value| -> Vec<String> {
        let services = document["services"].as_array().unwrap().iter();
        let services = services.filter(|of| of["verdict"] == "differs");
        let steps = services.flat_map(|of| of["differences"].as_array().unwrap().clone());
        steps.map(|of| of.as_str().unwrap().to_owned()).collect()
    };
    // With the source of the process, and with that of the command line.
    for arguments in [&[][..], &source] {
        let document = verify(arguments);
        assert_eq!(document["mode"], "userspace");
        assert_eq!(
            differing(&document),
            ["listen on tcp 10.96.0.22:8081"],
            "{document:#}"
        );
        assert_eq!(document["shared"], Value::Array(Vec::new()), "{document:#}");
        assert_eq!(document["totals"]["services"], 3, "{document:#}");
    }
    let document = verify(&["--connect", "shop", "--connect-timeout=2s"]);
    assert_eq!(document["totals"]["ok"], 1, "{document:#}");
    let connections = document["services"][0]["connections"].as_array().unwrap();
    assert!(connections.len() > 4, "{document:#}");
    // Without privileges, too.
    let mut command = lab.node().command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    command.args([env!("CARGO_BIN_EXE_svcproxy"), "verify", "shop"]);
    let text = succeed(&mut command);
    assert!(text.ends_with("1 Services, 1 ok, 0 differ\n"), "{text}");
    // Another source: the process does not serve what it has.
    lab.write("shop.yaml", &shop(&[FIRST, SECOND], "", ""));
    let applied = || match differing(&verify(&["shop"])) {
        steps if steps.is_empty() => Ok(()),
        steps => Err(steps),
    };
    eventually(PATIENCE, applied).unwrap();
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("shop.yaml"), shop(&[THIRD], "", "")).unwrap();
    let manifests = format!("--manifests={}", other.path().display());
    let own: Vec<_> = settings[1..].to_vec();
    let document = verify(&[&own[..], &[&manifests, "--mode=userspace"]].concat());
    let steps = differing(&document);
    let is_there = |part: &str| steps.iter().any(|of| of.starts_with(part));
    assert!(is_there("serve tcp 10.96.0.90:80"), "{document:#}");
    assert!(is_there("withdraw tcp 10.96.0.21:80"), "{document:#}");

    // It ends, and its listeners with it.
    svcproxy.terminate();
    let document = verify(&source);
    assert_eq!(document["totals"]["differs"], 3, "{document:#}");
    let (text, code) = explain(&lab, &[&["10.96.0.90:80"], &against[..]].concat());
    assert_eq!(code, 1, "{text}");
    has_all(&text, &["nobody listens here", "NotRunning: "]);
    let (text, _) = explain(&lab, &["10.96.0.90:80", "--mode=userspace"]);
    assert!(
        text.contains("NotRunning: ") && !text.contains("NotAService"),
        "{text}"
    );
    drop(taken);
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
