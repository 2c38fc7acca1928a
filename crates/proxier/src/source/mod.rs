//! Sources of Services.
//!
//! A source yields [`Change`]s of checked [`model`](crate::model) objects,
//! and a [`Diagnostic`] for each part of the input that it cannot use.

#[cfg(feature = "k8s")]
pub mod api;
#[cfg(feature = "k8s")]
pub mod convert;
#[cfg(feature = "k8s")]
pub mod derive;
mod diagnostic;
#[cfg(feature = "kube")]
pub mod kube;
#[cfg(feature = "manifest")]
pub mod manifest;
#[cfg(feature = "manifest")]
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::store::Change;

pub use diagnostic::{Diagnostic, Location, Severity};

/// The Services and endpoint slices that a source yields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Extent {
    /// Those that a service proxy serves.
    #[default]
    Served,
    /// All that have a name, for discovery: also headless Services with their slices and host names,
    /// external names, and Services of other service proxies.
    Named,
}

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

/// Everything that a source found since the previous reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reading {
    /// The changes, which the store must apply together.
    pub changes: Vec<Change>,
    /// Every part of the input that is not used as written.
    pub diagnostics: Vec<Diagnostic>,
    /// The versions of objects that changed individually, if they have versions.
    pub causes: Vec<Cause>,
}

/// An object that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cause {
    /// Its kind: `EndpointSlice`.
    pub kind: &'static str,
    /// Its name, with its namespace if it has one: `default/web-1`.
    pub object: String,
    /// Its `resourceVersion`.
    pub version: String,
}

impl Cause {
    /// A change to this version.
    pub fn new(kind: &'static str, object: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            kind,
            object: object.into(),
            version: version.into(),
        }
    }
}

impl Reading {
    /// Whether an object, or a part of one, is invalid and not used.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Whether nothing changed and nothing was found.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.diagnostics.is_empty()
    }
}
