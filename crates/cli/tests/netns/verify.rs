//! `svcproxy verify` on a node that a svcproxy has served, and on one that it serves.

use serde_json::Value;
use testbed::Protocol;

use crate::follower::Follower;
use crate::lab::{Lab, succeed};
use crate::refused::manifest;

/// A Service with a real endpoint, and one whose endpoint does not answer.
fn lab(name: &str) -> (Lab, testbed::Backend) {
    let topology = testbed::Topology::new(name, &[1, 1]).unwrap();
    let lab = Lab::over(topology);
    lab.write("web.yaml", &manifest("web", "10.96.0.21", "10.244.1.1"));
    lab.write("dead.yaml", &manifest("dead", "10.96.0.22", "10.244.2.1"));
    let backend = lab.serve(Protocol::Tcp, ([10, 244, 1, 1], 8080).into());
    (lab, backend)
}

/// The document of `svcproxy verify ARGUMENTS`, and the exit code.
fn verify(lab: &Lab, arguments: &[&str]) -> (Value, i32) {
    let mut command = lab.svcproxy(&["verify", "-o=json"]);
    let output = command.args(arguments).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let document = serde_json::from_slice(&output.stdout);
    let document = document.unwrap_or_else(|_| panic!("{error}"));
    (document, output.status.code().unwrap())
}

/// The names of the Services with a verdict.
fn with(document: &Value, verdict: &str) -> Vec<String> {
    let services = document["services"].as_array().unwrap().iter();
    let services = services.filter(|of| of["verdict"] == verdict);
    services
        .map(|of| of["service"].as_str().unwrap().to_owned())
        .collect()
}

/// `drift` is done by hand, and concerns Service `web`; `shared` concerns all.
fn is_verified(mode: &str, drift: &str, shared: &str) {
    let (lab, _backend) = lab("verify");
    let settings = lab.settings();
    let once = lab.svcproxy(&[mode, "--once"]).args(&settings).output();
    let once = once.unwrap();
    assert!(once.status.success(), "{once:?}");
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let alone = [&settings[..], &["--metrics-bind-address="]].concat();

    let (document, code) = verify(&lab, &alone);
    assert_eq!(code, 0, "{document:#}");
    assert_eq!(document["mode"], mode.trim_start_matches("--mode="));
    assert_eq!(with(&document, "ok"), ["default/dead", "default/web"]);

    let connect = [
        &alone[..],
        &["--connect", "--connect-timeout=1s", "--connect-at-once=2"],
    ]
    .concat();
    let (document, code) = verify(&lab, &connect);
    assert_eq!(code, 1, "{document:#}");
    assert_eq!(with(&document, "unreachable"), ["default/dead"]);
    assert_eq!(with(&document, "ok"), ["default/web"]);
    let web = &document["services"][1]["connections"];
    assert_eq!(web.as_array().unwrap().len(), 2, "{document:#}");
    for connection in web.as_array().unwrap() {
        assert!(connection["milliseconds"].as_f64().unwrap() > 0.0);
    }
    let only_web = [&connect[..], &["web", "-n=default"]].concat();
    let (document, code) = verify(&lab, &only_web);
    assert_eq!(code, 0, "{document:#}");
    let (_, code) = verify(&lab, &[&alone[..], &["no-such"]].concat());
    assert_eq!(code, 1);

    lab.node().run(["sh", "-c", drift]).unwrap();
    let (document, code) = verify(&lab, &alone);
    assert_eq!(code, 1, "{document:#}");
    assert_eq!(with(&document, "differs"), ["default/web"], "{document:#}");
    assert_eq!(document["shared"], Value::Array(Vec::new()));
    let mut text = lab.svcproxy(&["verify"]);
    let text = text.args(&alone).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("\ndefault/web\n  would "), "{text}");
    assert!(text.contains("2 Services, 1 ok, 1 differ"), "{text}");

    lab.node().run(["sh", "-c", shared]).unwrap();
    let (document, _) = verify(&lab, &[&alone[..], &["dead"]].concat());
    assert_ne!(document["shared"], Value::Array(Vec::new()));
}

#[test]
#[ignore = "netns: needs root"]
fn drift_in_mode_iptables_is_named_with_its_service() {
    is_verified(
        "--mode=iptables",
        "iptables-save -t nat | grep -e '--to-destination 10.244.1.1:8080' | sed 's/^-A/-D/' \
         | xargs iptables -t nat",
        "iptables -t nat -F SVCPROXY-POSTROUTING",
    );
}

#[test]
#[ignore = "netns: needs root"]
fn drift_in_mode_nftables_is_named_with_its_service() {
    is_verified(
        "--mode=nftables",
        "nft delete element ip svcproxy endpoints \
         $(nft list map ip svcproxy endpoints | tr -d '\\n' | sed 's/.*elements = //' \
           | tr ',{}' '\\n' | grep '10.96.0.21' | sed 's/^ */{ /; s/ *$/ }/')",
        "nft flush chain ip svcproxy nat-postrouting",
    );
}

/// Without flags, the running svcproxy names its settings and its source.
#[test]
#[ignore = "netns: needs root"]
fn a_running_svcproxy_supplies_settings_and_source() {
    let (lab, _backend) = lab("verified");
    for mode in ["--mode=iptables", "--mode=nftables"] {
        let mut command = lab.svcproxy(&[mode, "--log-format=json", "--masquerade-all"]);
        command.args(["--nodeport-addresses=primary", "--ipvs-scheduler=wlc"]);
        let svcproxy = Follower::start(command.args(lab.settings()));
        svcproxy.wait("a sync", |event| event["message"] == "synced");
        let text = succeed(&mut lab.svcproxy(&["verify", "--wait=20s"]));
        let name = mode.trim_start_matches("--mode=");
        let last = format!("\nmode {name}: 2 Services, 2 ok, 0 differ\n");
        assert!(text.ends_with(&last), "{text}");
        svcproxy.terminate();
    }
}
