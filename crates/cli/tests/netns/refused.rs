//! A Service whose rules iptables permanently rejects.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use testbed::eventually;

use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE};

/// A Service with one endpoint.
pub(crate) fn manifest(name: &str, address: &str, endpoint: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{clusterIP: {address}, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [{endpoint}]}}]
"
    )
}

/// Replaces iptables-restore: rejects rules for one address.
const REFUSES: &str = r#"#!/bin/sh
text=$(mktemp) && cat >"$text"
line=$(grep -n -m1 -e '--to-destination 10.244.2.99:' "$text" | cut -d: -f1)
if [ -n "$line" ]; then
    echo "line $line: RULE_APPEND failed (Invalid argument)" >&2
    rm "$text"
    exit 4
fi
REAL "$@" <"$text"
code=$?
rm "$text"
exit $code
"#;

fn reasons(log: &[Value]) -> Vec<&str> {
    log.iter()
        .filter_map(|event| event["reason"].as_str())
        .collect()
}

#[test]
#[ignore = "netns: needs root"]
fn it_is_reported_once_and_causes_no_full_sync_for_others() {
    let lab = Lab::new("refused", &[]);
    let programs = tempfile::tempdir().unwrap();
    let name = "iptables-nft-restore";
    let real = lab.node().run(["sh", "-c", &format!("command -v {name}")]);
    let script = REFUSES.replace("REAL", real.unwrap().trim());
    let wrapper = programs.path().join(name);
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    lab.write("bad.yaml", &manifest("bad", "10.96.0.20", "10.244.2.99"));
    lab.write("good.yaml", &manifest("good", "10.96.0.21", "10.244.2.1"));

    let path = format!(
        "{}:{}",
        programs.path().display(),
        std::env::var("PATH").unwrap()
    );
    let once = ["--mode=iptables", "--once", "--log-format=json"];
    let mut once = lab.svcproxy(&once);
    let status = once
        .args(lab.settings())
        .env("PATH", &path)
        .output()
        .unwrap()
        .status;
    assert_eq!(status.code(), Some(1), "not all of it is in force");

    let arguments = [
        "--mode=iptables",
        "--log-format=json",
        "--audit-interval=1s",
    ];
    let mut command = lab.svcproxy(&arguments);
    let svcproxy = Follower::start(command.args(lab.settings()).env("PATH", &path));
    svcproxy.wait("a notice", |event| event["reason"] == "RulesRefused");
    let rules = || lab.node().run(["iptables-nft-save", "-t", "nat"]).unwrap();
    for (from, to) in [
        ("10.244.2.1]", "10.244.2.2]"),
        ("10.244.2.2]", "10.244.2.3]"),
    ] {
        lab.edit("good.yaml", from, to);
        let backend = format!("--to-destination {}:8080", to.trim_end_matches(']'));
        let is_there = || rules().contains(&backend).then_some(()).ok_or_else(rules);
        eventually(PATIENCE, is_there).unwrap();
        // Some audits.
        let before = svcproxy.syncs();
        let audits = || {
            (svcproxy.syncs() > before + 2)
                .then_some(())
                .ok_or("no audit")
        };
        eventually(PATIENCE, audits).unwrap();
    }
    let log = svcproxy.log();
    assert_eq!(reasons(&log), ["RulesRefused"], "{log:#?}");
    let is_partial = |event: &&Value| event["full"] == false;
    assert!(log.iter().filter(is_partial).count() >= 2, "{log:#?}");
    let has_failed = |event: &Value| event["message"] == "synced" && event["failed"] != 0;
    assert!(!log.iter().any(has_failed), "{log:#?}");

    lab.edit("bad.yaml", "10.244.2.99", "10.244.2.4");
    svcproxy.wait("an end of it", |event| event["reason"] == "RulesAccepted");
    assert!(rules().contains("--to-destination 10.244.2.4:8080"));
    let log = svcproxy.terminate();
    assert_eq!(reasons(&log), ["RulesRefused", "RulesAccepted"], "{log:#?}");
}
