//! Connections to the API server: path prefixes, proxies, and TLS in all forms that client-go
//! supports.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use testbed::{Authority, Behaviour, Clients, ForwardProxy, Https, Resource, Verb};

use crate::cluster::{Cluster, START, fails, kubeconfig, populated, rejected, timing};

/// A name that no resolver knows: a client that reaches it did not resolve it.
const HOST: &str = "api.svcproxy.invalid";

#[test]
fn a_server_below_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let server = populated(Behaviour::default());
    server.require_prefix("/k8s/clusters/c-1");
    let cluster = format!("server: '{}/k8s/clusters/c-1/'", server.url());
    let access = kubeconfig(directory.path(), &cluster, "");
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.becomes(&START);
    cluster.connects();
}

#[test]
fn a_server_without_a_scheme() {
    let directory = tempfile::tempdir().unwrap();
    let server = populated(Behaviour::default());
    let cluster = format!("server: '{}'", server.address());
    let access = kubeconfig(directory.path(), &cluster, "");
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.becomes(&START);
}

fn ca(directory: &Path, authority: &Authority) -> String {
    fs::write(directory.join("ca.crt"), authority.certificate()).unwrap();
    "certificate-authority: ca.crt".to_owned()
}

#[test]
fn through_each_kind_of_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new().unwrap();
    for scheme in ["http", "https", "socks5"] {
        let server = populated(Behaviour::default());
        let front = Https::in_front_of(server.address(), &authority, HOST, Clients::All).unwrap();
        let proxy = ForwardProxy::start(front.address(), None).unwrap();
        let before_proxy =
            Https::in_front_of(proxy.address(), &authority, "127.0.0.1", Clients::All).unwrap();
        let (address, user): (SocketAddr, _) = match scheme {
            "https" => (before_proxy.address(), "us%40er:secret@"),
            "http" => (proxy.address(), "us%40er:secret@"),
            _ => (proxy.address(), ""),
        };
        let cluster = format!(
            "server: 'https://{HOST}:6443', {}, proxy-url: '{scheme}://{user}{address}'",
            ca(directory.path(), &authority)
        );
        let access = kubeconfig(directory.path(), &cluster, "token: x");
        let mut cluster = Cluster::follow(server, access, timing());
        cluster.becomes(&START);
        let ask = &proxy.asks()[0];
        if scheme == "socks5" {
            assert_eq!(*ask, format!("SOCKS {HOST}:6443"));
        } else {
            let expected = format!(
                "CONNECT {HOST}:6443 HTTP/1.1\r\nHost: {HOST}:6443\r\n\
                 Proxy-Authorization: Basic dXNAZXI6c2VjcmV0\r\n\r\n"
            );
            assert_eq!(*ask, expected);
        }
        let ask = &cluster.server.asks_of(Resource::Services, Verb::Watch)[0];
        assert_eq!(ask.authorization.as_deref(), Some("Bearer x"));
    }
}

/// A server without TLS is requested by URL.
#[test]
fn through_a_proxy_without_a_tunnel() {
    let directory = tempfile::tempdir().unwrap();
    let server = populated(Behaviour::default());
    let proxy = ForwardProxy::start(server.address(), None).unwrap();
    let cluster = format!(
        "server: 'http://{HOST}', proxy-url: 'http://a:b@{}'",
        proxy.address()
    );
    let access = kubeconfig(directory.path(), &cluster, "");
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.becomes(&START);
    let asks = proxy.asks();
    let asks: Vec<_> = asks.iter().map(|ask| ask.to_lowercase()).collect();
    let nodes = format!("get http://{HOST}/api/v1/nodes?");
    let ask = asks.iter().find(|ask| ask.starts_with(&nodes));
    let ask = ask.unwrap_or_else(|| panic!("{asks:?}"));
    assert!(ask.contains("\r\nproxy-authorization: basic ytpi"), "{ask}");
}

#[test]
fn proxies_that_refuse_are_named_without_their_password() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let cases = [
        (
            "HTTP/1.1 407 Proxy \u{1b}Authentication Required\r\n\r\n",
            r"it wants other credentials than those in its URL (HTTP/1.1 407 Proxy \u{1b}Authentication Required)".to_owned(),
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            format!("it refuses CONNECT {HOST}:6443: HTTP/1.1 503 Service Unavailable"),
        ),
        ("", "it closes the connection without an answer to CONNECT".to_owned()),
    ];
    for (refusal, problem) in cases {
        let server = populated(Behaviour::default());
        let proxy = ForwardProxy::start(server.address(), Some(refusal)).unwrap();
        let address = proxy.address();
        let cluster = format!(
            "server: 'https://{HOST}:6443', insecure-skip-tls-verify: true, \
             proxy-url: 'http://user:secret@{address}'"
        );
        let access = kubeconfig(path, &cluster, "");
        let mut cluster = Cluster::follow(server, access, timing());
        let said = fails(&mut cluster, "Node", "proxy");
        let expected = format!(
            "cannot reach the API server https://{HOST}:6443: proxy http://{address} \
             (proxy-url of {}): {problem}",
            path.join("config").display()
        );
        assert_eq!(said, expected);
    }
}

#[test]
fn servers_of_another_name_or_of_none() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new().unwrap();
    let server = populated(Behaviour::default());
    let front = Https::in_front_of(server.address(), &authority, HOST, Clients::All).unwrap();
    let at = format!("server: '{}'", front.url());
    let ca = ca(directory.path(), &authority);
    let access = kubeconfig(directory.path(), &format!("{at}, {ca}"), "");
    let mut cluster = Cluster::follow(server, access, timing());
    let said = fails(&mut cluster, "Node", "cannot reach");
    assert!(said.contains("not valid for name"), "{said}");
    kubeconfig(
        directory.path(),
        &format!("{at}, {ca}, tls-server-name: {HOST}"),
        "",
    );
    cluster.becomes(&START);

    let server = populated(Behaviour::default());
    let front = Https::in_front_of(server.address(), &authority, HOST, Clients::All).unwrap();
    let at = format!("server: '{}', insecure-skip-tls-verify: true", front.url());
    let access = kubeconfig(directory.path(), &at, "");
    let mut cluster = Cluster::follow(server, access, timing());
    cluster.becomes(&START);
}

#[test]
fn a_server_that_does_not_speak_tls() {
    let directory = tempfile::tempdir().unwrap();
    let server = populated(Behaviour::default());
    let address = server.address();
    let at = format!("server: 'https://{address}', insecure-skip-tls-verify: true");
    let access = kubeconfig(directory.path(), &at, "");
    let mut cluster = Cluster::follow(server, access, timing());
    let said = fails(&mut cluster, "Node", "cannot reach");
    let start = format!("cannot reach the API server https://{address}: TLS with {address}: ");
    assert!(said.starts_with(&start), "{said}");
}

#[test]
fn nobody_listens() {
    let directory = tempfile::tempdir().unwrap();
    let server = populated(Behaviour::default());
    // A port that was free a moment ago is most likely still free.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let access = kubeconfig(directory.path(), &format!("server: 'http://{address}'"), "");
    let mut cluster = Cluster::follow(server, access, timing());
    let said = fails(&mut cluster, "Node", "cannot reach");
    let expected = format!(
        "cannot reach the API server http://{address}: {address}: Connection refused (os error 111)"
    );
    assert_eq!(said, expected);
}

fn openssl(directory: &Path, arguments: &str) -> String {
    let done = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl {arguments}: {complaint}");
    String::from_utf8(done.stdout).unwrap()
}

/// A certificate of X.509 version 1 for the key in `user.key`, as in guides for manual
/// installation.
fn issue_v1(directory: &Path) {
    openssl(
        directory,
        "req -new -key user.key -subj /O=system:nodes/CN=node-a -out user.csr",
    );
    let issue =
        "x509 -req -in user.csr -CA root.crt -CAkey root.key -CAcreateserial -days 9 -out user.crt";
    openssl(directory, issue);
    let text = openssl(directory, "x509 -in user.crt -noout -text");
    assert!(text.contains("Version: 1 (0x0)"), "{text}");
}

#[test]
fn client_certificates_of_version_1_with_keys_of_every_kind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let root = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key \
                -subj /CN=root -days 9 -out root.crt";
    openssl(path, root);
    let authority = Authority::new().unwrap();
    let ca = ca(path, &authority);
    for (make, label) in [
        (
            "genrsa -traditional -out user.key 2048",
            "BEGIN RSA PRIVATE KEY",
        ),
        ("genrsa -out user.key 2048", "BEGIN PRIVATE KEY"),
        (
            "ecparam -name prime256v1 -genkey -out user.key",
            "BEGIN EC PARAMETERS",
        ),
        (
            "ecparam -name secp384r1 -genkey -noout -out user.key",
            "BEGIN EC PRIVATE KEY",
        ),
        (
            "genpkey -algorithm ed25519 -out user.key",
            "BEGIN PRIVATE KEY",
        ),
    ] {
        openssl(path, make);
        let key = fs::read_to_string(path.join("user.key")).unwrap();
        assert!(key.contains(label), "{key}");
        issue_v1(path);
        let only = Clients::Only {
            certificate: fs::read_to_string(path.join("user.crt")).unwrap(),
            public_key: openssl(path, "x509 -in user.crt -noout -pubkey"),
        };
        let server = populated(Behaviour::default());
        let front = Https::in_front_of(server.address(), &authority, "127.0.0.1", only).unwrap();
        let at = format!("server: '{}', {ca}", front.url());
        let access = kubeconfig(
            path,
            &at,
            "client-certificate: user.crt, client-key: user.key",
        );
        let mut cluster = Cluster::follow(server, access, timing());
        cluster.becomes(&START);
    }
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let root = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key \
                -subj /CN=root -days 9 -out root.crt";
    openssl(path, root);
    openssl(
        path,
        "ecparam -name prime256v1 -genkey -noout -out user.key",
    );
    issue_v1(path);
    let encrypted = "it is encrypted, which no Kubernetes client supports; decrypt it with \
                     'openssl pkey -in FILE -out NEW'";
    let cases = [
        (
            "pkcs8 -topk8 -in user.key -passout pass:x -out bad.key",
            encrypted,
        ),
        (
            "ec -aes256 -in user.key -passout pass:x -out bad.key",
            encrypted,
        ),
        (
            "x509 -in user.crt -out bad.key",
            "there is no private key in PEM form in it",
        ),
        (
            "genrsa -out bad.key 1024",
            "it is not an RSA key of 2048 to 4096 bits, an ECDSA key on P-256 or P-384, or an \
             Ed25519 key",
        ),
    ];
    let start = || {
        let cluster = "server: 'https://192.0.2.1', insecure-skip-tls-verify: true";
        let user = "client-certificate: user.crt, client-key: bad.key";
        let access = kubeconfig(path, cluster, user);
        rejected(access).to_string()
    };
    let key = path.join("bad.key");
    for (make, problem) in cases {
        openssl(path, make);
        let expected = format!("cannot use the client key in {}: {problem}", key.display());
        assert_eq!(start(), expected);
    }
    openssl(path, "ecparam -name prime256v1 -genkey -noout -out bad.key");
    let expected = format!(
        "cannot use the client key in {}: it is not the key of the client certificate in {}",
        key.display(),
        path.join("user.crt").display()
    );
    assert_eq!(start(), expected);
}
