//! Mode ipvs cannot run: svcproxy is root of a user namespace, for which the kernel never allows
//! IPVS, but everything else of the user namespace's network namespace.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use testbed::eventually;

use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE};
use crate::ports::WEB;

/// `svcproxy ARGUMENTS` in a separate user and network namespace.
fn without_ipvs(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.node().command("unshare");
    command.args(["--user", "--map-root-user", "--net"]);
    command.arg(env!("CARGO_BIN_EXE_svcproxy")).args(arguments);
    command.env_remove("SVCPROXY_LOG");
    command
}

/// Standard output, standard error and exit code.
fn run(command: &mut Command) -> (String, String, i32) {
    let Output {
        stdout,
        stderr,
        status,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(stdout), text(stderr), status.code().unwrap())
}

fn this_machine_has_ipvs() -> bool {
    Path::new("/proc/net/ip_vs").exists()
}

/// Sysctls of a node whose IPVS cannot be used, also if this machine has it.
fn without_sysctls_of_ipvs() -> TempDir {
    let sysctls = tempfile::tempdir().unwrap();
    let ipv4 = sysctls.path().join("net/ipv4");
    std::fs::create_dir_all(&ipv4).unwrap();
    for (name, within) in [("ip_forward", "net/ipv4"), ("conf", "net/ipv4")] {
        let target = format!("/proc/sys/{within}/{name}");
        std::os::unix::fs::symlink(target, ipv4.join(name)).unwrap();
    }
    for name in ["ipv6", "netfilter"] {
        let place = sysctls.path().join("net").join(name);
        std::os::unix::fs::symlink(format!("/proc/sys/net/{name}"), place).unwrap();
    }
    sysctls
}

#[test]
#[ignore = "netns: needs root"]
fn without_fallback_the_error_names_what_to_load() {
    let lab = Lab::new("never", &[]);
    lab.use_example("web.yaml");
    let node = lab.node();
    let rest = || {
        [
            "ip route show table all proto 73",
            "ip rule",
            "nft list ruleset",
            "iptables-save",
        ]
        .map(|command| node.run(command.split(' ')).unwrap())
    };
    let before = rest();
    let mut command = lab.svcproxy(&["--once", "--fallback=never"]);
    let (_, log, code) = run(command.args(lab.settings()));
    // The request has loaded IPVS, if the machine has it.
    if this_machine_has_ipvs() {
        assert_eq!(code, 0, "{log}");
        return;
    }
    assert_eq!(code, 1, "{log}");
    let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{log}");
    for part in [
        "mode ipvs cannot run on this node",
        "the kernel has no IPVS",
        "ip_vs",
        "package",
        "CONFIG_IP_VS",
    ] {
        assert!(errors[0].contains(part), "{part}: {log}");
    }
    assert_eq!(rest(), before);
}

#[test]
#[ignore = "netns: needs root"]
fn check_says_what_is_missing_and_changes_nothing() {
    let lab = Lab::new("check", &[]);
    let settings = lab.settings();
    let settings: Vec<_> = settings.iter().skip(1).map(String::as_str).collect();
    let check = |arguments: &[&str]| {
        let arguments = [&["check"], arguments, &settings].concat();
        run(&mut without_ipvs(&lab, &arguments))
    };
    let (json, _, code) = check(&["-o=json"]);
    assert_eq!(code, 1, "{json}");
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["canRun"], false);
    assert_eq!(document["fallback"], "iptables");
    let finding = |name: &str| {
        let findings = document["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {document:#}"))
    };
    let ipvs = finding("ipvs");
    let (reason, word) = if this_machine_has_ipvs() {
        ("permission", "CAP_NET_ADMIN in the initial user namespace")
    } else {
        ("no-module", "CONFIG_IP_VS")
    };
    assert_eq!(ipvs["reason"], reason, "{ipvs}");
    assert!(ipvs["remedy"].as_str().unwrap().contains(word), "{ipvs}");
    assert_eq!(finding("virtual-servers/ipv4")["result"], "not tried");
    for name in [
        "nftables",
        "routes",
        "routing-rules",
        "connection-tracking",
        "iptables",
        "iptables-rules/ipv4",
        "iptables-rules/ipv6",
        "sysctl/net.ipv4.ip_forward",
    ] {
        assert_eq!(finding(name)["result"], "ok", "{}", finding(name));
    }

    let (text, _, code) = check(&[]);
    assert_eq!(code, 1);
    assert!(
        text.ends_with(
            "mode ipvs cannot run on this node; svcproxy would fall back to mode iptables\n"
        ),
        "{text}"
    );
    let (text, _, _) = check(&["--fallback=never"]);
    assert!(
        text.ends_with("\n\nmode ipvs cannot run on this node\n"),
        "{text}"
    );
    let (text, _, _) = check(&["--fallback-modes=nftables,iptables"]);
    assert!(
        text.ends_with("would fall back to mode nftables\n"),
        "{text}"
    );
    let (text, _, code) = check(&["--mode=iptables"]);
    assert_eq!(code, 0);
    assert!(
        text.ends_with("mode iptables can run on this node\n"),
        "{text}"
    );

    // A missing directory of sysctls, and no iptables programs.
    let (json, _, code) = check(&["--mode=iptables", "-o=json", "--proc-sys=/nowhere"]);
    assert_eq!(code, 1, "{json}");
    let mut command = lab.node().command("env");
    command.args(["PATH=/nowhere", env!("CARGO_BIN_EXE_svcproxy")]);
    command.args(["check", "--mode=iptables", "-o=json"]);
    let (json, _, code) = run(command.args(&settings));
    assert_eq!(code, 1, "{json}");
    let document: Value = serde_json::from_str(&json).unwrap();
    let findings = document["findings"].as_array().unwrap();
    let iptables = findings.iter().find(|f| f["name"] == "iptables").unwrap();
    assert_eq!(iptables["reason"], "not-installed", "{iptables}");
}

#[test]
#[ignore = "netns: needs root"]
fn the_first_mode_that_can_run_is_the_fallback() {
    let lab = Lab::new("order", &[]);
    lab.use_example("web.yaml");
    let sysctls = without_sysctls_of_ipvs();
    let proc_sys = format!("--proc-sys={}", sysctls.path().display());
    for (modes, expected) in [
        ("nftables,iptables", "using mode nftables"),
        ("iptables,nftables", "using mode iptables"),
        ("nftables", "using mode nftables"),
    ] {
        let order = format!("--fallback-modes={modes}");
        let mut command = lab.svcproxy(&["--once", &order, &proc_sys]);
        let (_, log, code) = run(command.args(lab.settings()));
        assert_eq!(code, 0, "{log}");
        assert!(log.contains(expected), "{log}");
    }
}

#[test]
#[ignore = "netns: needs root"]
fn check_without_privileges_says_so() {
    let lab = Lab::new("unprivileged", &[]);
    let mut command = lab.node().command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.args([env!("CARGO_BIN_EXE_svcproxy"), "check", "-o=json"]);
    let (json, _, code) = run(command.args(lab.settings().iter().skip(1)));
    assert_eq!(code, 1, "{json}");
    let document: Value = serde_json::from_str(&json).unwrap();
    let findings = document["findings"].as_array().unwrap();
    for name in ["nftables", "connection-tracking", "iptables"] {
        let finding = findings.iter().find(|f| f["name"] == name).unwrap();
        assert_eq!(finding["reason"], "permission", "{finding}");
        assert!(
            finding["remedy"]
                .as_str()
                .unwrap()
                .contains("CAP_NET_ADMIN")
        );
    }
}

/// The answer of a server on the node, with its head.
pub(crate) fn fetch(lab: &Lab, port: u16, path: &str) -> String {
    lab.node().enter(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: node\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

#[test]
#[ignore = "netns: needs root"]
fn the_fallback_works_and_is_reported_everywhere() {
    let lab = Lab::new("auto", &[WEB]);
    lab.use_example("web.yaml");
    let sysctls = without_sysctls_of_ipvs();
    let proc_sys = format!("--proc-sys={}", sysctls.path().display());
    let arguments = [
        "--mode=ipvs",
        "--log-format=json",
        "--audit-interval=1s",
        "--service-metrics=all",
        &proc_sys,
    ];
    let mut command = lab.svcproxy(&arguments);
    let svcproxy = Follower::start(command.args(lab.settings()));
    svcproxy.wait("a sync", |event| event["message"] == "synced");
    for from in [lab.probe(), lab.node(), lab.client()] {
        lab.ask(from, &WEB).unwrap();
    }
    let saved = lab.node().run(["iptables-save"]).unwrap();
    assert!(saved.contains(":SVCPROXY-SERVICES"), "{saved}");
    assert_eq!(
        lab.node().run(["nft", "list", "tables", "inet"]).unwrap(),
        ""
    );

    let metrics = fetch(&lab, 10249, "/metrics");
    for line in [
        "svcproxy_proxy_mode{mode=\"iptables\"} 1\n",
        "svcproxy_proxy_mode_wanted{mode=\"ipvs\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    // This mode counts neither traffic nor virtual servers, and zeros would look like none.
    for none in ["svcproxy_service_connections", "\nsvcproxy_virtual_servers"] {
        assert!(!metrics.contains(none), "{metrics}");
    }
    assert!(fetch(&lab, 10249, "/proxyMode").ends_with("iptables"));
    let health = fetch(&lab, 10256, "/healthz");
    let (head, body) = health.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{health}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["healthy"], true, "{body}");
    let fallback = &body["fallback"];
    assert_eq!(
        (&fallback["mode"], &fallback["wanted"]),
        (&"iptables".into(), &"ipvs".into())
    );
    assert!(
        fallback["reason"].as_str().unwrap().contains("remedy: "),
        "{body}"
    );

    // It is reported once, however many audits there are.
    let before = svcproxy.syncs();
    let audits = || {
        let more = svcproxy.syncs() > before + 2;
        more.then_some(()).ok_or("no audit")
    };
    eventually(PATIENCE, audits).unwrap();
    let log = svcproxy.terminate();
    let warnings: Vec<_> = log
        .iter()
        .filter(|event| event["level"] == "WARN")
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert_eq!(warnings[0]["reason"], "ModeFallback");
    assert!(
        warnings[0]["message"]
            .as_str()
            .unwrap()
            .contains("mode ipvs cannot run, using mode iptables: ")
    );
}

/// As after `rmmod ip_vs`: the nftables rules and routes are still there.
#[test]
#[ignore = "netns: needs root"]
fn the_state_of_ipvs_mode_is_removed_also_without_ipvs() {
    let lab = Lab::new("remains", &[WEB]);
    lab.use_example("web.yaml");
    let node = lab.node();
    let rest = || {
        [
            "ip route show table all proto 73",
            "ip rule",
            "nft list tables inet",
        ]
        .map(|command| node.run(command.split(' ')).unwrap())
    };
    let before = rest();
    let table = lab.node().run_with_input(
        ["nft", "-f", "-"],
        "table inet svcproxy {\n chain c {\n type filter hook input priority 20; drop\n }\n}\n",
    );
    table.unwrap();
    node.ip(&[
        "route add local 10.96.0.0/12 dev lo proto 73 src 172.18.0.1",
        "rule add pref 73 fwmark 0x2000/0x2000 lookup 73 protocol 73",
        "route add local default dev lo table 73 proto 73",
    ])
    .unwrap();
    assert_ne!(rest(), before);
    let mut command = lab.svcproxy(&["--mode=iptables", "--once", "--log-format=json"]);
    let (_, log, code) = run(command.args(lab.settings()));
    assert_eq!(code, 0, "{log}");
    assert_eq!(rest(), before);
    lab.ask(lab.client(), &WEB).unwrap();
}
