//! A configuration file that changes while svcproxy runs, in a network namespace.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "kernel/follower.rs"]
#[allow(dead_code, reason = "what others need of it")]
mod follower;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testbed::{Namespace, Topology, eventually};

use follower::{Follower, PATIENCE};

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                    mode: iptables\n";

/// Writes the file as the kubelet writes a ConfigMap volume: one rename of the link `..data` swaps
/// what `config.conf` leads to.
fn write(volume: &Path, time: &str, fields: &str) {
    let directory = volume.join(format!("..{time}"));
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("config.conf"), format!("{HEAD}{fields}")).unwrap();
    let file = volume.join("config.conf");
    if !file.is_symlink() {
        symlink("..data/config.conf", file).unwrap();
    }
    let old = fs::read_link(volume.join("..data")).ok();
    symlink(format!("..{time}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    if let Some(old) = old {
        fs::remove_dir_all(volume.join(old)).unwrap();
    }
}

fn svcproxy(node: &Namespace, volume: &Path) -> Command {
    let mut command = node.command(env!("CARGO_BIN_EXE_svcproxy"));
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let file = volume.join("config.conf");
    command.args([
        "--log-format=json",
        "--node-name=node-a",
        "--manifests",
        examples,
    ]);
    command.arg("--config").arg(file);
    command
}

/// The rules, without counters and times.
fn rules(node: &Namespace) -> Vec<String> {
    let saved = ["iptables-save", "ip6tables-save"].map(|save| node.run([save]).unwrap());
    let lines = saved.iter().flat_map(|saved| saved.lines());
    let lines = lines.filter(|line| !line.starts_with(['#', ':']));
    lines.map(str::to_owned).collect()
}

fn becomes(node: &Namespace, expected: &[String]) {
    let is = || match rules(node) {
        rules if rules == expected => Ok(()),
        rules => Err(rules),
    };
    eventually(PATIENCE, is).unwrap();
}

fn says(message: &str) -> impl Fn(&Value) -> bool {
    move |event| {
        event["message"]
            .as_str()
            .is_some_and(|said| said.contains(message))
    }
}

fn configz(node: &Namespace) -> Value {
    let text = node.run([
        "curl",
        "--silent",
        "--fail",
        "http://127.0.0.1:10249/configz",
    ]);
    serde_json::from_str(&text.unwrap()).unwrap()
}

#[test]
#[ignore = "netns: needs root"]
fn a_file_that_changes_is_applied_without_a_restart() {
    let before = "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n";
    let after = &format!("{before}iptables: {{masqueradeAll: true, syncPeriod: 5m}}\n");
    // The results of fresh starts with both files.
    let made = |prefix: &str, fields: &str| {
        let volume = tempfile::tempdir().unwrap();
        write(volume.path(), "1", fields);
        let topology = Topology::new(prefix, &[0]).unwrap();
        let node = &topology.node().host;
        let once = svcproxy(node, volume.path())
            .arg("--once")
            .output()
            .unwrap();
        assert_eq!(
            once.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&once.stderr)
        );
        rules(node)
    };
    let (first, then) = (made("set-first", before), made("set-then", after));
    assert_ne!(first, then);

    let volume = tempfile::tempdir().unwrap();
    write(volume.path(), "1", before);
    let topology = Topology::new("set-anew", &[0]).unwrap();
    let node = &topology.node().host;
    let follower = Follower::start(&mut svcproxy(node, volume.path()));
    becomes(node, &first);
    write(volume.path(), "2", after);
    becomes(node, &then);
    follower.wait("change", says("masqueradeAll: changed from false to true"));
    follower.wait("change", says("syncPeriod: changed from 60s to 300s"));
    let shown = configz(node);
    let shown = &shown["kubeproxy.config.k8s.io"];
    assert_eq!(shown["iptables"]["masqueradeAll"], true);
    assert_eq!(shown["iptables"]["syncPeriod"], "5m");
    assert_eq!(shown["hostnameOverride"], "node-a");

    write(volume.path(), "3", "iptables: {masqueradeBit: 32}\n");
    let error = follower.wait("error", says("the previous settings stay in effect"));
    assert_eq!(error["level"], "ERROR");
    let said = error["message"].as_str().unwrap();
    assert!(
        said.contains("config.conf: iptables.masqueradeBit: 32"),
        "{said}"
    );
    becomes(node, &then);
    write(
        volume.path(),
        "4",
        &format!("{before}metricsBindAddress: 127.0.0.1:1\n"),
    );
    becomes(node, &first);
    let left = follower.wait(
        "warning",
        says("metricsBindAddress: 127.0.0.1:10249 stays in effect"),
    );
    assert_eq!(left["level"], "WARN");
    let shown = configz(node);
    assert_eq!(
        shown["kubeproxy.config.k8s.io"]["metricsBindAddress"],
        "127.0.0.1:10249"
    );
    let log = follower.terminate();
    assert!(!log.iter().any(says("nothing was changed")), "{log:#?}");
}
