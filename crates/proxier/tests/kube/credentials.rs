//! Who we are to the server, and what if that changes.

use std::fs;
use std::path::Path;

use proxier::source::kube::{Access, AccessError, KubeSource, StartError};
use testbed::{Ask, Behaviour, Cut, Resource, Verb};

use crate::cluster::{Cluster, NODE, START, populated, service, timing};

fn write_kubeconfig(path: &Path, server: &str, user: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\n\
         contexts: [{{name: here, context: {{cluster: here, user: me}}}}]\n\
         clusters: [{{name: here, cluster: {{server: {server:?}}}}}]\n\
         users: [{{name: me, user: {user}}}]\n"
    );
    replace(path, &text);
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn kubeconfig(path: &Path) -> Access {
    let mut access = Access::default();
    access.kubeconfig = Some(path.to_owned());
    access
}

#[test]
fn a_token_that_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    let server = populated(Behaviour::default());
    server.require_token("old");
    // As an editor leaves it.
    replace(&directory.path().join("token"), "old\n");
    // Relative to the kubeconfig.
    write_kubeconfig(&path, &server.url(), "{tokenFile: token}");
    let mut cluster = Cluster::follow(server, kubeconfig(&path), timing());
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
    write_kubeconfig(&path, &one.url(), "{token: secret}");
    let mut cluster = Cluster::follow(one, kubeconfig(&path), timing());
    cluster.becomes(&START);
    let ask = &cluster.server.asks_of(Resource::Services, Verb::Watch)[0];
    assert_eq!(ask.authorization.as_deref(), Some("Bearer secret"));
    // While it cannot be read, the last stays in use.
    replace(&path, "apiVersion: [");
    cluster.server.cut(Resource::Services, Cut::End);
    cluster.asked(Resource::Services, Verb::Watch, 2);
    write_kubeconfig(&path, &other.url(), "{}");
    other.compact();
    other.put(Resource::Services, service("e", "10.96.0.5"));
    cluster.server.go_away();
    cluster.becomes(&[START[0], START[1], START[2], "10.96.0.5:80 → "]);
}

#[test]
fn a_given_server_is_asked_and_not_the_kubeconfigs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    write_kubeconfig(&path, "http://192.0.2.1:1", "{token: secret}");
    let server = populated(Behaviour::default());
    let mut access = kubeconfig(&path);
    access.server = Some(server.url());
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.becomes(&START);
    let ask = &cluster.server.asks_of(Resource::Services, Verb::Watch)[0];
    assert_eq!(ask.authorization.as_deref(), Some("Bearer secret"));
}

#[test]
fn what_cannot_work_is_told_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    let start = |access| KubeSource::start(access, timing(), NODE, |_| {}).unwrap_err();
    let error = start(kubeconfig(&path));
    assert!(
        matches!(error, StartError::Access(AccessError::Kubeconfig { .. })),
        "{error}"
    );
    replace(&directory.path().join("token"), " \n");
    write_kubeconfig(&path, "http://192.0.2.1:1", "{tokenFile: token}");
    let error = start(kubeconfig(&path));
    assert!(
        matches!(error, StartError::Access(AccessError::NoToken(_))),
        "{error}"
    );
    write_kubeconfig(&path, "http://192.0.2.1:1", "{tokenFile: none}");
    let error = start(kubeconfig(&path));
    assert!(
        matches!(error, StartError::Access(AccessError::Token { .. })),
        "{error}"
    );
    let mut access = Access::default();
    access.server = Some("not a URL".to_owned());
    let error = start(access);
    assert_eq!(
        error.to_string(),
        "\"not a URL\" is not the URL of an API server"
    );
    // No test runs in a pod.
    let error = start(Access::default());
    assert!(
        matches!(error, StartError::Access(AccessError::NotInCluster(_))),
        "{error}"
    );
}
