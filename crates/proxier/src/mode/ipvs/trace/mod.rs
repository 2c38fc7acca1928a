//! The way of a connection's first packet in IPVS mode: evaluates the [`Ruleset`] that is installed
//! over a [`NodeState`], hook by hook.
//!
//! The evaluation knows svcproxy's rules, IPVS and routes. What other programs do to the packet is
//! not part of it ([`host`](crate::host) judges that).

mod lookup;
pub(crate) mod passing;
#[cfg(test)]
mod tests;
mod walk;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use ipvs::{Forwarding, RealServer, VirtualServerKey};

use super::plan::{NodeState, VirtualServerState};
use super::rules::{ChainKind, HookPoint, Ruleset};
use crate::mode::trace::{Answer, Outcome, Packet, Surroundings, Trace};
use lookup::Lookup;
use passing::{Passing, Verdict};
use walk::Walker;

/// IPVS takes requests of the node at NF_IP_PRI_NAT_DST + 1 and + 2 (`ip_vs_ops4`).
const IPVS_OUTPUT: i32 = -99;
/// IPVS takes incoming requests at NF_IP_PRI_NAT_SRC - 2 and - 1.
const IPVS_INPUT: i32 = 98;

/// Follows the first packet of a connection through the hooks of a node; without a ruleset, on a
/// node whose rules are gone.
///
/// ```
/// use proxier::desired::{Config, DesiredState};
/// use proxier::mode::ipvs::plan::{NodeState, Plan, Scope};
/// use proxier::mode::ipvs::rules::Ruleset;
/// use proxier::mode::ipvs::trace;
/// use proxier::mode::trace::{Origin, Outcome, Packet, Surroundings};
/// use proxier::model::Protocol;
///
/// let mut config = Config::new("node-a", vec!["192.0.2.1".parse()?]);
/// config.service_cidrs = vec!["10.96.0.0/12".parse()?];
/// let desired = DesiredState::new(config.into());
/// let mut node = NodeState::default();
/// node.record(&Plan::new(&desired, &node, Scope::Full), &[]);
///
/// let (client, unused) = ("10.244.0.7".parse()?, "10.96.0.99".parse()?);
/// let origin = Origin::Interface("veth0".to_owned());
/// let packet = Packet::new(client, unused, Protocol::Tcp, 80.try_into()?, origin);
/// let is_own = |address| desired.config().node_ips.contains(&address);
/// let ruleset = Ruleset::needed(&desired, node.is_filtered);
/// let trace = trace(Some(&ruleset), &node, &packet, Surroundings::new(&is_own));
/// assert_eq!(trace.outcome, Outcome::Refused);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn trace(
    ruleset: Option<&Ruleset>,
    node: &NodeState,
    packet: &Packet,
    around: Surroundings<'_>,
) -> Trace {
    let chains = ruleset.map(Ruleset::chains).unwrap_or_default();
    let is_local = |address: IpAddr| around.owns(address) || routed(node, address);
    let mut walker = Walker {
        chains: &chains,
        lookup: Lookup::new(&node.elements),
        passing: Passing::new(packet.clone(), &is_local),
        steps: Vec::new(),
        owner: None,
    };
    let outcome = if walker.passing.is_own() {
        from_node(&mut walker, node)
    } else {
        from_outside(&mut walker, node)
    };
    Trace {
        steps: walker.steps,
        outcome,
        owner: walker.owner,
    }
}

/// Whether a `local` route of svcproxy leads to an address.
fn routed(node: &NodeState, address: IpAddr) -> bool {
    let mut routes = node.routes.iter();
    routes.any(|route| route.prefix.contains(&address))
}

/// A packet that arrives on an interface.
fn from_outside(walker: &mut Walker<'_>, node: &NodeState) -> Outcome {
    if let Some(ended) = ended(walker.hook(HookPoint::Prerouting, |_, _| true)) {
        return ended;
    }
    match route(walker, node, "prerouting") {
        false => Outcome::Leaves,
        true => input(walker, node),
    }
}

/// A packet that the node sends.
fn from_node(walker: &mut Walker<'_>, node: &NodeState) -> Outcome {
    walker.passing.to_loopback = route(walker, node, "output");
    let verdict = walker.hook(HookPoint::Output, |priority, _| priority <= IPVS_OUTPUT);
    if let Some(ended) = ended(verdict) {
        return ended;
    }
    if let Some(key) = chosen(walker, node) {
        return serve(walker, node, key, "output");
    }
    if !walker.passing.to_loopback {
        return Outcome::Leaves;
    }
    // It comes back through lo. Address translation has seen the connection already.
    walker.passing.from_loopback = true;
    let filters = |_, kind| kind == ChainKind::Filter;
    if let Some(ended) = ended(walker.hook(HookPoint::Prerouting, filters)) {
        return ended;
    }
    input(walker, node)
}

/// Decides whether the packet is delivered to this node.
fn route(walker: &mut Walker<'_>, node: &NodeState, hook: &'static str) -> bool {
    let (family, destination) = (
        walker.passing.packet.family(),
        walker.passing.packet.destination,
    );
    let mut by_mark = node.policy_routes.iter();
    let by_mark =
        by_mark.find(|rule| rule.family == family && walker.passing.mark & rule.mark == rule.mark);
    if let (Some(rule), false) = (by_mark, walker.passing.is_own()) {
        let mark = rule.mark;
        walker.note(
            hook,
            "routing",
            format!("delivered to this node by the rule for mark {mark:#x}"),
        );
        return true;
    }
    let mut routes = node.routes.iter();
    let route = routes.find(|route| route.prefix.contains(&destination));
    let mut obstacles = node.obstacles.iter();
    let obstacle = obstacles.find(|obstacle| {
        let is_there = route.is_some_and(|route| route.prefix == obstacle.prefix);
        is_there && !obstacle.can_be_passed
    });
    match (route, (walker.passing.is_local)(destination)) {
        (Some(route), _) => {
            let prefix = route.prefix;
            let behind = obstacle.map(|obstacle| {
                format!(
                    "; another program's route may get it first: {}",
                    obstacle.by
                )
            });
            let behind = behind.unwrap_or_default();
            let text = format!("delivered to this node by svcproxy's route to {prefix}{behind}");
            walker.note(hook, "routing", text);
            true
        }
        (None, true) => {
            walker.note(
                hook,
                "routing",
                format!("{destination} is an address of this node"),
            );
            true
        }
        (None, false) => {
            walker.note(hook, "routing", "not for this node");
            false
        }
    }
}

fn input(walker: &mut Walker<'_>, node: &NodeState) -> Outcome {
    let verdict = walker.hook(HookPoint::Input, |priority, _| priority <= IPVS_INPUT);
    if let Some(ended) = ended(verdict) {
        return ended;
    }
    // IPVS leaves packets of the node alone here: it has seen them in output.
    match chosen(walker, node).filter(|_| !walker.passing.is_own()) {
        Some(key) => serve(walker, node, key, "input"),
        None => Outcome::Delivered,
    }
}

/// The virtual server that IPVS finds: by the packet's whole mark, then by its address.
fn chosen(walker: &Walker<'_>, node: &NodeState) -> Option<VirtualServerKey> {
    let family = walker.passing.packet.family();
    let mark = NonZeroU32::new(walker.passing.mark);
    let by_mark = mark.map(|mark| VirtualServerKey::firewall_mark(mark, family));
    let by_address = walker.passing.packet.key().virtual_server();
    let mut keys = by_mark.into_iter().chain(by_address);
    keys.find(|key| node.virtual_servers.contains_key(key))
}

fn serve(
    walker: &mut Walker<'_>,
    node: &NodeState,
    key: VirtualServerKey,
    hook: &'static str,
) -> Outcome {
    let Some(VirtualServerState {
        server,
        real_servers,
    }) = node.virtual_servers.get(&key)
    else {
        return Outcome::Delivered;
    };
    let takes_new = |server: &&RealServer| server.weight > 0;
    let active: Vec<_> = real_servers.iter().filter(takes_new).collect();
    let scheduler = server.scheduler;
    if active.is_empty() {
        let draining = real_servers.len();
        let text = format!(
            "virtual server {key} has no real server for new connections ({draining} drain): ICMP \
             port unreachable"
        );
        walker.note(hook, "IPVS", text);
        return Outcome::Refused;
    }
    let affinity = server.persistence.map(|persistence| {
        let seconds = persistence.timeout;
        format!("; a client keeps its endpoint {seconds} s")
    });
    let affinity = affinity.unwrap_or_default();
    let count = active.len();
    let noun = if count == 1 {
        "real server"
    } else {
        "real servers"
    };
    walker.note(
        hook,
        "IPVS",
        format!("virtual server {key} chooses one of {count} {noun} by {scheduler}{affinity}"),
    );
    let answers = active.iter().enumerate().map(|(index, server)| {
        let endpoint = SocketAddr::new(server.key.address, server.key.port);
        let masqueraded = behind_ipvs(walker, server, index == 0);
        Answer::new(endpoint, server.weight, masqueraded)
    });
    Outcome::Served(answers.collect())
}

/// The rest of the way to a real server. Returns whether it sees the node's address. Only the way to
/// the first one is recorded, and what differs from it.
fn behind_ipvs(walker: &mut Walker<'_>, server: &RealServer, is_first: bool) -> bool {
    if server.forwarding != Forwarding::Masquerade {
        return false;
    }
    let before = (
        walker.passing.packet.clone(),
        walker.passing.mark,
        walker.steps.len(),
    );
    let owner = walker.owner.clone();
    walker.passing.is_masqueraded = false;
    walker.passing.packet.destination = server.key.address;
    if let Ok(port) = server.key.port.try_into() {
        walker.passing.packet.port = port;
    }
    // Address translation has decided on the destination of the connection before.
    let filters = |_, kind| kind == ChainKind::Filter;
    walker.hook(HookPoint::Output, filters);
    walker.hook(HookPoint::Postrouting, |_, _| true);
    let is_masqueraded = walker.passing.is_masqueraded;
    let (packet, mark, steps) = before;
    if !is_first {
        walker.steps.truncate(steps);
    }
    (walker.passing.packet, walker.passing.mark, walker.owner) = (packet, mark, owner);
    is_masqueraded
}

fn ended(verdict: Verdict) -> Option<Outcome> {
    match verdict {
        Verdict::Accept => None,
        Verdict::Refuse => Some(Outcome::Refused),
        Verdict::Drop => Some(Outcome::Dropped),
    }
}
