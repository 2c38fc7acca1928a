//! Programs that hang end with svcproxy; what a program prints in part is not taken for all.

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

/// A directory with these scripts as programs, and a `PATH` that begins with it.
fn programs(scripts: &[(&str, String)]) -> (tempfile::TempDir, String) {
    let programs = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        let path = programs.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", programs.path().display());
    (programs, path)
}

#[test]
#[ignore = "netns: needs root"]
fn half_a_listing_of_iptables_save_changes_nothing() {
    let lab = Lab::new("half", &[]);
    lab.use_example("web.yaml");
    let once = |path: &str| {
        let mut command = lab.svcproxy(&["--mode=iptables", "--once", "--log-format=json"]);
        run_logged(command.args(lab.settings()).env("PATH", path))
    };
    let (log, code) = once(&std::env::var("PATH").unwrap());
    assert_eq!(code, 0, "{log:#?}");
    let rules = || lab.node().run(["iptables-nft-save"]).unwrap();
    let before: Vec<_> = rules().lines().map(str::to_owned).collect();
    for misprint in [
        "| head -n 12",
        ">/dev/null; echo rubbish",
        ">/dev/null; yes rubbish",
    ] {
        let script = format!(
            "PATH={} iptables-nft-save \"$@\" {misprint}",
            "/usr/sbin:/sbin:/usr/bin:/bin"
        );
        let (_kept, path) = programs(&[("iptables-nft-save", script)]);
        let (log, code) = once(&path);
        assert_eq!(code, 1, "{misprint}: {log:#?}");
        let named = log.iter().any(|event| {
            let error = event["error"].as_str().or(event["message"].as_str());
            error.is_some_and(|error| error.contains("iptables-nft-save"))
        });
        assert!(named, "{misprint}: {log:#?}");
        let is_rule = |line: &&str| !line.starts_with(['#', ':']);
        let after = rules();
        let (after, before) = (
            after.lines().filter(is_rule),
            before.iter().map(String::as_str),
        );
        assert!(after.eq(before.filter(is_rule)), "{misprint}");
    }
}

#[test]
#[ignore = "netns: needs root"]
fn a_hanging_iptables_restore_ends_with_svcproxy_however_often_it_is_signalled() {
    let lab = Lab::new("hangs", &[]);
    lab.use_example("web.yaml");
    let place = lab.manifests().join("pid");
    let restores = ["iptables-nft-restore", "ip6tables-nft-restore"];
    let (_kept, path) = programs(&restores.map(|name| (name, hangs(&place))));
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
