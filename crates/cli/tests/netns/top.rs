//! `svcproxy top` on a node with traffic, once and on a real terminal.

use std::io::Write;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use testbed::Protocol;

use crate::lab::{Lab, succeed};
use crate::refused::manifest;

#[test]
#[ignore = "netns: needs root"]
fn the_busiest_service_is_named() {
    let topology = testbed::Topology::new("top", &[1, 1]).unwrap();
    let lab = Lab::over(topology);
    lab.write("busy.yaml", &manifest("busy", "10.96.0.21", "10.244.1.1"));
    lab.write("idle.yaml", &manifest("idle", "10.96.0.22", "10.244.2.1"));
    let at = ([10, 244, 1, 1], 8080).into();
    let _backend = lab.serve(Protocol::Tcp, at);
    let once = lab
        .svcproxy(&["--mode=iptables", "--once"])
        .args(lab.settings())
        .output()
        .unwrap();
    assert!(once.status.success(), "{once:?}");
    let top = |arguments: &[&str]| {
        let mut command = lab.svcproxy(&["top", "--once", "-o=json", "--interval=1s"]);
        let text = succeed(command.args(arguments));
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let vip = ([10, 96, 0, 21], 80).into();
    let document = thread::scope(|scope| {
        let reading = scope.spawn(|| top(&[]));
        while !reading.is_finished() {
            crate::lab::client(Protocol::Tcp, vip)
                .ask(lab.node())
                .unwrap();
        }
        reading.join().unwrap()
    });
    assert_eq!(document["mode"], "iptables");
    let first = &document["services"][0];
    assert_eq!(first["service"], "default/busy", "{document:#}");
    assert!(
        first["connectionsPerSecond"].as_f64().unwrap() > 0.0,
        "{document:#}"
    );
    assert_eq!(document["services"][1]["totalConnections"], 0);
    assert_eq!(document["endpoints"][0]["address"], "10.244.1.1:8080");
    let by_name = top(&["--sort=name", "idle"]);
    assert_eq!(by_name["services"].as_array().unwrap().len(), 1);

    // Without a terminal it says what to do.
    let piped = lab.svcproxy(&["top"]).output().unwrap();
    assert_eq!(piped.status.code(), Some(2));
    let error = String::from_utf8(piped.stderr).unwrap();
    assert!(error.contains("use --once"), "{error}");

    // With one, it draws until the key q, and restores the terminal.
    let mut command = lab.node().command("script");
    let svcproxy = format!(
        "stty rows 30 cols 120; {} top --interval=1s --metrics-bind-address=",
        env!("CARGO_BIN_EXE_svcproxy")
    );
    command.args(["--quiet", "--return", "--command", &svcproxy, "/dev/null"]);
    command
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    for key in ["s", "\r", "\x1b", "\t", "q"] {
        thread::sleep(Duration::from_millis(700));
        keys.write_all(key.as_bytes()).unwrap();
        keys.flush().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let screen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {screen}", output.status);
    for part in [
        "default/busy",
        "iptables",
        "Services,",
        // The alternate screen, and back.
        "\x1b[?1049h",
        "\x1b[?1049l",
    ] {
        assert!(screen.contains(part), "{part:?}: {screen:?}");
    }
}
