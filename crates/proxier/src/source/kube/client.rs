//! Connections to the API server, made anew when credentials have changed.

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs};

use http::Request;
use hyper_util::client::legacy::Client as Connections;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::BoxError;

use super::super::RequestOutcome;
use super::error::AccessError;
use super::state::States;

/// How long a connection may be silent before the kernel asks whether the other end is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How often it asks, and how many times.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// How long what was sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// Where the API server is and who we are to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// A kubeconfig, of which the current context counts. Without one and without a server, the
    /// service account of the pod we run in.
    pub kubeconfig: Option<PathBuf>,
    /// URL of the API server, in the place of the kubeconfig's.
    ///
    /// The address that a pod is given is a Service's: it answers only where a service proxy
    /// already works. A service proxy in a pod that must start first wants the server's own.
    pub server: Option<String>,
}

/// A configuration, and the files it was read from.
struct Loaded {
    config: Config,
    files: Vec<PathBuf>,
}

impl Access {
    /// Whether there is a way to ask the API server, as far as can be told without asking.
    pub(super) async fn check(&self) -> Result<(), AccessError> {
        client(&self.load().await?.config, &States::new(&[])).map(drop)
    }

    async fn load(&self) -> Result<Loaded, AccessError> {
        let server = self.server.as_deref().map(|url| {
            url.parse().map_err(|source| AccessError::Server {
                url: url.to_owned(),
                source,
            })
        });
        let server: Option<http::Uri> = server.transpose()?;
        let mut loaded = match (&self.kubeconfig, &server) {
            (Some(path), _) => from_kubeconfig(path).await?,
            (None, Some(server)) => Loaded {
                config: Config::new(server.clone()),
                files: Vec::new(),
            },
            (None, None) => {
                let config = Config::incluster()
                    .map_err(|source| AccessError::NotInCluster(Box::new(source)))?;
                let files = config.root_cert_file.iter().cloned().collect();
                Loaded { config, files }
            }
        };
        if let Some(server) = server {
            loaded.config.cluster_url = server;
        }
        let user = &mut loaded.config.auth_info;
        let files = [&user.client_certificate, &user.client_key, &user.token_file];
        let files = files.into_iter().flatten().map(PathBuf::from);
        loaded.files.extend(files);
        // Read here, since kube's own reader takes the end of the line for a part of the token.
        if let Some(path) = user.token_file.take() {
            user.token = Some(token(path.into())?.into());
        }
        Ok(loaded)
    }
}

async fn from_kubeconfig(path: &Path) -> Result<Loaded, AccessError> {
    let failed = |source| AccessError::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    let clusters = kubeconfig.clusters.iter().flat_map(|named| &named.cluster);
    let authorities = clusters.flat_map(|cluster| &cluster.certificate_authority);
    let mut files: Vec<_> = authorities.map(PathBuf::from).collect();
    files.push(path.to_owned());
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Ok(Loaded {
        config: config.map_err(failed)?,
        files,
    })
}

fn token(path: PathBuf) -> Result<String, AccessError> {
    let text = fs::read_to_string(&path).map_err(|source| {
        let path = path.clone();
        AccessError::Token { path, source }
    })?;
    match text.trim() {
        "" => Err(AccessError::NoToken(path)),
        token => Ok(token.to_owned()),
    }
}

/// What tells one version of a file from another: a volume of credentials swaps links, others
/// write in place.
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

/// The client of the moment.
#[derive(Debug)]
pub(super) struct Clients {
    access: Access,
    /// Where requests are counted.
    states: States,
    current: RefCell<Option<Current>>,
}

struct Current {
    client: Client,
    files: Vec<(PathBuf, Stamp)>,
    /// Whether the server has refused it.
    is_refused: bool,
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Current {
    fn is_fresh(&self) -> bool {
        !self.is_refused && self.files.iter().all(|(path, then)| stamp(path) == *then)
    }
}

impl Clients {
    pub(super) fn new(access: Access, states: States) -> Self {
        Self {
            access,
            states,
            current: RefCell::new(None),
        }
    }

    /// A client with the credentials as they are now. While they cannot be read, the last.
    pub(super) async fn get(&self) -> Result<Client, AccessError> {
        if let Some(current) = &*self.current.borrow()
            && current.is_fresh()
        {
            return Ok(current.client.clone());
        }
        // Nothing is borrowed while this waits.
        let connected = self.connect().await;
        let mut last = self.current.borrow_mut();
        match (connected, &*last) {
            (Ok(current), before) => {
                if before.as_ref().is_some_and(|b| b.files != current.files) {
                    tracing::info!("credentials for the API server have changed");
                }
                Ok(last.insert(current).client.clone())
            }
            (Err(error), Some(before)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "new credentials for the API server are not used yet"
                );
                Ok(before.client.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The server does not know us: what we have is out of date, however it looks.
    pub(super) fn forget(&self) {
        if let Some(current) = &mut *self.current.borrow_mut() {
            // The client stays for as long as there is no better.
            current.is_refused = true;
        }
    }

    async fn connect(&self) -> Result<Current, AccessError> {
        let Loaded { config, files } = self.access.load().await?;
        // Before they are read again for the connections: a change between the two is noticed.
        let files = files.into_iter().map(|path| {
            let stamp = stamp(&path);
            (path, stamp)
        });
        let files = files.collect();
        Ok(Current {
            client: client(&config, &self.states)?,
            files,
            is_refused: false,
        })
    }
}

/// As kube's own, but for connections of which the kernel notices when the other end has gone, and
/// without its retries: a list or a watch has its own.
fn client(config: &Config, states: &States) -> Result<Client, AccessError> {
    if config.proxy_url.is_some() {
        return Err(AccessError::Proxy);
    }
    let failed = |source| AccessError::Credentials(Box::new(source));
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let connector = config
        .rustls_https_connector_with_connector(connector)
        .map_err(failed)?;
    let connections: Connections<_, Body> =
        Connections::builder(TokioExecutor::new()).build(connector);
    let states = states.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (states, method) = (states.clone(), request.method().to_string());
        let host = request.uri().authority().map(ToString::to_string);
        let answer = connections.request(request);
        async move {
            let answer = answer.await;
            let code = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            states.asked(RequestOutcome::new(code, host.unwrap_or_default(), method));
            answer.map_err(BoxError::from)
        }
    });
    let builder = ClientBuilder::new(service, &config.default_namespace)
        .with_layer(&config.base_uri_layer())
        .with_layer(&config.extra_headers_layer().map_err(failed)?);
    Ok(match config.auth_layer().map_err(failed)? {
        Some(layer) => builder.with_layer(&layer).build(),
        None => builder.build(),
    })
}
