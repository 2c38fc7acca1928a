//! How to reach the API server, and the credentials for it, as in client-go.

mod exec;
mod kubeconfig;
mod proxy;
mod tls;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer};

use super::encoding::Encoding;
use crate::escaped::Escaped;

pub(super) use self::exec::{Credential, Plugin};
pub(super) use self::proxy::{Protocol, Proxy};
pub(super) use self::tls::{client_config, proxy_config};

/// The directory of a pod's credentials.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The variables that name the API server in a pod.
const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";
const SERVICE_PORT: &str = "KUBERNETES_SERVICE_PORT";

/// How to reach the API server, and with which credentials.
///
/// Unless the kubeconfig has a `proxy-url`, the proxy is the one in `HTTPS_PROXY` (for an `http://`
/// server `HTTP_PROXY`), in upper or lower case, except for servers in `NO_PROXY`. As in Go,
/// `ALL_PROXY` has no effect. The proxy's URL has the scheme `http`, `https` or `socks5`. An `https`
/// proxy is verified with the system's certificates and the cluster's CA, and does not get the
/// client certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// A kubeconfig; its current context counts. Without a kubeconfig and a server, the service
    /// account of svcproxy's pod is used.
    pub kubeconfig: Option<PathBuf>,
    /// URL of the API server, instead of the kubeconfig's.
    ///
    /// The address in a pod's environment is a cluster IP, which is reachable only once a service
    /// proxy works. A service proxy needs the server's own address: here, in the kubeconfig, or in
    /// the variable `KUBERNETES_SERVICE_HOST`.
    pub server: Option<String>,
    /// The encoding in which to request objects.
    pub encoding: Encoding,
}

/// Why the API server cannot be reached with these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// A file cannot be read.
    #[error("cannot read the {what} {}", path.display())]
    Read {
        /// The content of the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The kubeconfig is invalid.
    #[error("cannot use the kubeconfig {}: {}", path.display(), Escaped(problem))]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error(
        "no kubeconfig and no server are given, and this is not a pod with a service account: {0}"
    )]
    NotInCluster(String),
    /// The server's URL cannot be used.
    #[error("{url:?} is not the URL of an API server")]
    Server {
        /// What was given.
        url: String,
    },
    /// A certificate or a key is invalid.
    #[error("cannot use the {what} in {origin}: {problem}")]
    Material {
        /// The kind of material.
        what: &'static str,
        /// The file or field that it comes from.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The token file is empty, for example while it is being written. A request without a token
    /// would be anonymous.
    #[error("there is no token in {}", .0.display())]
    NoToken(PathBuf),
    /// A token or user name contains characters that are invalid in an HTTP header.
    #[error("the token or the user's name has characters that an HTTP header cannot have")]
    NotAHeader,
    /// The exec plugin of a kubeconfig returns no credentials.
    #[error("exec plugin {command:?} {}", Escaped(problem))]
    Plugin {
        /// The plugin's command.
        command: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The proxy cannot be used.
    #[error("cannot use the proxy of {origin}: {problem}")]
    Proxy {
        /// The variable or file that names it.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The parameters of a connection to an API server.
#[derive(Debug)]
pub(super) struct Target {
    /// Scheme, authority, and the prefix of all paths, without a trailing slash.
    pub(super) server: Uri,
    /// The name that the server's certificate must have, if not the host.
    pub(super) server_name: Option<String>,
    pub(super) trust: Trust,
    /// A client certificate and its key.
    pub(super) identity: Option<(Material, Material)>,
    pub(super) secret: Option<Secret>,
    pub(super) plugin: Option<Plugin>,
    /// Headers that impersonate another user.
    pub(super) impersonation: Vec<(String, String)>,
    /// URL of a proxy, and the variable or file that it comes from.
    proxy: Option<(String, String)>,
    /// The files that all this was read from.
    pub(super) files: Files,
}

/// Files that were read, each with its stamp from just before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Files(Vec<(PathBuf, Stamp)>);

/// Distinguishes versions of a file: credential volumes swap links, other programs write in place.
type Stamp = Option<(u64, i64, i64, u64)>;

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.len(),
    ))
}

impl Files {
    /// Whether any file has changed since it was read.
    pub(super) fn have_changed(&self) -> bool {
        self.0.iter().any(|(path, then)| stamp(path) != *then)
    }

    fn read(&mut self, what: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
        // Take the stamp before reading, so that a later change is noticed.
        self.0.push((path.to_owned(), stamp(path)));
        fs::read(path).map_err(|source| AccessError::Read {
            what,
            path: path.to_owned(),
            source,
        })
    }

    fn material(&mut self, what: &'static str, path: &Path) -> Result<Material, AccessError> {
        Ok(Material {
            what,
            origin: path.display().to_string(),
            text: self.read(what, path)?,
        })
    }

    fn token(&mut self, path: &Path) -> Result<Secret, AccessError> {
        let text = self.read("token", path)?;
        match String::from_utf8_lossy(&text).trim() {
            "" => Err(AccessError::NoToken(path.to_owned())),
            token => Ok(Secret::Token(token.to_owned())),
        }
    }
}

/// The authorities that may sign the server's certificate.
#[derive(Debug)]
pub(super) enum Trust {
    Authorities(Material),
    /// The system's trusted authorities.
    System,
    /// The certificate is not verified.
    Anyone,
}

/// The credentials in the header `Authorization`.
pub(super) enum Secret {
    Token(String),
    Password { user: String, password: String },
}

/// Certificates or a key, as PEM.
pub(super) struct Material {
    pub(super) what: &'static str,
    /// The file or field that it comes from.
    pub(super) origin: String,
    pub(super) text: Vec<u8>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.what, self.origin)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "a token",
            Self::Password { .. } => "a password",
        })
    }
}

impl Access {
    /// Checks these settings without a request to the API server.
    pub(super) fn check(&self) -> Result<(), AccessError> {
        let target = self.load()?;
        target.proxy()?;
        if target.is_tls() {
            client_config(&target.trust, target.identity.as_ref())?;
        }
        target.plugin.as_ref().map_or(Ok(()), Plugin::check)
    }

    pub(super) fn load(&self) -> Result<Target, AccessError> {
        match (&self.kubeconfig, &self.server) {
            (Some(path), server) => kubeconfig::load(path, server.as_deref()),
            (None, Some(server)) => Target::new(server, &Trust::System, false),
            (None, None) => in_cluster(),
        }
    }
}

/// Checks the text of a kubeconfig as [`Access::check`] does, without files of the system and without
/// its plugin.
#[cfg(feature = "testing")]
pub(super) fn check_text(text: &[u8]) -> Result<(), AccessError> {
    let path = Path::new("/nowhere/kubeconfig");
    let target = kubeconfig::parse(path, text, Files::default(), None)?;
    target.proxy()?;
    if target.is_tls() && !matches!(target.trust, Trust::System) {
        client_config(&target.trust, target.identity.as_ref())?;
    }
    Ok(())
}

fn in_cluster() -> Result<Target, AccessError> {
    let variable = |name: &str| {
        let value = env::var(name).ok().filter(|value| !value.is_empty());
        value.ok_or_else(|| AccessError::NotInCluster(format!("the variable {name} is not set")))
    };
    let server = service_url(&variable(SERVICE_HOST)?, &variable(SERVICE_PORT)?);
    let directory = Path::new(SERVICE_ACCOUNT);
    let token = directory.join("token");
    if !token.exists() {
        let problem = format!("{} does not exist", token.display());
        return Err(AccessError::NotInCluster(problem));
    }
    let authorities = directory.join("ca.crt");
    let mut files = Files::default();
    let trust = Trust::Authorities(files.material("CA certificates", &authorities)?);
    let mut target = Target::new(&server, &trust, false)?;
    target.trust = trust;
    target.secret = Some(files.token(&token)?);
    target.files = files;
    Ok(target)
}

/// The URL of a host, which may be an IPv6 address without brackets.
fn service_url(host: &str, port: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("https://[{host}]:{port}")
    } else {
        format!("https://{host}:{port}")
    }
}

impl Target {
    /// The target for a server URL. A URL without a scheme means `https` if there are settings that
    /// only TLS uses, as in client-go (`rest.DefaultServerURL`).
    fn new(server: &str, trust: &Trust, has_identity: bool) -> Result<Self, AccessError> {
        let is_tls = has_identity || !matches!(trust, Trust::System);
        Ok(Self {
            server: parse_server(server, is_tls).ok_or_else(|| AccessError::Server {
                url: server.to_owned(),
            })?,
            server_name: None,
            trust: Trust::System,
            identity: None,
            secret: None,
            plugin: None,
            impersonation: Vec::new(),
            proxy: None,
            files: Files::default(),
        })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.server.scheme() == Some(&http::uri::Scheme::HTTPS)
    }

    /// The host, without brackets, and the port.
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        let host = self.server.host().unwrap_or_default();
        let port = self.server.port_u16();
        let default = if self.is_tls() { 443 } else { 80 };
        (without_brackets(host), port.unwrap_or(default))
    }

    /// The proxy for the server, if any.
    pub(super) fn proxy(&self) -> Result<Option<Proxy>, AccessError> {
        match &self.proxy {
            Some((url, origin)) => Proxy::parse(url, origin).map(Some),
            None => {
                let (host, port) = self.host_and_port();
                let variable = |name: &str| env::var(name).ok();
                Proxy::of_environment(self.is_tls(), host, port, variable)
            }
        }
    }
}

fn parse_server(url: &str, is_tls: bool) -> Option<Uri> {
    let url = url.trim();
    let with_scheme = match url.split_once("://") {
        Some(_) => url.to_owned(),
        None if is_tls => format!("https://{url}"),
        None => format!("http://{url}"),
    };
    let uri: Uri = with_scheme.parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let is_plain = uri.query().is_none() && uri.host().is_some_and(|host| !host.is_empty());
    (is_http && is_plain).then_some(uri)
}

fn without_brackets(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

impl Material {
    fn unusable(&self, problem: impl Into<String>) -> AccessError {
        AccessError::Material {
            what: self.what,
            origin: self.origin.clone(),
            problem: problem.into(),
        }
    }
}

impl Secret {
    /// The value of `Authorization`.
    pub(super) fn header(&self) -> String {
        match self {
            Self::Token(token) => format!("Bearer {token}"),
            Self::Password { user, password } => basic(user, password),
        }
    }
}

/// HTTP's basic authentication.
pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", encode(format!("{user}:{password}").as_bytes()))
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes base64, which YAML may have folded.
fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let text: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    STANDARD.decode(text)
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Decodes null as the default, as Go's JSON does.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_as_client_go_takes_them() {
        let parsed = |url, is_tls| parse_server(url, is_tls).map(|uri| uri.to_string());
        let cases = [
            ("https://192.0.2.1:6443", "https://192.0.2.1:6443/"),
            (
                "https://rancher.test/k8s/clusters/c-1/",
                "https://rancher.test/k8s/clusters/c-1/",
            ),
            ("https://[2001:db8::1]:6443", "https://[2001:db8::1]:6443/"),
            ("192.0.2.1:6443", "https://192.0.2.1:6443/"),
            ("api.test", "https://api.test/"),
            ("api.test:6443/prefix", "https://api.test:6443/prefix"),
        ];
        for (url, expected) in cases {
            assert_eq!(parsed(url, true).as_deref(), Some(expected), "{url}");
        }
        assert_eq!(
            parsed("api.test:80", false).as_deref(),
            Some("http://api.test:80/")
        );
        for url in [
            "",
            "not a URL",
            "ftp://api.test",
            "https://",
            "https:///x",
            "https://a/?b",
        ] {
            assert_eq!(parsed(url, true), None, "{url}");
        }
    }

    #[test]
    fn hosts_of_pods_in_every_form() {
        let cases = [
            ("10.96.0.1", "https://10.96.0.1:443"),
            ("api.test", "https://api.test:443"),
            ("2001:db8::1", "https://[2001:db8::1]:443"),
            ("[2001:db8::1]", "https://[2001:db8::1]:443"),
        ];
        for (host, expected) in cases {
            assert_eq!(service_url(host, "443"), expected);
            let target = Target::new(expected, &Trust::System, false).unwrap();
            assert_eq!(target.host_and_port(), (without_brackets(host), 443));
        }
    }
}
