//! Credentials, and their changes.

use proxier::source::kube::{Access, AccessError, KubeSource, StartError};
use testbed::{ApiServer, Ask, Behaviour, Cut, Fault, Resource, Verb};

use crate::cluster::{
    Cluster, NODE, START, access, fails, kubeconfig, populated, rejected, replace, service, timing,
};

#[test]
fn a_token_that_changes() {
    let directory = tempfile::tempdir().unwrap();
    let server = populated(Behaviour::default());
    server.require_token("old");
    // With a trailing newline, as editors write it.
    replace(&directory.path().join("token"), "old\n");
    // Relative to the kubeconfig.
    let access = kubeconfig(directory.path(), &at(&server), "tokenFile: token");
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.becomes(&START);
    cluster.server.require_token("new");
    cluster.server.cut(Resource::Services, Cut::End);
    cluster.until("refused", |cluster| {
        let failures = cluster.source.state().failures;
        if failures.contains_key("Service") {
            Ok(())
        } else {
            Err(failures)
        }
    });
    cluster
        .server
        .put(Resource::Services, service("d", "10.96.0.4"));
    cluster.stays(&START);
    let asks = cluster.server.asks().len();
    replace(&directory.path().join("token"), "\n");
    cluster.until("asked on", |cluster| match cluster.server.asks().len() {
        now if now >= asks + 8 => Ok(()),
        now => Err(now),
    });
    let unknown = |ask: &Ask| ask.authorization.is_none();
    assert!(
        !cluster.server.asks().iter().any(unknown),
        "never as anyone"
    );
    replace(&directory.path().join("token"), "new");
    cluster.becomes(&[START[0], START[1], START[2], "10.96.0.4:80 → "]);
    cluster.connects();
}

#[test]
fn a_kubeconfig_that_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    let (one, other) = (
        populated(Behaviour::default()),
        populated(Behaviour::default()),
    );
    let access = kubeconfig(directory.path(), &at(&one), "token: secret");
    let mut cluster = Cluster::follow(one, access, timing());
    cluster.becomes(&START);
    let ask = &cluster.server.asks_of(Resource::Services, Verb::Watch)[0];
    assert_eq!(ask.authorization.as_deref(), Some("Bearer secret"));
    // While it is unreadable, the last version stays in use.
    replace(&path, "apiVersion: [");
    cluster.server.cut(Resource::Services, Cut::End);
    cluster.asked(Resource::Services, Verb::Watch, 2);
    kubeconfig(directory.path(), &at(&other), "");
    other.compact();
    other.put(Resource::Services, service("e", "10.96.0.5"));
    cluster.server.go_away();
    cluster.becomes(&[START[0], START[1], START[2], "10.96.0.5:80 → "]);
}

#[test]
fn a_given_server_takes_precedence_over_the_kubeconfigs() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = "server: 'http://192.0.2.1:1'";
    let server = populated(Behaviour::default());
    let mut access = kubeconfig(directory.path(), nowhere, "token: secret");
    access.server = Some(server.url());
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.becomes(&START);
    let ask = &cluster.server.asks_of(Resource::Services, Verb::Watch)[0];
    assert_eq!(ask.authorization.as_deref(), Some("Bearer secret"));
}

#[test]
fn invalid_settings_are_reported_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut missing = Access::default();
    missing.kubeconfig = Some(path.join("none"));
    let error = rejected(missing);
    assert!(
        matches!(
            error,
            StartError::Access(AccessError::Read {
                what: "kubeconfig",
                ..
            })
        ),
        "{error}"
    );
    let nowhere = "server: 'http://192.0.2.1:1'";
    replace(&path.join("token"), " \n");
    let error = rejected(kubeconfig(path, nowhere, "tokenFile: token"));
    assert!(
        matches!(error, StartError::Access(AccessError::NoToken(_))),
        "{error}"
    );
    let error = rejected(kubeconfig(path, nowhere, "tokenFile: none"));
    assert!(
        matches!(
            error,
            StartError::Access(AccessError::Read { what: "token", .. })
        ),
        "{error}"
    );
    let mut access = Access::default();
    access.server = Some("not a URL".to_owned());
    let error = rejected(access);
    assert_eq!(
        error.to_string(),
        "\"not a URL\" is not the URL of an API server"
    );
    // Tests do not run in a pod.
    let error = rejected(Access::default());
    assert!(
        matches!(error, StartError::Access(AccessError::NotInCluster(_))),
        "{error}"
    );
}

fn at(server: &ApiServer) -> String {
    format!("server: {:?}", server.url())
}

/// Each error is one sentence with the file and a remedy.
#[test]
fn invalid_kubeconfigs() {
    let server = "server: 'https://192.0.2.1:6443'";
    let cases = [
        (
            server,
            "auth-provider: {name: gcp, config: {expiry: x}}",
            "user \"me\" has an auth-provider \"gcp\", which Kubernetes has replaced by exec \
             plugins; give the user an exec plugin: gke-gcloud-auth-plugin",
        ),
        ("", "", "the cluster of its current context has no server"),
        (
            "server: 'https://a', insecure-skip-tls-verify: true, certificate-authority-data: aGk=",
            "",
            "insecure-skip-tls-verify and certificate-authority exclude each other; remove one of \
             them",
        ),
        (
            server,
            "client-certificate-data: aGk=",
            "user \"me\" has a client-certificate and no client-key",
        ),
        (
            "server: 'https://a', certificate-authority-data: '~'",
            "",
            "certificate-authority-data is not base64: Invalid symbol 126, offset 0.",
        ),
        (
            server,
            "exec: {command: x, apiVersion: client.authentication.k8s.io/v1alpha1}",
            "the exec plugin of user \"me\" has apiVersion \
             \"client.authentication.k8s.io/v1alpha1\"; use client.authentication.k8s.io/v1 or \
             v1beta1, and a version of \"x\" that has it",
        ),
        (
            server,
            "exec: {command: x, apiVersion: client.authentication.k8s.io/v1}",
            "the exec plugin of user \"me\" has no interactiveMode; set it to Never or IfAvailable",
        ),
        (
            server,
            "exec: {command: x, apiVersion: client.authentication.k8s.io/v1, \
             interactiveMode: Always}",
            "the exec plugin of user \"me\" has interactiveMode Always, and svcproxy has no terminal \
             for it; use credentials that need nobody to answer",
        ),
    ];
    let directory = tempfile::tempdir().unwrap();
    for (cluster, user, problem) in cases {
        let access = kubeconfig(directory.path(), cluster, user);
        let path = access.kubeconfig.clone().unwrap();
        let error = rejected(access);
        let expected = format!("cannot use the kubeconfig {}: {problem}", path.display());
        assert_eq!(error.to_string(), expected);
    }
    for (text, problem) in [
        ("{}", "it has no current-context"),
        (
            "current-context: a",
            "its current-context \"a\" is not defined",
        ),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: b, user: c}}], users: null}",
            "the cluster \"b\" of context \"a\" is not defined",
        ),
    ] {
        let path = directory.path().join("config");
        replace(&path, text);
        let mut access = Access::default();
        access.kubeconfig = Some(path);
        let error = rejected(access);
        assert!(error.to_string().ends_with(problem), "{error}");
    }
}

#[test]
fn a_source_within_a_tokio_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::new(Behaviour::default());
        cluster.stays(&START);
        drop(cluster);
        let error = KubeSource::start(
            &proxier::Runtime::start().unwrap(),
            Access::default(),
            timing(),
            NODE,
            |_| {},
        );
        assert!(matches!(error, Err(StartError::Access(_))), "{error:?}");
    });
}

/// Text from a server cannot forge log lines or control the terminal.
#[test]
fn text_from_a_server_is_escaped() {
    let server = populated(Behaviour::default());
    server.say("one\u{1b}[2Jtwo\rthree\u{202e}");
    let refusal = Fault::Status {
        code: 500,
        retry_after: None,
    };
    server.fail(Resource::Nodes, Verb::Watch, vec![refusal; 1000]);
    let access = access(&server);
    let mut cluster = Cluster::follow(server, access, timing());
    let said = fails(&mut cluster, "Node", "500");
    assert_eq!(
        said,
        r"the API server answers: 500 one\u{1b}[2Jtwo\rthree\u{202e}"
    );
}
