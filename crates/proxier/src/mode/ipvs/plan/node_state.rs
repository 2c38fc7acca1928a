//! The state of a node: observed in the kernel, then updated with each applied plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

use foldhash::{HashMap, HashSet};
use ipnet::IpNet;
use ipvs::{Change, Family, RealServer, RealServerKey, Timeouts, VirtualServer, VirtualServerKey};

use super::forgotten::tagged;
use super::{Comment, Element, Elements, Plan, Step};
use crate::desired::{DesiredState, FrontendKey};
use crate::mode::Sysctl;
use crate::mode::ipvs::rules::Fingerprint;

/// The parts of a node's state that svcproxy manages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Values of the sysctls that svcproxy uses.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// The nftables rules; `None` if they are missing or were changed.
    pub ruleset: Option<Fingerprint>,
    /// Whether a filter of another program sees the packets that the node receives, behind
    /// svcproxy's chain `admit`, which marks those to Services for it.
    pub is_filtered: bool,
    /// Elements of the nftables sets.
    pub elements: Elements,
    /// `local` routes with svcproxy's protocol number.
    pub routes: BTreeSet<LocalRoute>,
    /// Obstacles of other programs in the way of these routes.
    pub obstacles: BTreeSet<Obstacle>,
    /// Policy routes with svcproxy's protocol number.
    pub policy_routes: BTreeSet<PolicyRoute>,
    /// IPVS's connection timeouts.
    pub timeouts: Timeouts,
    /// Virtual servers with their real servers.
    pub virtual_servers: HashMap<VirtualServerKey, VirtualServerState>,
    /// Marks of foreign virtual servers.
    pub foreign_marks: HashSet<NonZeroU32>,
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
    /// The prefix that becomes local.
    pub prefix: IpNet,
    /// Source address of the node's own connections to it. Without one, the kernel uses the
    /// destination as source, and the endpoint's answers get lost.
    pub source: Option<IpAddr>,
}

impl fmt::Display for LocalRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local {} dev lo", self.prefix)?;
        match self.source {
            Some(source) => write!(f, " src {source}"),
            None => Ok(()),
        }
    }
}

/// A route or routing rule of another program that gets packets to a prefix of svcproxy's `local`
/// route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Obstacle {
    /// The prefix of svcproxy's route.
    pub prefix: IpNet,
    /// The route that gets the packets: `blackhole 10.96.0.0/12 proto boot metric 0`.
    pub by: String,
    /// Whether it is a route to the same prefix that svcproxy's can precede.
    pub can_be_passed: bool,
}

/// Rules that send packets with a mark to svcproxy's routing table, where everything is local,
/// except for the kernel's lookup of the route back to the sender: `ip rule add pref 72 iif lo
/// fwmark MARK/MARK goto 32766`, `ip rule add pref 73 fwmark MARK/MARK lookup 73` and `ip route add
/// local default dev lo table 73`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRoute {
    /// The family of the packets.
    pub family: Family,
    /// Bits of the mark, all of which must be set.
    pub mark: u32,
}

impl fmt::Display for PolicyRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, mark } = self;
        write!(f, "{family} fwmark {mark:#x}/{mark:#x} to this node")
    }
}

impl NodeState {
    /// Records the real servers that a virtual server has now; none, if it does not exist any more.
    /// Returns whether they differed.
    pub(crate) fn update_real_servers(
        &mut self,
        key: &VirtualServerKey,
        there: Option<Vec<RealServer>>,
    ) -> bool {
        let Some(state) = self.virtual_servers.get_mut(key) else {
            return false;
        };
        match there {
            Some(there) if there == state.real_servers => return false,
            Some(there) => state.real_servers = there,
            None => _ = self.virtual_servers.remove(key),
        }
        true
    }

    /// Removes foreign virtual servers: without an ownership record in nftables, without svcproxy's
    /// tag, and not at an address that a Service claims.
    pub fn retain_owned(&mut self, desired: &DesiredState) {
        self.retain_recorded_and(desired.frontends().filter_map(|f| f.key.virtual_server()));
    }

    /// Removes virtual servers that have no ownership record in nftables, do not have svcproxy's
    /// tag, and are not among `others`.
    pub(crate) fn retain_recorded_and(&mut self, others: impl Iterator<Item = VirtualServerKey>) {
        let recorded = self.elements.keys().filter_map(Element::recorded);
        let servers = self.virtual_servers.values().map(|state| &state.server);
        let tagged = servers.filter(|server| tagged(server).is_some());
        let tagged = tagged.map(|server| server.key);
        let own: HashSet<_> = recorded.chain(tagged).chain(others).collect();
        let foreign = |key: &VirtualServerKey| match key {
            VirtualServerKey::FirewallMark { mark, .. } if !own.contains(key) => Some(*mark),
            _ => None,
        };
        self.foreign_marks = self.virtual_servers.keys().filter_map(foreign).collect();
        self.virtual_servers.retain(|key, _| own.contains(key));
    }

    /// The virtual servers without an ownership record in nftables and without svcproxy's tag.
    pub(crate) fn unrecorded(&self) -> impl Iterator<Item = VirtualServerKey> {
        let recorded: HashSet<_> = self.elements.keys().filter_map(Element::recorded).collect();
        let servers = self.virtual_servers.values().map(|state| &state.server);
        let untagged = servers.filter(|server| tagged(server).is_none());
        let keys = untagged.map(|server| server.key);
        keys.filter(move |key| !recorded.contains(key))
    }

    /// The frontend of a virtual server of svcproxy. None if no packet gets its mark any more.
    pub fn frontend_of(&self, server: &VirtualServerKey) -> Option<FrontendKey> {
        match *server {
            VirtualServerKey::FirewallMark { mark, family } => self.elements.marked(family, mark),
            _ => FrontendKey::of(server),
        }
    }

    /// The lost ownership records of firewall-mark virtual servers that still exist in `now`:
    /// another program has flushed nftables. Sorted.
    pub(crate) fn lost_marks(&self, now: &Self) -> Vec<(Element, Comment)> {
        let is_lost = |(element, _): &(&Element, &Comment)| {
            let Element::Mark { key, purpose, .. } = element else {
                return false;
            };
            let server = element.recorded();
            now.elements.mark(*key, *purpose).is_none()
                && server.is_some_and(|server| now.virtual_servers.contains_key(&server))
        };
        let lost = self.elements.iter().filter(is_lost);
        let mut lost: Vec<_> = lost.map(|(e, comment)| (*e, comment.clone())).collect();
        lost.sort_unstable();
        lost
    }

    /// The routes to this prefix, however many there are to others: without Service CIDRs, each virtual IP
    /// has a route.
    pub(crate) fn routes_to(&self, prefix: &IpNet) -> impl Iterator<Item = &LocalRoute> {
        let first = LocalRoute {
            prefix: *prefix,
            source: None,
        };
        let from_there = self.routes.range(first..);
        from_there.take_while(move |route| route.prefix == first.prefix)
    }

    /// Whether another program's route to this prefix precedes svcproxy's, and svcproxy's can be
    /// put before it.
    pub(crate) fn is_behind(&self, prefix: &IpNet) -> bool {
        let mut obstacles = self.obstacles.iter();
        obstacles.any(|obstacle| obstacle.can_be_passed && obstacle.prefix == *prefix)
    }

    /// Records an executed plan, except for the failed steps at these ascending indices.
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
            Step::SetSysctl(sysctl, value) => {
                self.sysctls.insert(*sysctl, value.to_string());
            }
            Step::InstallRuleset(ruleset) => self.ruleset = Some(ruleset.fingerprint()),
            Step::AddElement(element, comment) => {
                self.elements.insert(*element, comment.clone());
            }
            Step::DeleteElement(element) => {
                self.elements.remove(element);
            }
            Step::AddRoute(route) => {
                let former: Vec<_> = self.routes_to(&route.prefix).copied().collect();
                for there in former {
                    self.routes.remove(&there);
                }
                self.routes.insert(*route);
                let prefix = route.prefix;
                self.obstacles
                    .retain(|there| !there.can_be_passed || there.prefix != prefix);
            }
            Step::DeleteRoute(route) => {
                self.routes.remove(route);
                self.obstacles.retain(|there| there.prefix != route.prefix);
            }
            Step::AddPolicyRoute(route) => {
                self.policy_routes.insert(*route);
            }
            Step::DeletePolicyRoute(route) => {
                self.policy_routes.remove(route);
            }
            Step::Ipvs(change) => self.record_ipvs(change),
            Step::DeleteFlows(_) => {}
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
            Change::SetTimeouts(timeouts) => {
                let kept = self.timeouts;
                self.timeouts.tcp = timeouts.tcp.or(kept.tcp);
                self.timeouts.tcp_fin = timeouts.tcp_fin.or(kept.tcp_fin);
                self.timeouts.udp = timeouts.udp.or(kept.udp);
            }
            _ => {}
        }
    }
}

impl VirtualServerState {
    /// The real server with this key.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_route_replaces_only_that_to_its_prefix() {
        let route = |prefix: &str, source: Option<&str>| LocalRoute {
            prefix: prefix.parse().unwrap(),
            source: source.map(|source| source.parse().unwrap()),
        };
        let (before, after) = (route("10.0.0.0/32", None), route("10.0.0.2/32", None));
        let (old, new) = (
            route("10.0.0.1/32", Some("192.0.2.9")),
            route("10.0.0.1/32", Some("192.0.2.1")),
        );
        let mut node = NodeState {
            routes: [before, old, after].into(),
            ..NodeState::default()
        };
        node.record(&[Step::AddRoute(new)].into_iter().collect(), &[]);
        assert_eq!(node.routes, [before, new, after].into());
        assert_eq!(node.routes_to(&new.prefix).collect::<Vec<_>>(), [&new]);
        assert_eq!(node.routes_to(&"10.0.0.0/31".parse().unwrap()).count(), 0);
    }
}
