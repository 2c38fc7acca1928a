//! What is known of the connection to a source.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// How it stands between a source and the server it follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionState {
    /// Since when every kind has been followed without a failure; none while one is not.
    pub connected_since: Option<Instant>,
    /// When the server last said something: an object, an event or a bookmark.
    pub last_heard: Option<Instant>,
    /// Kinds of which not all there is has been heard yet.
    pub unlisted: BTreeSet<&'static str>,
    /// Why a kind is not followed, by kind, with the causes: what was heard of it before stays in
    /// force.
    pub failures: BTreeMap<&'static str, String>,
    /// How often the server was asked, by what and with what outcome.
    pub requests: BTreeMap<RequestOutcome, u64>,
}

/// A kind of requests over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct RequestOutcome {
    /// The status code of the answer; `<error>` if there was none.
    pub code: String,
    /// Host and port of the URL.
    pub host: String,
    /// The request's method, as `GET`.
    pub method: String,
}

impl RequestOutcome {
    /// Requests of this method to a host that were answered with a code, or not at all.
    pub fn new(code: Option<u16>, host: impl Into<String>, method: impl Into<String>) -> Self {
        Self {
            code: code.map_or_else(|| "<error>".to_owned(), |code| code.to_string()),
            host: host.into(),
            method: method.into(),
        }
    }
}
