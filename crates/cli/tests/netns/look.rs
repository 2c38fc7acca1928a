//! The commands that look at a node, on one that a running svcproxy serves.

use serde_json::Value;
use testbed::eventually;

use crate::fallback::fetch;
use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, succeed};
use crate::refused::manifest;

#[test]
#[ignore = "netns: needs root"]
fn services_and_their_endpoints_are_described() {
    let lab = Lab::new("look", &[]);
    lab.write("a.yaml", &manifest("a", "10.96.0.21", "10.244.2.1"));
    let other_port = manifest("d", "10.96.0.24", "10.244.2.4");
    let other_port =
        other_port.replace("ports: [{port: 8080}]", "ports: [{name: web, port: 8080}]");
    lab.write("d.yaml", &other_port);
    let mut command = lab.svcproxy(&["--mode=iptables", "--log-format=json"]);
    let svcproxy = Follower::start(command.args(lab.settings()));
    svcproxy.wait("a sync", |event| event["message"] == "synced");
    let run = |arguments: &[&str]| succeed(&mut lab.svcproxy(arguments));

    let text = run(&["services"]);
    let lines: Vec<Vec<_>> = text
        .lines()
        .map(|line| {
            line.split("   ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect();
    let why = "its endpoint slices have no tcp port without a name, only: \"web\"";
    assert_eq!(
        lines[1],
        [
            "default",
            "a",
            "80/TCP",
            "10.96.0.21",
            "1",
            "-",
            "-",
            "served"
        ]
    );
    let state = format!("refused: no endpoints: {why}");
    assert_eq!(
        lines[2],
        [
            "default",
            "d",
            "80/TCP",
            "10.96.0.24",
            "0",
            "-",
            "-",
            &state
        ]
    );
    assert_eq!(
        run(&["services", "--vip=10.96.0.24", "-o=name"]),
        "default/d\n"
    );
    assert_eq!(
        run(&["services", "--endpoint=10.244.2.1", "-o=name"]),
        "default/a\n"
    );
    let json: Value = serde_json::from_str(&run(&["services", "a", "-o=json"])).unwrap();
    assert_eq!(
        json["services"][0]["vips"][0]["realServers"][0]["address"],
        "10.244.2.1"
    );
    assert!(run(&["services", "-o=yaml"]).contains("service: default/a\n"));
    let unknown = lab.svcproxy(&["services", "a", "nobody"]).output().unwrap();
    let error = String::from_utf8(unknown.stderr).unwrap();
    assert_eq!(unknown.status.code(), Some(1), "{error}");
    assert!(
        error.contains("this node serves no Service nobody"),
        "{error}"
    );

    let text = run(&["describe", "d"]);
    assert!(
        text.contains("no: its slice has no port of this name, only: \"web\""),
        "{text}"
    );
    let text = run(&["describe", "default/a"]);
    let used = text.lines().find(|line| line.contains("10.244.2.1:8080"));
    assert!(used.unwrap().ends_with("   yes"), "{text}");
    let json: Value = serde_json::from_str(&run(&["describe", "a", "-o=json"])).unwrap();
    assert_eq!(
        json["description"]["ports"][0]["endpoints"][0]["port"],
        8080
    );
    let unknown = lab
        .svcproxy(&["describe", "-n=shop", "a"])
        .output()
        .unwrap();
    let error = String::from_utf8(unknown.stderr).unwrap();
    assert_eq!(unknown.status.code(), Some(1), "{error}");
    assert!(error.contains("did you mean default/a?"), "{error}");
    let page = fetch(&lab, 10249, "/services/default/nobody");
    assert!(page.lines().next().unwrap().contains(" 404 "), "{page}");

    // A connection's way, by the kernel's rules and what the process knows.
    let explain = |arguments: &[&str]| {
        let mut command = lab.svcproxy(&[&["explain"], arguments].concat());
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (text, output.status.code())
    };
    let (text, code) = explain(&["10.96.0.21:80", "--from=198.18.0.7"]);
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "this node's kernel, mode iptables",
        "Service   default/a\n",
        "served by 1 endpoint\n  -> 10.244.2.1:8080",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (text, code) = explain(&["10.96.0.24:80", "-o=json"]);
    assert_eq!(code, Some(1), "{text}");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["result"], "refused");
    assert_eq!(json["packet"]["fromThisNode"], true);
    assert_eq!(json["findings"][0]["reason"], "NoEndpoints", "{text}");
    let (text, _) = explain(&["192.0.2.77:80"]);
    assert!(
        text.contains("192.0.2.77 is not a Service's; the packet would leave by "),
        "{text}"
    );
    // Against the plan of the same manifests.
    let mut command = lab.svcproxy(&["explain", "10.96.0.21:80", "--against=kernel"]);
    command
        .args(["--mode=iptables", "--metrics-bind-address="])
        .args(lab.settings());
    let text = succeed(&mut command);
    assert!(
        text.contains("against the plan") && !text.contains("Drift"),
        "{text}"
    );
    lab.write("a.yaml", &manifest("a", "10.96.0.21", "10.244.2.9"));
    let mut command = lab.svcproxy(&["explain", "10.96.0.21:80", "--against=kernel"]);
    command
        .args(["--mode=iptables", "--metrics-bind-address="])
        .args(lab.settings());
    let differs = || {
        let text = succeed(&mut command);
        // The running svcproxy follows the file, too.
        let is_applied = text.contains("-> 10.244.2.9:8080");
        if text.contains("Drift") || is_applied {
            Ok(())
        } else {
            Err(text)
        }
    };
    eventually(PATIENCE, differs).unwrap();

    // The draining state of what is gone is up to connection tracking; the Service is not known.
    lab.remove("a.yaml");
    let gone = || {
        let known = lab.svcproxy(&["describe", "a"]).output().unwrap();
        if known.status.code() == Some(1) {
            Ok(())
        } else {
            Err(known)
        }
    };
    eventually(PATIENCE, gone).unwrap();
    svcproxy.terminate();
    let text = run(&["describe", "d"]);
    assert!(
        text.contains("no svcproxy answers: this is what the kernel has"),
        "{text}"
    );
}
