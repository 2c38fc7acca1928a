//! The proxy's sockets, and the routes of the process's network namespace.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use ipvs::Statistics;
use std::net::SocketAddr;

use super::engine::{Engine, ProxyView, raise_descriptors};
use super::{NodeState, Plan, Step};
use crate::desired::FrontendKey;
use crate::mode::ipvs::kernel::Routes;
use crate::mode::{ApplyReport, NodeError};
use crate::runtime::Runtime;

/// The proxy of userspace mode: the proxy itself, and the routes that bring packets to it.
///
/// Listening sockets and routes are in the network namespace of the thread that uses the proxy.
/// Connections to endpoints are made in that of the runtime's threads.
///
/// ```no_run
/// use proxier::Runtime;
/// use proxier::mode::userspace::UserspaceProxy;
///
/// let runtime = Runtime::start()?;
/// let mut proxy = UserspaceProxy::open(&runtime)?;
/// let node = proxy.observe()?;
/// println!("{} addresses", node.addresses.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct UserspaceProxy {
    engine: Engine,
    /// `None` if routes cannot be read.
    routes: Option<Routes>,
    given: Arc<[IpNet]>,
}

impl UserspaceProxy {
    /// A proxy whose tasks run on this runtime. Raises the limit of open files as far as the
    /// process may, and changes nothing else.
    ///
    /// # Errors
    ///
    /// If the runtime has stopped.
    pub fn open(runtime: &Runtime) -> Result<Self, NodeError> {
        let handle = runtime.handle().map_err(|source| NodeError::Proxy {
            operation: "start",
            source,
        })?;
        let routes = Routes::open();
        let routes = routes.inspect_err(|error| tracing::debug!("no routes: {error}"));
        Ok(Self {
            engine: Engine::new(handle.clone(), raise_descriptors()),
            routes: routes.ok(),
            given: Arc::default(),
        })
    }

    /// Networks whose virtual IPs are local without a route of svcproxy: another program delivers
    /// them to this node.
    #[must_use]
    pub fn listen(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.given = networks.into_iter().collect();
        self
    }

    /// What the proxy does, for metrics and for people.
    pub fn view(&self) -> ProxyView {
        self.engine.view()
    }

    /// Reads the node's addresses and routes, and what the proxy serves.
    ///
    /// # Errors
    ///
    /// If addresses or routes cannot be read.
    pub fn observe(&mut self) -> Result<NodeState, NodeError> {
        let mut node = read(self.routes.as_mut(), Arc::clone(&self.given))?;
        self.engine.set_own(node.addresses.iter().map(IpNet::addr));
        (node.served, node.listeners) = self.engine.observe();
        Ok(node)
    }

    /// Executes a plan in order. A failed step does not stop the others.
    pub fn apply(&mut self, plan: &Plan) -> ApplyReport {
        let mut report = ApplyReport::default();
        for (place, step) in plan.steps().iter().enumerate() {
            let done = match step {
                Step::Serve(served) => {
                    self.engine.serve(served);
                    Ok(())
                }
                Step::Listen(key, address) => {
                    let listened = self.engine.listen(*key, *address);
                    listened.map_err(|source| NodeError::Listen {
                        protocol: key.protocol,
                        address: *address,
                        source,
                    })
                }
                Step::Close(key, address) => {
                    self.engine.close(key, address);
                    Ok(())
                }
                Step::Withdraw(key) => {
                    self.engine.withdraw(key);
                    Ok(())
                }
                Step::AddRoute(route) => {
                    report.counts.routes += 1;
                    self.routes().and_then(|routes| routes.add(*route))
                }
                Step::DeleteRoute(route) => {
                    report.counts.routes += 1;
                    self.routes().and_then(|routes| routes.delete(*route))
                }
                Step::EndConnections(key, endpoint) => {
                    self.engine.end(key, endpoint);
                    Ok(())
                }
            };
            if let Err(error) = done {
                report.fail(place, error);
            }
        }
        report
    }

    /// Sets the reason why a frontend has no listener, if it has none, for those who look.
    pub(super) fn set_not_served(&self, key: FrontendKey, reason: Option<String>) {
        self.engine.set_not_served(key, reason);
    }

    fn routes(&mut self) -> Result<&mut Routes, NodeError> {
        self.routes.as_mut().ok_or(NodeError::NotTried)
    }

    pub(super) fn draining(
        &self,
    ) -> impl Iterator<Item = (FrontendKey, SocketAddr, Instant, usize)> {
        self.engine.draining()
    }

    pub(super) fn traffic(&self, key: &FrontendKey) -> Option<Statistics> {
        self.engine.traffic(key)
    }
}

/// What the node has without the proxy: its addresses and routes. `given` is as for
/// [`UserspaceProxy::listen`]. What is served only the process with the proxy knows.
///
/// # Errors
///
/// If addresses or routes cannot be read.
pub fn observe(given: impl IntoIterator<Item = IpNet>) -> Result<NodeState, NodeError> {
    read(Some(&mut Routes::open()?), given.into_iter().collect())
}

/// Without `routes`, the node has none.
fn read(routes: Option<&mut Routes>, given: Arc<[IpNet]>) -> Result<NodeState, NodeError> {
    let addresses = own_addresses().map_err(|source| NodeError::Link {
        operation: "list this node's addresses",
        source,
    })?;
    let mut node = NodeState {
        addresses,
        given,
        ..NodeState::default()
    };
    if let Some(routes) = routes {
        node.may_route = routes.check_change().is_ok();
        (node.routes, node.obstacles) = routes.observe()?;
    }
    Ok(node)
}

/// Removes the routes that this mode has added: all with svcproxy's protocol number in table
/// `local`. Mode ipvs has the same ones. Returns them.
///
/// # Errors
///
/// If they cannot be listed, or one cannot be deleted.
pub fn remove_routes() -> Result<Vec<String>, NodeError> {
    let mut routes = Routes::open()?;
    let (found, _) = routes.observe()?;
    for route in &found {
        routes.delete(*route)?;
    }
    Ok(found.iter().map(ToString::to_string).collect())
}

/// The routes that [`remove_routes`] would remove.
///
/// # Errors
///
/// If they cannot be listed.
pub fn routes() -> Result<Vec<String>, NodeError> {
    let (found, _) = Routes::open()?.observe()?;
    Ok(found.iter().map(ToString::to_string).collect())
}

/// The node's addresses, with the networks that they are in.
fn own_addresses() -> io::Result<Vec<IpNet>> {
    let interfaces = if_addrs::get_if_addrs()?;
    let networks = interfaces.iter().filter_map(|interface| {
        let (address, length) = match &interface.addr {
            if_addrs::IfAddr::V4(own) => (IpAddr::from(own.ip), own.prefixlen),
            if_addrs::IfAddr::V6(own) => (IpAddr::from(own.ip), own.prefixlen),
        };
        IpNet::new(address, length).ok()
    });
    let mut networks: Vec<_> = networks.collect();
    networks.sort_unstable();
    networks.dedup();
    Ok(networks)
}
