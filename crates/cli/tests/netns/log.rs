//! Problems of the log do not affect the data plane.

use std::fs::File;
use std::io::{Read, pipe};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use testbed::eventually;

use crate::fallback::fetch;
use crate::lab::{Lab, PATIENCE};
use crate::refused::manifest;

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts svcproxy with this standard error and far more log than a pipe holds; it must apply a
/// change, answer health checks and exit.
fn serves(name: &str, stderr: impl Into<Stdio>, loses_lines: bool) {
    let lab = Lab::new(name, &[]);
    let nonsense = |n| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: No-{n}}}\n---\n");
    lab.write("wrong.yaml", &(0..900).map(nonsense).collect::<String>());
    lab.write("good.yaml", &manifest("good", "10.96.0.21", "10.244.2.1"));
    let mut command = lab.svcproxy(&["--mode=iptables", "-v=6"]);
    let child = command.args(lab.settings()).stderr(stderr).spawn().unwrap();
    let mut running = Running(child);

    let rules = || lab.node().run(["iptables-save"]).unwrap();
    let served = |endpoint: &str| {
        let backend = format!("--to-destination {endpoint}:8080");
        let is_there = || rules().contains(&backend).then_some(()).ok_or_else(rules);
        eventually(PATIENCE, is_there).unwrap();
    };
    served("10.244.2.1");
    lab.edit("good.yaml", "10.244.2.1]", "10.244.2.2]");
    served("10.244.2.2");
    let livez = fetch(&lab, 10256, "/livez");
    assert!(livez.contains(" 200 "), "{livez}");
    let metrics = fetch(&lab, 10249, "/metrics");
    let lost = metrics
        .lines()
        .find_map(|line| line.strip_prefix("svcproxy_log_lines_lost_total "));
    let lost: u64 = lost.unwrap().parse().unwrap();
    // A pipe and the queue hold all of them.
    assert_eq!(lost > 0, loses_lines, "{lost}");

    kill_process(Pid::from_child(&running.0), Signal::TERM).unwrap();
    let ended = || running.0.try_wait().unwrap().ok_or("it runs");
    let status = eventually(PATIENCE, ended).unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
#[ignore = "netns: needs root"]
fn an_unread_pipe_stops_nothing() {
    let (mut reader, writer) = pipe().unwrap();
    serves("stalled", writer, false);
    // It was full: a pipe holds 64 KiB, in whole lines.
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert!(read.len() > 60_000, "{}", read.len());
}

#[test]
#[ignore = "netns: needs root"]
fn a_closed_pipe_stops_nothing() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    serves("no-reader", writer, true);
}

#[test]
#[ignore = "netns: needs root"]
fn a_full_file_system_under_the_log_stops_nothing() {
    serves(
        "full",
        File::options().write(true).open("/dev/full").unwrap(),
        true,
    );
}
