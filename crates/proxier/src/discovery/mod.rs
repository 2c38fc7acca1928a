//! How clients find a Service: by its name in the environment of a container, or in DNS.
//!
//! Discovery reads the [`model`](crate::model) and needs no data plane. A source must keep Services
//! that no node serves: [`Extent::Named`](crate::source::Extent::Named).

#[cfg(feature = "dns")]
pub mod dns;
pub mod environment;

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Where a DNS server listens, and what it has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsState {
    /// The addresses to serve, each with the error if it cannot be served now.
    pub addresses: BTreeMap<SocketAddr, Option<String>>,
    /// Answers by response code, such as `NXDOMAIN`; `other` for rare ones.
    pub answers: BTreeMap<&'static str, u64>,
    /// Questions that no upstream server answered.
    pub forward_failures: u64,
    /// TCP connections that were closed at once, because there were too many.
    pub refused_connections: u64,
    /// How often an address was served and its server failed. It is started again.
    pub restarts: u64,
}
