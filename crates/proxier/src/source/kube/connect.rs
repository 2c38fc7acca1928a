//! Connections to the API server: TCP, a proxy if there is one, and TLS.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::SocksV5;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, CertificateError};
use tower_service::Service;

use super::access::{
    AccessError, Credential, Protocol, Proxy, Target, client_config, proxy_config,
};
use crate::escaped::{Chain, Escaped};

/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a connection may be silent before the kernel sends keepalive probes.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Interval and number of the probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// How long sent data may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// Maximum length of a proxy's answer to CONNECT.
const LONGEST_HEAD: usize = 16 << 10;

/// Why a connection failed, in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ConnectError(String);

/// Connects to one server, regardless of the URL of the request.
#[derive(Clone)]
pub(super) struct Connector(Arc<Route>);

struct Route {
    tcp: HttpConnector,
    host: String,
    port: u16,
    proxy: Option<Proxy>,
    /// For an `https` proxy.
    proxy_tls: Option<Tls>,
    /// For an `https` server.
    tls: Option<Tls>,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    fn new(config: rustls::ClientConfig, name: &str) -> Result<Self, AccessError> {
        let server_name = ServerName::try_from(name.to_owned());
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: server_name.map_err(|_| AccessError::Server {
                url: name.to_owned(),
            })?,
        })
    }

    async fn connect(
        &self,
        stream: Box<dyn Stream>,
        to: &str,
    ) -> Result<Box<dyn Stream>, ConnectError> {
        let connecting = self.connector.connect(self.name.clone(), stream);
        let connected = connecting.await;
        let connected =
            connected.map_err(|error| ConnectError(format!("TLS with {to}: {}", of_tls(&error))));
        Ok(Box::new(connected?))
    }
}

/// Describes a TLS error, in an operator's terms where rustls's own are too technical.
pub(super) fn of_tls(error: &io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "its certificate is not signed by a CA that is trusted here (certificate-authority)"
                .to_owned()
        }
        Some(rustls::Error::InvalidMessage(_)) => "the answer is not TLS".to_owned(),
        Some(rustls::Error::AlertReceived(alert)) => format!(
            "it refuses the connection with the alert {alert:?}; the client certificate may be the reason"
        ),
        Some(other) => other.to_string(),
        None => Chain(error).to_string(),
    }
}

impl Connector {
    /// Connects to the server of a target, with its client certificate or that of its exec plugin.
    ///
    /// # Errors
    ///
    /// [`AccessError`] if a certificate, a key or the proxy is invalid.
    pub(super) fn new(
        target: &Target,
        credential: Option<&Credential>,
    ) -> Result<Self, AccessError> {
        let (host, port) = target.host_and_port();
        let proxy = target.proxy()?;
        let of_plugin = credential.and_then(|credential| credential.identity.as_ref());
        let identity = of_plugin.or(target.identity.as_ref());
        let tls = target.is_tls().then(|| {
            let config = client_config(&target.trust, identity)?;
            Tls::new(config, target.server_name.as_deref().unwrap_or(host))
        });
        let to_proxy = proxy
            .as_ref()
            .filter(|proxy| proxy.protocol == Protocol::Https);
        let proxy_tls = to_proxy.map(|proxy| Tls::new(proxy_config(&target.trust)?, &proxy.host));
        Ok(Self(Arc::new(Route {
            tcp: tcp(),
            host: host.to_owned(),
            port,
            tls: tls.transpose()?,
            proxy_tls: proxy_tls.transpose()?,
            proxy,
        })))
    }

    /// The proxy, if any.
    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.0.proxy.as_ref()
    }
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    tcp
}

/// Host and port, in the form of a URL.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn uri(scheme: &str, host: &str, port: u16) -> Result<Uri, ConnectError> {
    let url = format!("{scheme}://{}", authority(host, port));
    url.parse()
        .map_err(|_| ConnectError(format!("{url:?} is not a URL")))
}

impl Route {
    async fn connect(&self) -> Result<Wire, ConnectError> {
        let server = authority(&self.host, self.port);
        let (stream, is_proxied) = match &self.proxy {
            None => (self.open(&self.host, self.port, "").await?, false),
            Some(proxy) => self.through(proxy, &server).await?,
        };
        let stream = match &self.tls {
            Some(tls) => tls.connect(stream, &server).await?,
            None => stream,
        };
        Ok(Wire {
            io: TokioIo::new(stream),
            is_proxied,
        })
    }

    async fn open(
        &self,
        host: &str,
        port: u16,
        what: &str,
    ) -> Result<Box<dyn Stream>, ConnectError> {
        let connected = self.tcp.clone().call(uri("http", host, port)?).await;
        let connected = connected.map_err(|error| {
            ConnectError(format!("{what}{}: {}", authority(host, port), root(&error)))
        });
        Ok(Box::new(connected?.into_inner()))
    }

    /// Connects through a proxy. Returns whether requests are addressed to the proxy.
    async fn through(
        &self,
        proxy: &Proxy,
        server: &str,
    ) -> Result<(Box<dyn Stream>, bool), ConnectError> {
        let failed = |problem: String| ConnectError(format!("proxy {proxy}: {problem}"));
        if proxy.protocol == Protocol::Socks5 {
            let mut socks = SocksV5::new(uri("socks5", &proxy.host, proxy.port)?, self.tcp.clone());
            if let Some((user, password)) = proxy.credentials.clone() {
                socks = socks.with_auth(user, password);
            }
            let connected = socks.call(uri("http", &self.host, self.port)?).await;
            let connected: TokioIo<TcpStream> =
                connected.map_err(|error| failed(Chain(&error).to_string()))?;
            return Ok((Box::new(connected.into_inner()), false));
        }
        let mut stream = self
            .open(&proxy.host, proxy.port, &format!("proxy {proxy}: "))
            .await?;
        if let Some(tls) = &self.proxy_tls {
            stream = tls.connect(stream, &format!("proxy {proxy}")).await?;
        }
        if self.tls.is_none() {
            return Ok((stream, true));
        }
        tunnel(&mut stream, server, proxy).await.map_err(failed)?;
        Ok((stream, false))
    }
}

/// Sends CONNECT to a proxy (RFC 9110, 9.3.6).
async fn tunnel(stream: &mut Box<dyn Stream>, server: &str, proxy: &Proxy) -> Result<(), String> {
    let authorization = proxy
        .authorization()
        .map(|value| format!("Proxy-Authorization: {value}\r\n"));
    let request = format!(
        "CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n{}\r\n",
        authorization.unwrap_or_default()
    );
    let failed = |error: io::Error| Chain(&error).to_string();
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut head = Vec::new();
    // Read byte by byte: the bytes after the head belong to the server.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == LONGEST_HEAD {
            return Err(format!(
                "its answer to CONNECT is longer than {LONGEST_HEAD} bytes"
            ));
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err("it closes the connection without an answer to CONNECT".to_owned());
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    let code = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1));
    match code {
        Some(code) if code.len() == 3 && code.starts_with('2') => Ok(()),
        Some("407") => Err(format!(
            "it wants other credentials than those in its URL ({})",
            Escaped(line)
        )),
        _ => Err(format!("it refuses CONNECT {server}: {}", Escaped(line))),
    }
}

/// The root cause of an error.
pub(super) fn root(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl Service<Uri> for Connector {
    type Response = Wire;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let route = Arc::clone(&self.0);
        Box::pin(async move { route.connect().await })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open connection.
pub(super) struct Wire {
    io: TokioIo<Box<dyn Stream>>,
    /// Whether requests go to a proxy, and so must contain the whole URL.
    is_proxied: bool,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxied)
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
