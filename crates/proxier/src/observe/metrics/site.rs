//! Documents for people: a site that the embedding program renders.
//!
//! Rendering may read the kernel, so it runs on a thread of its own, a few at a time.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY,
};
use hyper::http::uri::Authority;
use hyper::{StatusCode, Uri};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Monitor;
use crate::observe::http::{self, Response};

/// Documents that are rendered at a time.
const MOST: usize = 2;

/// How long a request may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything comes from this server, and no other site may embed it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Renders a document, or `None` if the site has no such path.
type Render = dyn Fn(&Request<'_>) -> Option<Document> + Send + Sync;

/// A request for a document of a site.
#[derive(Debug)]
pub struct Request<'a> {
    monitor: &'a Monitor,
    handle: Handle,
    uri: &'a Uri,
}

/// The loop has not answered: it is busy, or too many others ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("svcproxy is busy and has not answered, try again")]
pub struct NoAnswer;

impl Request<'_> {
    /// The path, not decoded.
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// What follows the question mark, not decoded.
    pub fn query(&self) -> &str {
        self.uri.query().unwrap_or_default()
    }

    /// Asks the loop, and waits a few seconds for its [answer](Monitor::answer). `None` if nothing is
    /// known by that name.
    ///
    /// # Errors
    ///
    /// If the loop has not answered.
    pub fn ask(&self, about: &str) -> Result<Option<String>, NoAnswer> {
        let asked = self.monitor.ask(about.to_owned());
        self.handle.block_on(asked).map_err(|_| NoAnswer)
    }
}

/// A document.
#[derive(Debug, Clone)]
pub struct Document {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Document {
    /// A document with this content type.
    pub fn new(content_type: &'static str, body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type,
            body: body.into(),
        }
    }

    /// Says that nothing is known by this name.
    #[must_use]
    pub fn not_found(self) -> Self {
        let status = StatusCode::NOT_FOUND;
        Self { status, ..self }
    }

    /// Says that the answer could not be had now.
    #[must_use]
    pub fn unavailable(self) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { status, ..self }
    }
}

/// The site of the embedding program.
#[derive(Clone)]
pub(super) struct Renderer {
    fixed: fn(&str) -> Option<Document>,
    render: Arc<Render>,
    turns: Arc<Semaphore>,
}

impl fmt::Debug for Renderer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renderer").finish_non_exhaustive()
    }
}

impl Renderer {
    pub(super) fn new(
        fixed: fn(&str) -> Option<Document>,
        render: impl Fn(&Request<'_>) -> Option<Document> + Send + Sync + 'static,
    ) -> Self {
        Self {
            fixed,
            render: Arc::new(render),
            turns: Arc::new(Semaphore::new(MOST)),
        }
    }

    /// The document of a path that waits for no turn.
    pub(super) fn fixed(&self, path: &str) -> Option<Response> {
        (self.fixed)(path).map(response)
    }

    /// Renders the document of a path. `None` if there is none.
    pub(super) async fn answer(&self, monitor: Monitor, uri: Uri) -> Option<Response> {
        let turn = timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Some(busy());
        };
        let (handle, render) = (Handle::current(), Arc::clone(&self.render));
        let rendering = tokio::task::spawn_blocking(move || {
            // A client that has gone frees its turn only now, when its thread is free, too.
            let _turn = turn;
            render(&Request {
                monitor: &monitor,
                handle,
                uri: &uri,
            })
        });
        match rendering.await {
            Ok(document) => document.map(response),
            // It panicked, which costs this answer only.
            Err(_) => Some(busy()),
        }
    }
}

/// Whether a browser that asks by this name does so for its user, and not for another site, whose name
/// leads here now. Such a site has a name with a dot.
pub(super) fn is_own_name(host: Option<&str>) -> bool {
    let Some(host) = host else {
        // No browser, then.
        return true;
    };
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host().trim_matches(['[', ']']);
    name.parse::<IpAddr>().is_ok() || !name.trim_end_matches('.').contains('.')
}

fn busy() -> Response {
    let text = "503 svcproxy is busy, try again\n";
    response(Document::new("text/plain; charset=utf-8", text).unavailable())
}

fn response(document: Document) -> Response {
    let Document {
        status,
        content_type,
        body,
    } = document;
    let mut response = http::response(status, content_type, body);
    let headers: [(HeaderName, &'static str); 4] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::is_own_name;

    #[test]
    fn names_of_other_sites_are_refused() {
        for host in [
            None,
            Some("127.0.0.1:10249"),
            Some("[::1]:10249"),
            Some("localhost"),
            Some("node-a:10249"),
        ] {
            assert!(is_own_name(host), "{host:?}");
        }
        for host in ["evil.example:10249", "127.0.0.1.evil.example", "a b", ""] {
            assert!(!is_own_name(Some(host)), "{host:?}");
        }
    }
}
