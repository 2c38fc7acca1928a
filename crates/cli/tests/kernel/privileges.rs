//! The least privilege that works, as `deploy/` gives it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::confined_shop;
use crate::lab::{Lab, succeed};
use crate::ports::{self, WEB};

/// Only this capability, also for root and its child processes.
const CAPABILITY: &str = "--bounding-set=-all,+net_admin --inh-caps=-all,+net_admin";

fn lab(name: &str) -> Lab {
    let lab = Lab::new(name, &[&[WEB], ports::DUAL_STACK].concat());
    lab.use_all_examples();
    lab
}

/// A shell on the node, in a separate mount namespace; `"$@"` is svcproxy with its arguments.
fn shell(lab: &Lab, script: &str, svcproxy: &Command) -> Command {
    let mut command = lab.node().command("unshare");
    command.args(["--mount", "sh", "-ec", script, "sh"]);
    command
        .arg(svcproxy.get_program())
        .args(svcproxy.get_args());
    command
}

fn svcproxy(lab: &Lab, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["--mode=ipvs", "--once"]);
    command.args(arguments).args(lab.settings());
    command
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn container_with_one_capability_and_sysctls_mounted_elsewhere() {
    let lab = lab("container");
    let sysctls = tempfile::tempdir().unwrap();
    fs::create_dir(sysctls.path().join("net")).unwrap();
    let path = sysctls.path().display();
    let program = env!("CARGO_BIN_EXE_svcproxy");
    // As container runtimes leave /proc/sys.
    let script = format!(
        "mount --bind /proc/sys/net {path}/net
         mount --bind /proc/sys /proc/sys
         mount -o remount,bind,ro /proc/sys
         exec setpriv {CAPABILITY} --no-new-privs \"$@\""
    );
    let refused = svcproxy(&lab, program, &[]);
    let refused = shell(&lab, &script, &refused).output().unwrap();
    let log = String::from_utf8(refused.stderr).unwrap();
    assert!(log.contains("Read-only file system"), "{log}");

    let elsewhere = svcproxy(&lab, program, &[&format!("--proc-sys={path}")]);
    succeed(&mut shell(&lab, &script, &elsewhere));
    assert_eq!(lab.steps(), <[&str; 0]>::default());
    lab.ask(lab.client(), &WEB).unwrap();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn any_user_with_one_capability() {
    let lab = lab("user");
    // The user must be able to read both.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("svcproxy");
    fs::copy(env!("CARGO_BIN_EXE_svcproxy"), &program).unwrap();
    for path in [directory.path(), lab.manifests()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = format!(
        "exec setpriv --reuid=65534 --regid=65534 --clear-groups {CAPABILITY} \
         --ambient-caps=-all,+net_admin --no-new-privs \"$@\""
    );
    let command = svcproxy(&lab, program.to_str().unwrap(), &[]);
    succeed(&mut shell(&lab, &script, &command));
    assert_eq!(lab.steps(), <[&str; 0]>::default());
    lab.ask(lab.client(), &WEB).unwrap();
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn mode_ipvs_needs_no_system_calls_but_those_of_the_profile() {
    confined_shop::is_served("ipvs");
}
