//! What a node has: observed in the kernel, then kept up to date by what was applied.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use ipvs::{Change, RealServer, RealServerKey, VirtualServer, VirtualServerKey};

use super::{Comment, Element, Plan, Step};
use crate::desired::DesiredState;
use crate::netfilter::Fingerprint;

/// The parts of a node's state that svcproxy makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Values of the sysctls that matter.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// Which rules the packet filter holds; `None` if they are missing or not as we write them.
    pub ruleset: Option<Fingerprint>,
    /// Elements of the packet filter's sets.
    pub elements: HashMap<Element, Comment>,
    /// Routes that carry our protocol number.
    pub routes: BTreeSet<LocalRoute>,
    /// Virtual servers with their real servers.
    pub virtual_servers: HashMap<VirtualServerKey, VirtualServerState>,
}

/// A virtual server and its real servers, sorted by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualServerState {
    /// The virtual server.
    pub server: VirtualServer,
    /// Its real servers, sorted by key.
    pub real_servers: Vec<RealServer>,
}

/// A route that makes a prefix local without an address:
/// `ip route add local PREFIX dev lo src SOURCE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalRoute {
    /// What becomes local.
    pub prefix: IpNet,
    /// Source address of the node's own connections to it; without one the kernel would take the
    /// destination itself.
    pub source: IpAddr,
}

impl fmt::Display for LocalRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local {} dev lo src {}", self.prefix, self.source)
    }
}

/// A sysctl that IPVS mode needs, all of them switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sysctl(&'static str);

impl Sysctl {
    /// Connection tracking sees IPVS's connections; masquerading rests on it.
    pub const VS_CONNTRACK: Self = Self("net.ipv4.vs.conntrack");
    /// Connections to a real server that is gone end at once.
    pub const VS_EXPIRE_NODEST_CONN: Self = Self("net.ipv4.vs.expire_nodest_conn");
    /// Persistence stops feeding a real server of weight 0.
    pub const VS_EXPIRE_QUIESCENT_TEMPLATE: Self = Self("net.ipv4.vs.expire_quiescent_template");
    /// IPv4 forwarding.
    pub const IPV4_FORWARD: Self = Self("net.ipv4.ip_forward");
    /// IPv6 forwarding.
    pub const IPV6_FORWARD: Self = Self("net.ipv6.conf.all.forwarding");
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::VS_CONNTRACK,
        Self::VS_EXPIRE_NODEST_CONN,
        Self::VS_EXPIRE_QUIESCENT_TEMPLATE,
        Self::IPV4_FORWARD,
        Self::IPV6_FORWARD,
    ];

    /// The name as sysctl(8) takes it: `net.ipv4.vs.conntrack`.
    pub fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl NodeState {
    /// Leaves out virtual servers that are not ours: neither recorded as ours in the packet
    /// filter nor at a key that a Service claims.
    pub fn retain_ours(&mut self, desired: &DesiredState) {
        self.retain_recorded_and(desired.frontends().map(|frontend| frontend.key.into()));
    }

    /// Leaves out virtual servers that are neither recorded as ours in the packet filter nor
    /// among the others.
    pub(crate) fn retain_recorded_and(&mut self, others: impl Iterator<Item = VirtualServerKey>) {
        let recorded = self.elements.keys().filter_map(|element| match element {
            Element::VirtualServer(key) => Some(VirtualServerKey::from(*key)),
            _ => None,
        });
        let ours: HashSet<_> = recorded.chain(others).collect();
        self.virtual_servers.retain(|key, _| ours.contains(key));
    }

    /// Notes that a plan was carried out but for the steps at these indices, in rising order.
    pub fn record(&mut self, plan: &Plan, failed: &[usize]) {
        let mut failed = failed.iter().copied().peekable();
        for (index, step) in plan.steps().iter().enumerate() {
            if failed.next_if_eq(&index).is_none() {
                self.record_step(step);
            }
        }
    }

    fn record_step(&mut self, step: &Step) {
        match step {
            Step::SetSysctl(sysctl) => {
                self.sysctls.insert(*sysctl, "1".to_owned());
            }
            Step::InstallRuleset(ruleset) => self.ruleset = Some(ruleset.fingerprint()),
            Step::AddElement(element, comment) => {
                self.elements.insert(*element, comment.clone());
            }
            Step::DeleteElement(element) => {
                self.elements.remove(element);
            }
            Step::AddRoute(route) => {
                self.routes.retain(|there| there.prefix != route.prefix);
                self.routes.insert(*route);
            }
            Step::DeleteRoute(route) => {
                self.routes.remove(route);
            }
            Step::Ipvs(change) => self.record_ipvs(change),
        }
    }

    fn record_ipvs(&mut self, change: &Change) {
        match change {
            Change::AddVirtualServer(server) => {
                let state = VirtualServerState {
                    server: *server,
                    real_servers: Vec::new(),
                };
                self.virtual_servers.insert(server.key, state);
            }
            Change::UpdateVirtualServer(server) => {
                if let Some(state) = self.virtual_servers.get_mut(&server.key) {
                    state.server = *server;
                }
            }
            Change::DeleteVirtualServer(key) => {
                self.virtual_servers.remove(key);
            }
            Change::AddRealServer {
                virtual_server,
                real_server,
            }
            | Change::UpdateRealServer {
                virtual_server,
                real_server,
            } => {
                if let Some(state) = self.virtual_servers.get_mut(virtual_server) {
                    state.put(*real_server);
                }
            }
            Change::DeleteRealServer {
                virtual_server,
                real_server,
            } => {
                if let Some(state) = self.virtual_servers.get_mut(virtual_server) {
                    state.remove(real_server);
                }
            }
            _ => {}
        }
    }
}

impl VirtualServerState {
    /// A real server of it.
    pub fn real_server(&self, key: &RealServerKey) -> Option<&RealServer> {
        let at = self
            .real_servers
            .binary_search_by_key(key, |r| r.key)
            .ok()?;
        self.real_servers.get(at)
    }

    fn put(&mut self, real_server: RealServer) {
        match self
            .real_servers
            .binary_search_by_key(&real_server.key, |r| r.key)
        {
            Ok(at) => {
                if let Some(slot) = self.real_servers.get_mut(at) {
                    *slot = real_server;
                }
            }
            Err(at) => self.real_servers.insert(at, real_server),
        }
    }

    fn remove(&mut self, key: &RealServerKey) {
        if let Ok(at) = self.real_servers.binary_search_by_key(key, |r| r.key) {
            self.real_servers.remove(at);
        }
    }
}
