//! The systemd unit. `cargo xtask test` verifies it with systemd itself.

use std::process::Command;

use crate::{deploy, read, workspace};

#[test]
fn flags_are_svcproxys() {
    let unit = read(deploy().join("systemd/svcproxy.service"));
    let start = unit.lines().find_map(|l| l.strip_prefix("ExecStart="));
    assert_eq!(
        start.unwrap(),
        "/usr/local/bin/svcproxy --manifests /etc/svcproxy/manifests $SVCPROXY_FLAGS"
    );
    let environment = read(deploy().join("systemd/svcproxy.env"));
    let flags = environment
        .lines()
        .find_map(|line| line.strip_prefix("SVCPROXY_FLAGS=\"")?.strip_suffix('"'))
        .unwrap();
    // It takes the same flags, and needs no privileges.
    let output = Command::new(env!("CARGO_BIN_EXE_svcproxy"))
        .args(["plan", "--manifests", "examples", "--node-ip=172.18.0.1"])
        .args(flags.split_whitespace())
        .current_dir(workspace())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
}
