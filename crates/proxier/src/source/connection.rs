//! The state of the connection to a source.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The state of the connection between a source and its server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionState {
    /// Since when every kind has been watched without a failure; none while one is not.
    pub connected_since: Option<Instant>,
    /// When the server last sent an object, an event or a bookmark.
    pub last_heard: Option<Instant>,
    /// Kinds that have not been listed in full yet.
    pub unlisted: BTreeSet<&'static str>,
    /// For each kind that is not watched, the error with its causes. The last known state of the
    /// kind stays in effect.
    pub failures: BTreeMap<&'static str, String>,
    /// The number of requests to the server, by method and outcome.
    pub requests: BTreeMap<RequestOutcome, u64>,
}

/// The labels of a counted HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct RequestOutcome {
    /// The status code of the answer; `<error>` if there was none.
    pub code: String,
    /// Host and port of the URL.
    pub host: String,
    /// The method, such as `GET`.
    pub method: String,
}

impl RequestOutcome {
    /// A request of this method to a host, with the status code of its answer, if any.
    pub fn new(code: Option<u16>, host: impl Into<String>, method: impl Into<String>) -> Self {
        Self {
            code: code.map_or_else(|| "<error>".to_owned(), |code| code.to_string()),
            host: host.into(),
            method: method.into(),
        }
    }
}
