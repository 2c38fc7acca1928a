//! A server with TLS, and credentials that rotate on disk.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use proxier::source::kube::Access;
use testbed::{Authority, Behaviour, Cut, Identity, Resource, Verb};

use crate::cluster::{Cluster, START, fails, populated, service, timing};

/// Writes files as the kubelet writes a projected volume: they are links through `..data`, and one
/// rename swaps them all.
fn write(volume: &Path, time: &str, files: &[(&str, &str)]) {
    let directory = volume.join(format!("..{time}"));
    fs::create_dir(&directory).unwrap();
    for (name, text) in files {
        fs::write(directory.join(name), text).unwrap();
        let link = volume.join(name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    symlink(format!("..{time}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
}

fn files<'a>(ca: &'a str, user: &'a Identity, token: &'a str) -> [(&'static str, &'a str); 4] {
    [
        ("ca.crt", ca),
        ("tls.crt", &user.certificate),
        ("tls.key", &user.key),
        ("token", token),
    ]
}

/// A kubeconfig beside the volume of its credentials.
fn access(directory: &Path, server: &str) -> Access {
    let path = directory.join("config");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\n\
         contexts: [{{name: here, context: {{cluster: here, user: me}}}}]\n\
         clusters: [{{name: here, cluster: {{server: {server:?}, \
         certificate-authority: volume/ca.crt}}}}]\n\
         users: [{{name: me, user: {{tokenFile: volume/token, \
         client-certificate: volume/tls.crt, client-key: volume/tls.key}}}}]\n"
    );
    fs::write(&path, text).unwrap();
    let mut access = Access::default();
    access.kubeconfig = Some(path);
    access
}

#[test]
fn credentials_that_rotate_are_used_and_the_old_ones_refused() {
    let directory = tempfile::tempdir().unwrap();
    let volume = directory.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let authority = Authority::new().unwrap();
    let (ca, user) = (authority.certificate(), authority.issue("node-a").unwrap());
    write(&volume, "1", &files(&ca, &user, "old"));
    let server = populated(Behaviour::default());
    server.require_token("old");
    let https = server.serve_https(&authority).unwrap();
    let mut cluster = Cluster::follow(server, access(directory.path(), &https.url()), timing());
    cluster.becomes(&START);

    // Open watches continue; new requests are rejected until the token changes on disk.
    cluster.server.require_token("new");
    cluster.server.cut(Resource::Services, Cut::End);
    fails(&mut cluster, "Service", "401");
    cluster
        .server
        .put(Resource::Services, service("d", "10.96.0.4"));
    cluster.stays(&START);
    let another = authority.issue("node-a").unwrap();
    write(&volume, "2", &files(&ca, &another, "new"));
    cluster.becomes(&[START[0], START[1], START[2], "10.96.0.4:80 → "]);
    cluster.connects();
    let asks = cluster.server.asks_of(Resource::Services, Verb::Watch);
    let used: Vec<_> = asks
        .iter()
        .map(|ask| ask.authorization.as_deref().unwrap())
        .collect();
    assert_eq!(
        (used[0], used[used.len() - 1]),
        ("Bearer old", "Bearer new")
    );
}

#[test]
fn a_server_of_another_authority_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let volume = directory.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let (own, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let user = theirs.issue("node-a").unwrap();
    let server = populated(Behaviour::default());
    let https = server.serve_https(&theirs).unwrap();
    write(&volume, "1", &files(&own.certificate(), &user, "x"));
    let mut cluster = Cluster::follow(server, access(directory.path(), &https.url()), timing());
    fails(
        &mut cluster,
        "Node",
        "cannot reach the API server https://127.0.0.1:",
    );
    assert_eq!(cluster.server.asks().len(), 0);
    write(&volume, "2", &files(&theirs.certificate(), &user, "x"));
    cluster.becomes(&START);
}

#[test]
fn a_rejected_client_certificate_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let volume = directory.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let (authority, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    let ca = authority.certificate();
    let server = populated(Behaviour::default());
    let https = server.serve_https(&authority).unwrap();
    write(
        &volume,
        "1",
        &files(&ca, &other.issue("node-a").unwrap(), "x"),
    );
    let mut cluster = Cluster::follow(server, access(directory.path(), &https.url()), timing());
    fails(
        &mut cluster,
        "Node",
        "cannot reach the API server https://127.0.0.1:",
    );
    assert_eq!(cluster.server.asks().len(), 0);
    write(
        &volume,
        "2",
        &files(&ca, &authority.issue("node-a").unwrap(), "x"),
    );
    cluster.becomes(&START);
}
