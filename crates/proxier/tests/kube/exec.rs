//! Credentials from a program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use proxier::source::kube::{Access, KubeSource};
use serde_json::{Value, json};
use testbed::{ApiServer, Behaviour, Cut, Resource, Verb};

use crate::cluster::{
    Cluster, NODE, PATIENCE, START, fails, kubeconfig, populated, rejected, replace, service,
    timing,
};

/// A kubeconfig with an exec plugin: a shell script beside it, with further fields.
fn access(directory: &Path, server: &ApiServer, script: &str, fields: &str) -> Access {
    let program = directory.join("plugin");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let cluster = format!("server: {:?}", server.url());
    // Relative to the kubeconfig.
    let user = format!("exec: {{command: ./plugin, {fields}}}");
    kubeconfig(directory, &cluster, &user)
}

const V1: &str = "apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never";
const V1BETA1: &str = "apiVersion: client.authentication.k8s.io/v1beta1";

/// The output of a plugin of this version with a token.
fn token(version: &str, status: &str) -> String {
    format!(
        r#"{{"apiVersion":"client.authentication.k8s.io/{version}","kind":"ExecCredential","status":{{{status}}}}}"#
    )
}

#[test]
fn a_plugin_gets_the_cluster_and_runs_again_after_a_rejection() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let server = populated(Behaviour::default());
    server.require_token("old-a-b");
    replace(&path.join("token"), "old");
    let script = format!(
        r#"cd {path:?}; echo run >> runs; printf %s "$KUBERNETES_EXEC_INFO" > info
           echo "complaint" >&2
           echo '{}' | sed "s/TOKEN/$(cat token)-$1-$MORE/""#,
        token("v1beta1", r#""token":"TOKEN""#)
    );
    let fields =
        format!("{V1BETA1}, args: [a], env: [{{name: MORE, value: b}}], provideClusterInfo: true");
    let access = access(path, &server, &script, &fields);
    let url = server.url();
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.becomes(&START);
    let runs = || {
        fs::read_to_string(path.join("runs"))
            .unwrap()
            .lines()
            .count()
    };
    assert_eq!(runs(), 1, "one run for all kinds");
    let info: Value = serde_json::from_slice(&fs::read(path.join("info")).unwrap()).unwrap();
    let expected = json!({
        "apiVersion": "client.authentication.k8s.io/v1beta1", "kind": "ExecCredential",
        "spec": {"interactive": false, "cluster": {"server": url}},
    });
    assert_eq!(info, expected);

    replace(&path.join("token"), "new");
    cluster.server.require_token("new-a-b");
    cluster
        .server
        .put(Resource::Services, service("d", "10.96.0.4"));
    cluster.server.cut(Resource::Services, Cut::Close);
    cluster.becomes(&[START[0], START[1], START[2], "10.96.0.4:80 → "]);
    cluster.connects();
}

#[test]
fn expired_credentials_are_renewed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let server = populated(Behaviour::default());
    let script = format!(
        "cd {path:?}; echo run >> runs; echo '{}'",
        token(
            "v1",
            r#""token":"x","expirationTimestamp":"2026-01-01T00:00:00Z""#
        )
    );
    let access = access(path, &server, &script, V1);
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.becomes(&START);
    let asks = cluster.server.asks().len();
    let runs = fs::read_to_string(path.join("runs"))
        .unwrap()
        .lines()
        .count();
    assert_eq!(runs, asks, "once for each request");
}

/// Waits until a process has ended, or is a zombie.
fn ends(process: &str) {
    let deadline = Instant::now() + PATIENCE;
    let is_alive = || {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        !status.is_empty() && !status.contains("State:\tZ")
    };
    while is_alive() {
        assert!(Instant::now() < deadline, "process {process} lives on");
        std::thread::yield_now();
    }
}

fn written(path: &Path) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => assert!(
                Instant::now() < deadline,
                "{} is not written",
                path.display()
            ),
        }
        std::thread::yield_now();
    }
}

/// Neither start nor stop waits for it, and its child ends with it.
#[test]
fn a_hanging_plugin_blocks_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let server = populated(Behaviour::default());
    let script = format!(
        "trap '' TERM; sleep 100000 & echo $! > {:?}; wait",
        path.join("child")
    );
    let access = access(path, &server, &script, V1);
    let source = KubeSource::start(
        &proxier::Runtime::start().unwrap(),
        access,
        timing(),
        NODE,
        |_| {},
    )
    .unwrap();
    let child = written(&path.join("child"));
    drop(source);
    ends(&child);
}

#[test]
fn a_plugin_is_killed_at_its_time_limit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let server = populated(Behaviour::default());
    let script = format!("sleep 100000 & echo $! > {:?}; wait", path.join("child"));
    let access = access(path, &server, &script, V1);
    let mut timing = timing();
    timing.plugin = Duration::from_secs(1);
    let mut cluster = Cluster::follow(server, access, timing);
    let child = written(&path.join("child"));
    let said = fails(&mut cluster, "Node", "killed");
    assert_eq!(
        said,
        "exec plugin \"./plugin\" killed: not finished after 1s"
    );
    ends(&child);
}

#[test]
fn failed_plugins_have_errors_of_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let cases = [
        (
            "echo 'no \\033[31m luck' >&2; echo >&2; echo again >&2; exit 3".to_owned(),
            r"failed with exit code 3: no \u{1b}[31m luck again",
        ),
        ("kill -9 $$".to_owned(), "ended by signal: 9 (SIGKILL)"),
        (
            "echo hi".to_owned(),
            "does not print an ExecCredential: expected value at line 1 column 1",
        ),
        (
            format!("echo '{}'", token("v1beta1", r#""token":"x""#)),
            "prints apiVersion \"client.authentication.k8s.io/v1beta1\" where the kubeconfig says \
             \"client.authentication.k8s.io/v1\"; set the kubeconfig to what it prints",
        ),
        (
            format!("echo '{}'", token("v1", "")),
            "prints neither a token nor a client certificate",
        ),
        (
            format!("echo '{}'", token("v1", r#""clientKeyData":"x""#)),
            "prints one of clientCertificateData and clientKeyData",
        ),
        (
            "cat /dev/zero | head -c 3000000".to_owned(),
            "prints more than 1048576 bytes",
        ),
    ];
    for (script, problem) in cases {
        let server = populated(Behaviour::default());
        let access = access(path, &server, &script, V1);
        let mut cluster = Cluster::follow(server, access, timing());
        let said = fails(&mut cluster, "Node", "exec plugin");
        assert_eq!(said, format!("exec plugin \"./plugin\" {problem}"));
        assert_eq!(cluster.server.asks_of(Resource::Nodes, Verb::Watch), []);
    }
}

#[test]
fn the_error_for_a_missing_plugin_has_an_installation_hint() {
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        (
            "svcproxy-no-such-plugin",
            "installHint: \"Install it\\nfrom example.com\"",
            "not found in PATH; Install it from example.com",
        ),
        (
            "./none",
            "installHint: ''",
            "not found; install it where svcproxy runs",
        ),
    ];
    for (command, hint, problem) in cases {
        let user = format!("exec: {{command: {command}, {hint}, {V1}}}");
        let access = kubeconfig(directory.path(), "server: 'http://192.0.2.1'", &user);
        let error = rejected(access);
        assert_eq!(
            error.to_string(),
            format!("exec plugin {command:?} {problem}")
        );
    }
}
