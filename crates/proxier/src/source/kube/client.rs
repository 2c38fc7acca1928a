//! Requests to the API server, with the current credentials.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{error, fmt};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Connections;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Mutex as AsyncMutex;

use super::super::RequestOutcome;
use super::access::{Access, AccessError, Credential, Files, Proxy, Secret, Target};
use super::connect::{ConnectError, Connector};
use super::encoding::Encoding;
use super::error::Failure;
use super::state::States;
use crate::escaped::Chain;

/// The characters to escape in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    method: Method,
    /// Path and query, below the server's own path.
    path: String,
    body: Bytes,
    /// The encoding of the answer.
    accepts: Encoding,
    accepts_gzip: bool,
}

impl Ask {
    pub(super) fn get(path: &str, query: &[(&str, &str)]) -> Self {
        let query = query
            .iter()
            .map(|(key, value)| format!("{key}={}", utf8_percent_encode(value, QUERY)));
        let query = query.collect::<Vec<_>>().join("&");
        Self {
            method: Method::GET,
            path: format!("{path}?{query}"),
            body: Bytes::new(),
            accepts: Encoding::Json,
            accepts_gzip: false,
        }
    }

    /// Accepts an answer in this encoding.
    pub(super) fn accepting(self, accepts: Encoding) -> Self {
        Self { accepts, ..self }
    }

    /// Accepts a compressed answer.
    pub(super) fn accepting_gzip(self) -> Self {
        Self {
            accepts_gzip: true,
            ..self
        }
    }

    pub(super) fn post(path: String, body: Vec<u8>) -> Self {
        Self {
            method: Method::POST,
            path,
            body: body.into(),
            accepts: Encoding::Json,
            accepts_gzip: false,
        }
    }
}

/// A server, with one version of the credentials.
#[derive(Clone)]
pub(super) struct ApiClient(Arc<Inner>);

struct Inner {
    connections: Connections<Connector, Full<Bytes>>,
    server: Uri,
    headers: HeaderMap,
    /// Counts the requests.
    states: States,
}

impl ApiClient {
    fn new(
        target: &Target,
        credential: Option<&Credential>,
        states: States,
    ) -> Result<Self, AccessError> {
        let connector = Connector::new(target, credential)?;
        let headers = headers(target, credential, &connector)?;
        Ok(Self(Arc::new(Inner {
            connections: Connections::builder(TokioExecutor::new()).build(connector),
            server: target.server.clone(),
            headers,
            states,
        })))
    }

    /// Sends a request, and waits for the answer to begin.
    pub(super) async fn send(&self, ask: Ask) -> Result<Response<Incoming>, Failure> {
        let Inner {
            connections,
            server,
            headers,
            states,
        } = &*self.0;
        let url = format!("{}{}", server.to_string().trim_end_matches('/'), ask.path);
        let uri: Uri = url.parse().map_err(|_| Failure::NotAUrl(url))?;
        let mut request = Request::new(Full::new(ask.body));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers.clone();
        let accept = ask.accepts.accept();
        request.headers_mut().insert(header::ACCEPT, accept);
        if ask.accepts_gzip {
            let gzip = HeaderValue::from_static("gzip");
            request.headers_mut().insert(header::ACCEPT_ENCODING, gzip);
        }
        let answer = connections.request(request).await;
        let code = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        let host = server.authority().map(ToString::to_string);
        let outcome = RequestOutcome::new(code, host.unwrap_or_default(), ask.method.as_str());
        states.asked(outcome, code.is_some());
        answer.map_err(|error| Failure::Unreachable {
            server: self.server(),
            problem: problem(&error),
        })
    }

    /// URL of the server, for messages.
    pub(super) fn server(&self) -> String {
        self.0.server.to_string().trim_end_matches('/').to_owned()
    }
}

/// The cause behind hyper's errors.
fn problem(error: &(dyn error::Error + 'static)) -> String {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<ConnectError>() {
            return error.to_string();
        }
        next = error.source();
    }
    Chain(error).to_string()
}

fn headers(
    target: &Target,
    credential: Option<&Credential>,
    connector: &Connector,
) -> Result<HeaderMap, AccessError> {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("svcproxy/", env!("CARGO_PKG_VERSION"))),
    );
    let of_plugin = credential.and_then(|credential| credential.token.as_ref());
    let authorization = match (of_plugin, &target.secret) {
        (Some(token), _) => Some(format!("Bearer {token}")),
        (None, secret) => secret.as_ref().map(Secret::header),
    };
    let secret = |value: &str| {
        let mut value = HeaderValue::try_from(value).map_err(|_| AccessError::NotAHeader)?;
        value.set_sensitive(true);
        Ok(value)
    };
    if let Some(authorization) = authorization {
        headers.insert(header::AUTHORIZATION, secret(&authorization)?);
    }
    let is_told_each_time = !target.is_tls();
    let proxy = connector.proxy().filter(|_| is_told_each_time);
    if let Some(authorization) = proxy.and_then(Proxy::authorization) {
        headers.insert(header::PROXY_AUTHORIZATION, secret(&authorization)?);
    }
    for (name, value) in &target.impersonation {
        let name = HeaderName::try_from(name).map_err(|_| AccessError::NotAHeader)?;
        headers.append(name, secret(value)?);
    }
    Ok(headers)
}

/// The current client, replaced when credentials change.
#[derive(Debug)]
pub(super) struct ApiClients {
    access: Access,
    states: States,
    /// How long an exec plugin may take.
    plugin_limit: Duration,
    current: Mutex<Option<Current>>,
    /// Held while a client is created, so that an exec plugin runs once, not for each kind.
    making: AsyncMutex<()>,
}

struct Current {
    client: ApiClient,
    files: Files,
    /// Whether the credentials come from an exec plugin, and when they expire.
    of_plugin: bool,
    expires: Option<Timestamp>,
    /// Whether the server has rejected the credentials.
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
        !self.is_refused
            && self
                .expires
                .is_none_or(|expires| Timestamp::now() < expires)
            && !self.files.have_changed()
    }
}

impl ApiClients {
    pub(super) fn new(access: Access, plugin_limit: Duration, states: States) -> Self {
        Self {
            access,
            states,
            plugin_limit,
            current: Mutex::new(None),
            making: AsyncMutex::new(()),
        }
    }

    /// The encoding in which to request objects.
    pub(super) fn encoding(&self) -> Encoding {
        self.access.encoding
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> Option<ApiClient> {
        let current = self.current();
        let fresh = current.as_ref().filter(|current| current.is_fresh());
        fresh.map(|current| current.client.clone())
    }

    /// A client with the current credentials; while files cannot be read, the last client.
    pub(super) async fn get(&self) -> Result<ApiClient, AccessError> {
        if let Some(client) = self.fresh() {
            return Ok(client);
        }
        let _making = self.making.lock().await;
        // Another task may have created one in the meantime.
        if let Some(client) = self.fresh() {
            return Ok(client);
        }
        let connected = self.connect().await;
        let mut last = self.current();
        match (connected, &*last) {
            (Ok(current), before) => {
                if before.as_ref().is_some_and(|b| b.files != current.files) {
                    tracing::info!("credentials for the API server have changed");
                }
                Ok(last.insert(current).client.clone())
            }
            (Err(error), Some(before)) if !before.of_plugin => {
                let error = Chain(&error);
                tracing::warn!(%error, "new credentials for the API server are not used yet");
                Ok(before.client.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Call this after an answer 401: the credentials are invalid even if no file has changed.
    pub(super) fn forget(&self) {
        if let Some(current) = &mut *self.current() {
            // The client stays in use until there is another one.
            current.is_refused = true;
        }
    }

    async fn connect(&self) -> Result<Current, AccessError> {
        let target = self.access.load()?;
        if let (None, Some(proxy)) = (&*self.current(), target.proxy()?) {
            tracing::info!(server = %target.server, %proxy, "connecting through a proxy");
        }
        let credential = match &target.plugin {
            Some(plugin) => Some(plugin.run(self.plugin_limit).await?),
            None => None,
        };
        Ok(Current {
            client: ApiClient::new(&target, credential.as_ref(), self.states.clone())?,
            of_plugin: target.plugin.is_some(),
            files: target.files,
            expires: credential.and_then(|credential| credential.expires),
            is_refused: false,
        })
    }
}
