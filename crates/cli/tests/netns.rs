//! On this machine's own kernel, whatever it has, in a network namespace of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use testbed::Topology;

/// Mode ipvs neither does something else nor nothing where there is no IPVS.
#[test]
#[ignore = "netns: needs root"]
fn without_ipvs_the_error_says_what_to_load() {
    let topology = Topology::new("no-ipvs", &[0]).unwrap();
    let node = &topology.node().host;
    let before = node.run(["ip", "route", "show", "table", "all"]).unwrap();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let output = node
        .command(env!("CARGO_BIN_EXE_svcproxy"))
        .args(["--mode=ipvs", "--once", "--manifests", examples])
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    // Asking for IPVS has loaded it, if it can be.
    if Path::new("/proc/net/ip_vs").exists() {
        assert_eq!(output.status.code(), Some(0), "{log}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{log}");
    let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{log}");
    for part in ["the kernel has no IPVS", "modprobe ip_vs", "package"] {
        assert!(errors[0].contains(part), "{log}");
    }
    let after = node.run(["ip", "route", "show", "table", "all"]).unwrap();
    assert_eq!(after, before);
    assert_eq!(node.run(["nft", "list", "ruleset"]).unwrap(), "");
}

/// As kube-proxy's users call it: without a source, and with a file that may be gone.
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
