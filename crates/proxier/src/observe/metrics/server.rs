//! The HTTP servers of a [`Monitor`].

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use hyper::{StatusCode, Uri};

use super::questions::Unanswered;
use super::site::{Document, Renderer, Request, is_own_name};
use super::{Monitor, lock};
use crate::Runtime;
use crate::observe::http::{self, Answer, Answering, Response, Server, Site, listen};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Documents that the metrics server serves in addition to the metrics.
#[derive(Clone)]
pub struct Pages {
    configz: Arc<dyn Fn() -> String + Send + Sync>,
    conditions: Arc<dyn Fn() -> String + Send + Sync>,
    status: Arc<dyn Fn() -> String + Send + Sync>,
    site: Option<Renderer>,
    version: String,
}

impl Pages {
    /// JSON documents: `/configz`, the settings in effect, which may change, and `/version`.
    pub fn new(configz: impl Fn() -> String + Send + Sync + 'static, version: String) -> Self {
        Self {
            configz: Arc::new(configz),
            conditions: Arc::new(|| "[]".to_owned()),
            status: Arc::new(|| "{}".to_owned()),
            site: None,
            version,
        }
    }

    /// Adds `/conditions`: the current conditions, a JSON document.
    #[must_use]
    pub fn with_conditions(self, conditions: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self {
            conditions: Arc::new(conditions),
            ..self
        }
    }

    /// Adds `/status`: a summary of the proxy, a JSON document.
    #[must_use]
    pub fn with_status(self, status: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self {
            status: Arc::new(status),
            ..self
        }
    }

    /// Adds documents for people, at all paths that no other page has. `fixed` has those that cost
    /// nothing, and says which paths do not exist; `render` has the others. It may block for some
    /// seconds: it runs on a thread of its own, at most two at a time.
    ///
    /// They are for browsers that ask by an address, as `localhost`, or by a name without a dot. Other
    /// names could be those of a site that has changed what its name leads to (DNS rebinding).
    #[must_use]
    pub fn with_site(
        self,
        fixed: fn(&str) -> Option<Document>,
        render: impl Fn(&Request<'_>) -> Option<Document> + Send + Sync + 'static,
    ) -> Self {
        Self {
            site: Some(Renderer::new(fixed, render)),
            ..self
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

/// A server on one address. Dropping it closes it.
///
/// If the address is in use, the server retries until it is free.
pub struct ProxyServer {
    // Dropped before the server, which waits for its connections to end.
    _site: Site,
    _server: Server,
}

impl fmt::Debug for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyServer").finish_non_exhaustive()
    }
}

impl ProxyServer {
    /// Serves `/metrics`, `/proxyMode`, `/configz`, `/version` and `/healthz` (200 if the server
    /// runs), as kube-proxy's metrics address does; and `/conditions`, `/status`, what
    /// [`Monitor::answer`] answers, at `/services/`, and the [site](Pages::with_site). Profiles are
    /// not served.
    ///
    /// # Errors
    ///
    /// If the runtime has stopped.
    pub fn metrics(
        runtime: &Runtime,
        address: SocketAddr,
        monitor: Monitor,
        pages: Pages,
    ) -> io::Result<Self> {
        Self::start(runtime, address, "metrics", metrics(monitor, pages))
    }

    /// Serves `/healthz`, `/livez` and `/readyz`.
    ///
    /// # Errors
    ///
    /// If the runtime has stopped.
    pub fn health(runtime: &Runtime, address: SocketAddr, monitor: Monitor) -> io::Result<Self> {
        Self::start(runtime, address, "health", health(monitor))
    }

    fn start(
        runtime: &Runtime,
        address: SocketAddr,
        what: &'static str,
        answer: Answer,
    ) -> io::Result<Self> {
        let server = Server::new(runtime.clone());
        // As in Go, where 0.0.0.0 means both families.
        let any = matches!(address.ip(), IpAddr::V4(ip) if ip.is_unspecified());
        let host = if any { listen::ANY } else { address.ip() };
        let address = SocketAddr::new(host, address.port());
        Ok(Self {
            _site: server.open_later(address, what, answer)?,
            _server: server,
        })
    }
}

/// The answers of the metrics server.
pub(super) fn metrics(monitor: Monitor, pages: Pages) -> Answer {
    let version = Bytes::from(pages.version);
    Arc::new(move |uri: &Uri, host: Option<&str>| -> Answering {
        if is_for_people(uri.path()) && !is_own_name(host) {
            return http::ready(text(StatusCode::MISDIRECTED_REQUEST, OTHER_NAME));
        }
        http::ready(match uri.path() {
            "/metrics" => {
                let monitor = monitor.clone();
                return Box::pin(async move {
                    http::response(StatusCode::OK, METRICS, monitor.scrape_fresh().await)
                });
            }
            "/proxyMode" => text(StatusCode::OK, lock(&monitor.0.mode).in_effect),
            "/configz" => http::response(StatusCode::OK, JSON, (pages.configz)()),
            "/conditions" => http::response(StatusCode::OK, JSON, (pages.conditions)()),
            "/status" => http::response(StatusCode::OK, JSON, (pages.status)()),
            "/version" => http::response(StatusCode::OK, JSON, version.clone()),
            "/healthz" => text(StatusCode::OK, "ok"),
            path => match path.strip_prefix("/services/") {
                Some(service) => {
                    let (monitor, service) = (monitor.clone(), service.to_owned());
                    return Box::pin(async move { of_service(&monitor, service).await });
                }
                None => {
                    let Some(site) = pages.site.clone() else {
                        return http::ready(not_found());
                    };
                    if let Some(document) = site.fixed(path) {
                        return http::ready(document);
                    }
                    let (monitor, uri) = (monitor.clone(), uri.clone());
                    return Box::pin(async move {
                        let found = site.answer(monitor, uri).await;
                        found.unwrap_or_else(not_found)
                    });
                }
            },
        })
    })
}

/// The answers of the health server.
pub(super) fn health(monitor: Monitor) -> Answer {
    Arc::new(move |uri: &Uri, _: Option<&str>| -> Answering {
        let path = uri.path();
        let (ok, body) = match path {
            "/healthz" => monitor.health(|report| report.healthz()),
            "/livez" => monitor.health(|report| report.livez()),
            "/readyz" => monitor.health(|report| report.readyz()),
            _ => return http::ready(not_found()),
        };
        let (status, code) = if ok {
            (StatusCode::OK, "200")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "503")
        };
        match path {
            "/healthz" => monitor.0.kube_proxy.healthz(code),
            "/livez" => monitor.0.kube_proxy.livez(code),
            _ => {}
        }
        http::ready(http::response(status, JSON, body))
    })
}

/// What says more of a node than kube-proxy's pages do.
fn is_for_people(path: &str) -> bool {
    const FOR_PROGRAMS: [&str; 5] = ["/metrics", "/proxyMode", "/configz", "/version", "/healthz"];
    !FOR_PROGRAMS.contains(&path)
}

const OTHER_NAME: &str = "421 ask by an address, as localhost, or by a name without a dot: another \
                          site could have made a browser ask by a name of its own\n";

/// What the loop answers about a Service.
async fn of_service(monitor: &Monitor, service: String) -> Response {
    match monitor.ask(service).await {
        Ok(Some(document)) => http::response(StatusCode::OK, JSON, document),
        Ok(None) => not_found(),
        Err(Unanswered) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "503 svcproxy is busy, try again\n",
        ),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response {
    http::response(status, TEXT, body)
}

fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}
