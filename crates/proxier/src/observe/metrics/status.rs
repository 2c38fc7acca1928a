//! The state of the proxy in a few values.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use super::{Modes, Monitor, lock};
use crate::observe::health::{Fallback, Moment};
use crate::source::ConnectionState;

/// The state of a proxy at one time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// The mode in effect; empty before it is chosen.
    pub mode: &'static str,
    /// The requested mode.
    pub wanted: &'static str,
    /// The fallback, if the modes differ.
    pub fallback: Option<Fallback>,
    /// Whether changes are applied in time.
    pub healthy: bool,
    /// When the last sync completed after which nothing was pending.
    pub synced: Option<SystemTime>,
    /// The number of changes of Services and endpoint slices that are not applied yet.
    pub pending: u64,
    /// When the source last sent something: a change, or from an API server anything.
    pub heard: Option<SystemTime>,
    /// The connection to an API server, if that is the source.
    pub source: Option<ConnectionState>,
    /// The addresses of a DNS server, each with the error if it cannot be served now.
    pub dns: BTreeMap<SocketAddr, Option<String>>,
}

impl Monitor {
    /// The state now.
    pub fn status(&self) -> Status {
        let now = Moment::now();
        let source = self.0.source.state();
        let Modes { in_effect, wanted } = *lock(&self.0.mode);
        let health = lock(&self.0.health);
        let report = health.report(now);
        let pending = health.pending();
        let heard = match &source {
            Some(source) => source.last_heard,
            None => health.last_queued(),
        };
        Status {
            mode: in_effect,
            wanted,
            fallback: report.fallback.cloned(),
            healthy: report.healthy,
            synced: report.synced,
            pending: pending.services.saturating_add(pending.endpoints),
            heard: heard.map(|heard| now.wall_of(heard)),
            source,
            dns: self.0.program.dns_addresses(),
        }
    }
}
