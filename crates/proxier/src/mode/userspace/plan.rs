//! The difference between what the proxy serves and the desired state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::HashMap;
use ipnet::IpNet;
use ipvs::{Family, Protocol};

use super::reach::{host_route, reach};
use crate::desired::{DesiredState, Frontend, FrontendKey, Need, WithoutBackends};
#[cfg(feature = "userspace")]
use crate::mode::Item;
use crate::mode::StepKind;
use crate::mode::ipvs::plan::{LocalRoute, Obstacle, Scope, base_routes};

/// The proxy's sockets, and the facts of the node that decide which it can have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeState {
    /// Whether svcproxy may add routes (CAP_NET_ADMIN).
    pub may_route: bool,
    /// The node's own addresses, each with the network that it is in.
    pub addresses: Vec<IpNet>,
    /// Networks whose virtual IPs are local without a route of svcproxy.
    pub given: Arc<[IpNet]>,
    /// `local` routes with svcproxy's protocol number.
    pub routes: BTreeSet<LocalRoute>,
    /// Obstacles of other programs in the way of these routes.
    pub obstacles: BTreeSet<Obstacle>,
    /// The frontends that are served.
    pub served: HashMap<FrontendKey, Arc<Served>>,
    /// The addresses on which the proxy listens for each of them.
    pub listeners: BTreeMap<FrontendKey, BTreeSet<SocketAddr>>,
}

impl NodeState {
    /// Whether an address belongs to the node.
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.addr() == address)
    }

    /// Whether an address is in a network that the node is attached to.
    pub(super) fn is_attached_to(&self, address: IpAddr) -> bool {
        let mut networks = self.addresses.iter();
        networks.any(|own| own.prefix_len() < own.max_prefix_len() && own.contains(&address))
    }

    /// Whether the operator says that an address is local.
    pub fn is_given(&self, address: IpAddr) -> bool {
        self.given.iter().any(|network| network.contains(&address))
    }

    fn has_route(&self, route: &LocalRoute) -> bool {
        let is_behind = |o: &Obstacle| o.can_be_passed && o.prefix == route.prefix;
        self.routes.contains(route) && !self.obstacles.iter().any(is_behind)
    }

    /// Records an executed plan, except for the failed steps with these ascending indices.
    pub fn record(&mut self, plan: &Plan, failed: &[usize]) {
        for (place, step) in plan.steps.iter().enumerate() {
            if failed.binary_search(&place).is_err() {
                self.record_step(step);
            }
        }
    }

    fn record_step(&mut self, step: &Step) {
        match step {
            Step::Serve(served) => {
                _ = self.served.insert(served.frontend.key, Arc::clone(served));
            }
            Step::Withdraw(key) => _ = self.served.remove(key),
            Step::Listen(key, address) => {
                _ = self.listeners.entry(*key).or_default().insert(*address);
            }
            Step::Close(key, address) => {
                let Some(of) = self.listeners.get_mut(key) else {
                    return;
                };
                of.remove(address);
                if of.is_empty() {
                    self.listeners.remove(key);
                }
            }
            Step::AddRoute(route) => {
                self.routes.retain(|there| there.prefix != route.prefix);
                self.routes.insert(*route);
                let prefix = route.prefix;
                self.obstacles
                    .retain(|there| !there.can_be_passed || there.prefix != prefix);
            }
            Step::DeleteRoute(route) => {
                self.routes.remove(route);
                self.obstacles.retain(|there| there.prefix != route.prefix);
            }
            Step::EndConnections(..) => {}
        }
    }
}

/// A frontend, and what the proxy must know to serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// The frontend.
    pub frontend: Arc<Frontend>,
    /// The pods' networks, if it has other endpoints for clients outside the cluster.
    pub pods: Arc<[IpNet]>,
}

impl Served {
    /// A frontend, and the pods' networks of its family.
    pub const fn with_pods(frontend: Arc<Frontend>, pods: Arc<[IpNet]>) -> Self {
        Self { frontend, pods }
    }

    fn new(frontend: &Arc<Frontend>, desired: &DesiredState) -> Self {
        let family = frontend.key.family();
        let pods = desired.config().cluster_cidrs.iter();
        let pods =
            pods.filter(|pods| frontend.external.is_some() && Family::of(&pods.addr()) == family);
        Self {
            frontend: Arc::clone(frontend),
            pods: pods.copied().collect(),
        }
    }

    /// Whether clients get an error because nobody could answer them.
    pub(super) fn refuses_all(&self) -> bool {
        let frontend = &self.frontend;
        frontend.backends.is_empty()
            && frontend.without_backends == WithoutBackends::Refuse
            && frontend.external.is_none()
    }

    /// Whether the proxy listens nowhere for it, so that the kernel refuses its datagrams.
    pub(super) fn has_no_listener(&self) -> bool {
        self.frontend.key.protocol == Protocol::Udp && self.refuses_all()
    }
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Serve a frontend, or change its endpoints and policies. Connections to removed endpoints
    /// drain.
    Serve(Arc<Served>),
    /// Listen at an address for a frontend.
    Listen(FrontendKey, SocketAddr),
    /// Stop listening at an address.
    Close(FrontendKey, SocketAddr),
    /// Stop serving a frontend. Connections to a node port drain, all others are cut.
    Withdraw(FrontendKey),
    /// Add a `local` route before those of other programs, or replace svcproxy's route of the same
    /// prefix.
    AddRoute(LocalRoute),
    /// Delete a `local` route of svcproxy.
    DeleteRoute(LocalRoute),
    /// Cut the connections to an endpoint that has drained for too long, and forget it.
    EndConnections(FrontendKey, SocketAddr),
}

impl Step {
    /// The item that it belongs to, if it is a single one.
    #[cfg(feature = "userspace")]
    pub(super) fn item(&self) -> Option<Item> {
        match self {
            Self::Serve(served) => Some(Item::Frontend(served.frontend.key)),
            Self::Listen(key, _)
            | Self::Close(key, _)
            | Self::Withdraw(key)
            | Self::EndConnections(key, _) => Some(Item::Frontend(*key)),
            Self::AddRoute(route) | Self::DeleteRoute(route) => {
                // A route of a single address belongs to a virtual IP; all others are Service CIDRs.
                let prefix = route.prefix;
                let is_single = prefix.prefix_len() == prefix.max_prefix_len();
                is_single.then(|| Item::Need(Need::Route(prefix.addr())))
            }
        }
    }

    /// What it changes.
    pub(crate) const fn kind(&self) -> StepKind {
        match self {
            Self::AddRoute(_) | Self::DeleteRoute(_) => StepKind::Route,
            Self::EndConnections(..) => StepKind::Flows,
            _ => StepKind::Listener,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serve(served) => {
                let Frontend {
                    key,
                    owner,
                    backends,
                    external,
                    ..
                } = &*served.frontend;
                write!(f, "serve {key} ({owner}): {} endpoints", backends.len())?;
                match external {
                    Some(external) => write!(f, ", {} for outside clients", external.len()),
                    None => Ok(()),
                }
            }
            Self::Listen(key, address) => write!(f, "listen on {} {address}", key.protocol),
            Self::Close(key, address) => write!(f, "close {} {address}", key.protocol),
            Self::Withdraw(key) => write!(f, "withdraw {key}"),
            Self::AddRoute(route) => write!(f, "add route {route}"),
            Self::DeleteRoute(route) => write!(f, "delete route {route}"),
            Self::EndConnections(key, endpoint) => {
                write!(f, "end connections of {key} to {endpoint}")
            }
        }
    }
}

/// Steps that lead from a [`NodeState`] to a [`DesiredState`], in order: listeners before the routes
/// that lead to them, and last the removal of what is no longer needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<Step>,
}

impl Plan {
    /// Compares the desired state with the node.
    pub fn new(desired: &DesiredState, node: &NodeState, scope: Scope<'_>) -> Self {
        let mut builder = Builder {
            desired,
            node,
            serve: Vec::new(),
            close: Vec::new(),
            listen: Vec::new(),
            add_routes: Vec::new(),
            withdraw: Vec::new(),
            delete_routes: Vec::new(),
        };
        match scope {
            Scope::Full => builder.everything(),
            Scope::Touched(touched) => {
                for key in &touched.frontends {
                    builder.frontend(*key);
                }
                for need in &touched.needs {
                    builder.need(need);
                }
            }
        }
        // A listener is closed before another frontend's takes its place.
        let steps = [
            builder.serve,
            builder.close,
            builder.listen,
            builder.add_routes,
            builder.withdraw,
            builder.delete_routes,
        ];
        Self {
            steps: steps.concat(),
        }
    }

    /// The steps, in the order of execution.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Appends the steps of another plan.
    pub(crate) fn append(&mut self, mut then: Self) {
        self.steps.append(&mut then.steps);
    }
}

impl FromIterator<Step> for Plan {
    /// A plan of these steps.
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self {
            steps: steps.into_iter().collect(),
        }
    }
}

struct Builder<'a> {
    desired: &'a DesiredState,
    node: &'a NodeState,
    serve: Vec<Step>,
    close: Vec<Step>,
    listen: Vec<Step>,
    add_routes: Vec<Step>,
    withdraw: Vec<Step>,
    delete_routes: Vec<Step>,
}

impl Builder<'_> {
    fn everything(&mut self) {
        let (desired, node) = (self.desired, self.node);
        let mut keys: BTreeSet<_> = desired.frontends().map(|frontend| frontend.key).collect();
        keys.extend(node.served.keys());
        keys.extend(node.listeners.keys());
        for key in keys {
            self.frontend(key);
        }
        let vips = desired.all_needs().filter_map(vip_of);
        let mut wanted: BTreeSet<_> = vips
            .filter_map(|vip| host_route(vip, desired, node))
            .collect();
        if node.may_route {
            wanted.extend(base_routes(desired.config()));
        }
        let missing = wanted.iter().filter(|route| !node.has_route(route));
        self.add_routes.extend(missing.copied().map(Step::AddRoute));
        // A route with another source is replaced, not deleted.
        let is_wanted = |there: &&LocalRoute| wanted.iter().any(|r| r.prefix == there.prefix);
        let stale = node.routes.iter().filter(|route| !is_wanted(route));
        if node.may_route {
            self.delete_routes
                .extend(stale.copied().map(Step::DeleteRoute));
        }
    }

    /// The route of an address outside the Service CIDRs.
    fn need(&mut self, need: &Need) {
        let Some(vip) = vip_of(need) else { return };
        let (desired, node) = (self.desired, self.node);
        let is_needed = desired.needs(&Need::Route(vip)) || desired.needs(&Need::Capture(vip));
        let route = is_needed.then(|| host_route(vip, desired, node)).flatten();
        match route {
            Some(route) if !node.has_route(&route) => self.add_routes.push(Step::AddRoute(route)),
            Some(_) => {}
            None if node.may_route => {
                let prefix = IpNet::from(vip);
                let stale = node.routes.iter().filter(|there| there.prefix == prefix);
                self.delete_routes
                    .extend(stale.copied().map(Step::DeleteRoute));
            }
            None => {}
        }
    }

    fn frontend(&mut self, key: FrontendKey) {
        let (desired, node) = (self.desired, self.node);
        let wanted = desired.frontend(&key);
        let wanted = wanted.filter(|frontend| reach(frontend, desired.config(), node).is_ok());
        let served = wanted.map(|frontend| Served::new(frontend, desired));
        let addresses = served
            .as_ref()
            .map(|served| self.addresses(served))
            .unwrap_or_default();
        let there = node.served.get(&key);
        let none = BTreeSet::new();
        let listening = node.listeners.get(&key).unwrap_or(&none);
        let is_gone = served.is_none();
        if let Some(served) = served
            && there.is_none_or(|there| **there != served)
        {
            self.serve.push(Step::Serve(Arc::new(served)));
        }
        let missing = addresses.difference(listening);
        let missing = missing.map(|address| Step::Listen(key, *address));
        self.listen.extend(missing);
        let stale = listening.difference(&addresses);
        self.close
            .extend(stale.map(|address| Step::Close(key, *address)));
        if is_gone && there.is_some() {
            self.withdraw.push(Step::Withdraw(key));
        }
    }

    /// Where the proxy listens for a frontend. A datagram without endpoint is refused best by the
    /// kernel, which answers that nobody listens.
    fn addresses(&self, served: &Served) -> BTreeSet<SocketAddr> {
        let key = served.frontend.key;
        if served.has_no_listener() {
            return BTreeSet::new();
        }
        let port = key.port.get();
        if !key.is_node_port() {
            return [SocketAddr::new(key.address, port)].into();
        }
        let networks = self.desired.config().node_port_networks();
        let own = self.node.addresses.iter().map(IpNet::addr);
        let own = own.filter(|own| {
            let is_taken = || {
                let address = *own;
                self.desired
                    .frontend(&FrontendKey { address, ..key })
                    .is_some()
            };
            Family::of(own) == key.family()
                && serves_node_ports(*own)
                && networks.iter().any(|network| network.contains(own))
                && !is_taken()
        });
        own.map(|own| SocketAddr::new(own, port)).collect()
    }
}

/// Loopback addresses never serve node ports. A link-local one is ambiguous without its interface.
fn serves_node_ports(own: IpAddr) -> bool {
    let is_link_local = match own {
        IpAddr::V4(_) => false,
        IpAddr::V6(own) => own.is_unicast_link_local(),
    };
    !own.is_loopback() && !is_link_local
}

/// The address that may need a route.
const fn vip_of(need: &Need) -> Option<IpAddr> {
    match need {
        Need::Route(vip) | Need::Capture(vip) => Some(*vip),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
