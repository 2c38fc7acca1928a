//! Conditions are listed, counted and part of the health's body until they end.

use serde_json::{Value, json};
use testbed::eventually;

use crate::fallback::fetch;
use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, succeed};
use crate::refused::manifest;

/// Text that would forge a line, or move a terminal's cursor.
const HOSTILE: &str = r"a\n\e[31mb";

#[test]
#[ignore = "netns: needs root"]
fn conditions_of_services_and_manifests_are_seen_from_outside() {
    let lab = Lab::new("conditions", &[]);
    lab.write("a.yaml", &manifest("a", "10.96.0.21", "10.244.2.1"));
    let refused = manifest("b", "10.96.0.22, externalIPs: [10.96.0.99]", "10.244.2.2");
    lab.write("b.yaml", &refused);
    lab.write(
        "c.yaml",
        &format!("apiVersion: v1\nkind: Service\nmetadata: {{name: \"{HOSTILE}\"}}\n"),
    );
    // A Service without endpoints is no problem, but status says why there are none.
    let other_port = manifest("d", "10.96.0.24", "10.244.2.4");
    let other_port =
        other_port.replace("ports: [{port: 8080}]", "ports: [{name: web, port: 8080}]");
    lab.write("d.yaml", &other_port);
    let mut command = lab.svcproxy(&["--mode=iptables", "--log-format=json"]);
    let svcproxy = Follower::start(command.args(lab.settings()));
    svcproxy.wait("a sync", |event| event["message"] == "synced");

    let status = |arguments: &[&str]| succeed(lab.svcproxy(&["status"]).args(arguments));
    let text = status(&[]);
    let listed: Vec<_> = text.lines().filter(|line| line.starts_with("  ")).collect();
    for (reason, about) in [
        ("AddressRefused", "Service default/b: "),
        ("ManifestError", "manifest: "),
    ] {
        let is_it = |line: &&&str| line.contains(reason) && line.contains(about);
        assert!(listed.iter().any(|line| is_it(&line)), "{text}");
    }
    assert!(
        !text.contains('\u{1b}') && text.contains(r"\u{1b}"),
        "{text}"
    );
    let why = "its endpoint slices have no tcp port without a name, only: \"web\"";
    let line = format!("  tcp 10.96.0.24:80 no endpoints: refused: {why}\n");
    let services = status(&["--services"]);
    assert!(services.contains(&line), "{services}");
    let row = |text: &str, name: &str| {
        let row = text.lines().find(|line| line.starts_with(name));
        row.unwrap_or_default().to_owned()
    };
    assert!(row(&text, "running ").contains("yes: PID "), "{text}");
    assert_eq!(row(&text, "mode "), "mode        iptables");
    let source = row(&text, "source ");
    assert!(
        source.contains("manifests ") && source.contains("; last change "),
        "{text}"
    );
    assert!(
        row(&text, "last sync ").contains(" ago, nothing pending"),
        "{text}"
    );
    let kinds = "AddressRefused 1, ManifestError 2, NoEndpoints 1";
    assert_eq!(row(&text, "conditions "), format!("conditions  {kinds}"));
    let status: Value = serde_json::from_str(&status(&["-o=json"])).unwrap();
    let services = status["services"].as_array().unwrap();
    let d = services.iter().find(|of| of["service"] == "default/d");
    assert_eq!(d.unwrap()["vips"][0]["reason"], why, "{status}");
    let conditions = status["conditions"].as_array().unwrap();
    let is_it = |condition: &&Value| condition["reason"] == "NoEndpoints";
    let unanswered: Vec<_> = conditions.iter().filter(is_it).collect();
    assert_eq!(
        unanswered,
        [&json!({
            "reason": "NoEndpoints", "about": "Service default/d", "message": why,
            "portName": "", "protocol": "tcp", "family": "ipv4",
        })]
    );
    assert_eq!(conditions.len(), 4, "{status}");
    let running = &status["running"];
    let pid = running["pid"].as_u64().unwrap();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name, "svcproxy\n");
    assert_eq!(running["pendingChanges"], 0, "{running}");
    assert_eq!(status["mode"], "iptables", "{status}");
    // Where it answers nowhere, the lock still tells that it runs.
    let text = succeed(&mut lab.svcproxy(&["status", "--metrics-bind-address="]));
    let process = row(&text, "running ");
    assert!(
        process.contains(&format!("yes: PID {pid}; it does not answer")),
        "{text}"
    );

    let health = || {
        let health = fetch(&lab, 10256, "/healthz");
        let (head, body) = health.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{health}");
        serde_json::from_str::<Value>(body).unwrap()["conditions"].clone()
    };
    assert_eq!(health(), json!({"AddressRefused": 1, "ManifestError": 2}));
    let metrics = fetch(&lab, 10249, "/metrics");
    for (reason, count) in [("AddressRefused", 1), ("ManifestError", 2)] {
        let line = format!("svcproxy_conditions{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }

    lab.remove("b.yaml");
    lab.remove("c.yaml");
    lab.remove("d.yaml");
    let over = || match health() {
        Value::Null => Ok(()),
        conditions => Err(conditions),
    };
    eventually(PATIENCE, over).unwrap();
    svcproxy.terminate();
    let text = succeed(&mut lab.svcproxy(&["status"]));
    assert_eq!(
        row(&text, "running "),
        "running     no: this is what the kernel has"
    );
    assert!(
        text.ends_with("conditions  unknown, no svcproxy answers\n"),
        "{text}"
    );
}
