//! Programs that hang end with svcproxy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process_group};
use testbed::eventually;

use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, run_logged};

/// A script that writes its process number to a file, and hangs.
fn hangs(place: &Path) -> String {
    let place = place.display();
    format!("echo $$ >{place}.new; mv {place}.new {place}; sleep 100000 & wait")
}

/// Signals svcproxy once or twice while a program hangs: both must end, long before the program's
/// own time limit.
fn end_together(command: impl Fn() -> Command, place: &Path) {
    for signals in 1..=2 {
        let mut svcproxy = command().stderr(Stdio::null()).spawn().unwrap();
        let read = || fs::read_to_string(place).map_err(|error| error.to_string());
        let program = eventually(PATIENCE, read).unwrap();
        let program = Pid::from_raw(program.trim().parse().unwrap()).unwrap();
        for _ in 0..signals {
            kill_process(Pid::from_child(&svcproxy), Signal::TERM).unwrap();
        }
        let ended = || svcproxy.try_wait().unwrap().ok_or("svcproxy still runs");
        eventually(PATIENCE, ended).unwrap();
        let gone = || match test_kill_process_group(program) {
            Ok(()) => Err("the program still runs"),
            Err(_) => Ok(()),
        };
        eventually(PATIENCE, gone).unwrap();
        fs::remove_file(place).unwrap();
    }
}

#[test]
#[ignore = "netns: needs root"]
fn a_hanging_plugin_ends_with_svcproxy_however_often_it_is_signalled() {
    let lab = Lab::new("plugin", &[]);
    let place = lab.manifests().join("pid");
    let plugin = hangs(&place);
    let kubeconfig = lab.manifests().join("kubeconfig");
    fs::write(
        &kubeconfig,
        format!(
            "{{current-context: a, contexts: [{{name: a, context: {{cluster: a, user: a}}}}], \
             clusters: [{{name: a, cluster: {{server: 'http://192.0.2.1'}}}}], \
             users: [{{name: a, user: {{exec: {{command: sh, args: ['-c', '{plugin}'], \
             apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never}}}}}}]}}"
        ),
    )
    .unwrap();
    let command = || {
        let mut command = lab.svcproxy(&["--mode=iptables", "--node-name=node-a"]);
        command.arg(format!("--kubeconfig={}", kubeconfig.display()));
        command
    };
    end_together(command, &place);
}

#[test]
#[ignore = "netns: needs root"]
fn a_hanging_iptables_restore_ends_with_svcproxy_however_often_it_is_signalled() {
    let lab = Lab::new("hangs", &[]);
    lab.use_example("web.yaml");
    let programs = tempfile::tempdir().unwrap();
    let place = programs.path().join("pid");
    for name in ["iptables-nft-restore", "ip6tables-nft-restore"] {
        let script = programs.path().join(name);
        fs::write(&script, format!("#!/bin/sh\n{}\n", hangs(&place))).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", programs.path().display());
    let command = || {
        let mut command = lab.svcproxy(&["--mode=iptables"]);
        command.args(lab.settings()).env("PATH", &path);
        command
    };
    end_together(command, &place);
}

/// A process that svcproxy has made for a program, and that is svcproxy still.
fn unborn_program(of: u32) -> Result<(), &'static str> {
    let tasks = fs::read_dir(format!("/proc/{of}/task")).unwrap();
    let mut starting = tasks.filter_map(|task| {
        let children = fs::read_to_string(task.ok()?.path().join("children")).ok()?;
        let is_svcproxy = |child: &str| {
            let program = fs::read_link(format!("/proc/{child}/exe"));
            program.is_ok_and(|program| program.ends_with("svcproxy"))
        };
        let mut children = children.split_whitespace();
        children.any(is_svcproxy).then_some(())
    });
    starting.next().ok_or("no program is being started")
}

/// A program inherits svcproxy's lock until execve(2), which strace delays here.
#[test]
#[ignore = "netns: needs root"]
fn a_program_that_a_killed_svcproxy_was_starting_does_not_keep_the_lock() {
    let lab = Lab::new("unborn", &[]);
    lab.use_example("web.yaml");
    let mut strace = lab.node().command("strace");
    strace
        .args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=execve"])
        .args(["-e", "inject=execve:delay_enter=2000000:when=1"])
        .arg(env!("CARGO_BIN_EXE_svcproxy"))
        .args(["--mode=iptables", "--log-format=json"])
        .args(lab.settings());
    let svcproxy = Follower::start(&mut strace);
    eventually(PATIENCE, || unborn_program(svcproxy.id())).unwrap();
    svcproxy.kill();
    let mut again = lab.svcproxy(&["--mode=iptables", "--once", "--log-format=json"]);
    let (log, code) = run_logged(again.args(lab.settings()));
    assert_eq!(code, 0, "{log:#?}");
    let has_waited =
        |event: &serde_json::Value| event["message"] == "waiting for another svcproxy to end";
    assert!(log.iter().any(has_waited), "{log:#?}");
}
