//! Health checks of Services (`spec.healthCheckNodePort`): a load balancer asks whether this node
//! has endpoints of a Service. The answers are kube-proxy's.
//!
//! For any method and path, the status is 200 if the node has endpoints and the proxy is healthy,
//! else 503. The body and the header `X-Load-Balancing-Endpoint-Weight` contain the count.

#[cfg(feature = "metrics")]
mod proxy;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::{fmt, io};

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use ipnet::IpNet;
use tokio::sync::watch;

use crate::Runtime;
use crate::desired::HealthCheck;
use crate::model::ObjectName;
use crate::observe::http::listen::{self, listen};
use crate::observe::http::{self, Answer, Response, Server, Site};

#[cfg(feature = "metrics")]
pub use proxy::Fallback;
#[cfg(feature = "metrics")]
pub(crate) use proxy::{ChangeCounts, HealthReport, Moment, ProxyHealth, ip_family};

const ENDPOINT_WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// The health checks of all Services. Dropping it finishes the current answers and closes all
/// ports.
///
/// ```no_run
/// use proxier::desired::HealthCheck;
/// use proxier::observe::health::ServiceHealth;
/// use proxier::Runtime;
/// use proxier::model::ObjectName;
///
/// let mut health = ServiceHealth::new(Runtime::start()?, vec![]);
/// let web = HealthCheck::new(ObjectName::new("default", "web")?, 30_080.try_into()?, 2);
/// for error in health.sync([web]) {
///     eprintln!("{error}");
/// }
/// // curl http://localhost:30080/ now shows "localEndpoints": 2.
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ServiceHealth {
    addresses: Vec<IpNet>,
    healthy: Arc<dyn Fn() -> bool + Send + Sync>,
    // Dropped before the server, which waits for their connections to end.
    ports: BTreeMap<NonZeroU16, Port>,
    server: Server,
}

/// An open port.
#[derive(Debug)]
struct Port {
    check: watch::Sender<HealthCheck>,
    sockets: BTreeMap<SocketAddr, Site>,
}

impl fmt::Debug for ServiceHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceHealth")
            .field("addresses", &self.addresses)
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

impl ServiceHealth {
    /// Health checks on the node's addresses in these networks; on all addresses if the list is
    /// empty, or if a network covers its whole family. The proxy counts as healthy.
    pub fn new(runtime: Runtime, addresses: Vec<IpNet>) -> Self {
        Self {
            addresses,
            healthy: Arc::new(|| true),
            ports: BTreeMap::new(),
            server: Server::new(runtime),
        }
    }

    /// Sets the function that decides, for each answer, whether the proxy is healthy
    /// (`serviceProxyHealthy`).
    #[must_use]
    pub fn healthy_while(mut self, healthy: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.healthy = Arc::new(healthy);
        self
    }

    /// Serves these checks and no others. Ports that are still needed stay open, with their
    /// connections; ports that could not be opened are retried at the next call.
    ///
    /// If two Services have the same port, the first by name gets it. An error affects no other
    /// check.
    pub fn sync(&mut self, checks: impl IntoIterator<Item = HealthCheck>) -> Vec<HealthError> {
        let mut errors = Vec::new();
        let wanted = by_port(checks, &mut errors);
        let hosts = match self.hosts() {
            Ok(hosts) => Some(hosts),
            Err(source) => {
                errors.push(HealthError::Addresses { source });
                None
            }
        };
        self.close(&wanted, hosts.as_deref());
        for (port, check) in wanted {
            self.open(port, check, hosts.iter().flatten(), &mut errors);
        }
        errors
    }

    /// The addresses to listen on.
    fn hosts(&self) -> io::Result<Vec<IpAddr>> {
        let is_all = |network: &IpNet| network.prefix_len() == 0;
        if self.addresses.is_empty() || self.addresses.iter().any(is_all) {
            return Ok(vec![listen::ANY]);
        }
        let interfaces = if_addrs::get_if_addrs()?;
        let addresses = interfaces.iter().map(if_addrs::Interface::ip);
        let is_ours = |address: &IpAddr| self.addresses.iter().any(|n| n.contains(address));
        // A link-local address is useless without its interface.
        let is_whole = |address: &IpAddr| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        };
        Ok(addresses
            .filter(|address| is_ours(address) && is_whole(address))
            .collect())
    }

    /// Closes ports that are no longer needed, and, if the node's addresses are known, sockets on
    /// addresses that were removed.
    fn close(&mut self, wanted: &BTreeMap<NonZeroU16, HealthCheck>, hosts: Option<&[IpAddr]>) {
        self.ports.retain(|port, Port { sockets, .. }| {
            sockets.retain(|socket, _| hosts.is_none_or(|hosts| hosts.contains(&socket.ip())));
            wanted.contains_key(port)
        });
    }

    fn open<'a>(
        &mut self,
        port: NonZeroU16,
        check: HealthCheck,
        hosts: impl Iterator<Item = &'a IpAddr>,
        errors: &mut Vec<HealthError>,
    ) {
        let service = check.service.clone();
        let open = match self.ports.entry(port) {
            Entry::Occupied(open) => {
                open.get().check.send_if_modified(|old| {
                    let differs = *old != check;
                    *old = check;
                    differs
                });
                open.into_mut()
            }
            Entry::Vacant(place) => place.insert(Port {
                check: watch::Sender::new(check),
                sockets: BTreeMap::new(),
            }),
        };
        for host in hosts {
            let address = SocketAddr::new(*host, port.get());
            if open.sockets.contains_key(&address) {
                continue;
            }
            let opened = listen(address).and_then(|listener| {
                let answer = answer(open.check.subscribe(), Arc::clone(&self.healthy));
                self.server.open(listener, answer)
            });
            match opened {
                Ok(site) => {
                    open.sockets.insert(address, site);
                }
                Err(source) => errors.push(HealthError::Listen {
                    service: service.clone(),
                    address,
                    source,
                }),
            }
        }
    }
}

/// The check for each port. Checks without a port are errors.
fn by_port(
    checks: impl IntoIterator<Item = HealthCheck>,
    errors: &mut Vec<HealthError>,
) -> BTreeMap<NonZeroU16, HealthCheck> {
    let mut checks: Vec<_> = checks.into_iter().collect();
    checks.sort_unstable_by(|a, b| a.service.cmp(&b.service));
    let mut wanted = BTreeMap::<_, HealthCheck>::new();
    for check in checks {
        match wanted.entry(check.port) {
            Entry::Vacant(place) => {
                place.insert(check);
            }
            Entry::Occupied(first) => errors.push(HealthError::PortTaken {
                service: check.service,
                port: check.port,
                by: first.get().service.clone(),
            }),
        }
    }
    wanted
}

fn answer(
    check: watch::Receiver<HealthCheck>,
    healthy: Arc<dyn Fn() -> bool + Send + Sync>,
) -> Answer {
    Arc::new(move |_, _| http::ready(answer_to(&check.borrow(), healthy())))
}

/// kube-proxy's answer, byte for byte except for the date. Names need no quoting.
fn answer_to(check: &HealthCheck, healthy: bool) -> Response {
    let (namespace, name) = (check.service.namespace(), check.service.name());
    let endpoints = check.local_endpoints;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    let status = if endpoints == 0 || !healthy {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let mut response = http::response(status, "application/json", body);
    let headers = response.headers_mut();
    headers.insert(ENDPOINT_WEIGHT, HeaderValue::from(endpoints));
    response
}

/// A health check that is not served, or not on all addresses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealthError {
    /// Listening on a port failed.
    #[error(
        "Service {service}: spec.healthCheckNodePort: cannot listen on {address}{}",
        hint(source)
    )]
    Listen {
        /// The Service.
        service: ObjectName,
        /// The address and port.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another Service uses the port.
    #[error("Service {service}: spec.healthCheckNodePort: Service {by} already uses {port}")]
    PortTaken {
        /// The Service that is not served.
        service: ObjectName,
        /// The port.
        port: NonZeroU16,
        /// The Service that uses it.
        by: ObjectName,
    },
    /// The node's addresses could not be read; new health checks are not served.
    #[error("health checks: cannot list the node's addresses")]
    Addresses {
        /// The kernel's error.
        source: io::Error,
    },
}

impl HealthError {
    /// The Service of the check, if it is one Service's.
    pub fn service(&self) -> Option<&ObjectName> {
        match self {
            Self::Listen { service, .. } | Self::PortTaken { service, .. } => Some(service),
            Self::Addresses { .. } => None,
        }
    }

    /// The kernel's errno, if the kernel returned one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Listen { source, .. } | Self::Addresses { source } => source.raw_os_error(),
            Self::PortTaken { .. } => None,
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (something else on this node has the port)",
        _ => "",
    }
}
