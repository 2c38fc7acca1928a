//! A hanging exec plugin ends with svcproxy.

use std::fs;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, test_kill_process_group};
use testbed::eventually;

use crate::lab::{Lab, PATIENCE};

#[test]
#[ignore = "netns: needs root"]
fn a_hanging_plugin_ends_with_svcproxy_however_often_it_is_signalled() {
    let lab = Lab::new("plugin", &[]);
    let place = lab.manifests().join("pid");
    let plugin = format!(
        "echo $$ >{p}.new; mv {p}.new {p}; sleep 100000 & wait",
        p = place.display()
    );
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
    for signals in 1..=2 {
        let mut command = lab.svcproxy(&["--mode=iptables", "--node-name=node-a"]);
        command.arg(format!("--kubeconfig={}", kubeconfig.display()));
        let mut svcproxy = command.stderr(Stdio::null()).spawn().unwrap();
        let read = || fs::read_to_string(&place).map_err(|error| error.to_string());
        let plugin = eventually(PATIENCE, read).unwrap();
        let plugin = Pid::from_raw(plugin.trim().parse().unwrap()).unwrap();
        for _ in 0..signals {
            kill_process(Pid::from_child(&svcproxy), Signal::TERM).unwrap();
        }
        let ended = || svcproxy.try_wait().unwrap().ok_or("svcproxy still runs");
        eventually(PATIENCE, ended).unwrap();
        let gone = || match test_kill_process_group(plugin) {
            Ok(()) => Err("the plugin still runs"),
            Err(_) => Ok(()),
        };
        eventually(PATIENCE, gone).unwrap();
        fs::remove_file(&place).unwrap();
    }
}
