//! The rules of one frontend, and their place in a tree.
//!
//! iptables tries the rules of a chain one after another, so rules for all frontends are in trees.
//! Each branch jumps to at most sixteen others. So a packet passes some tens of rules instead of
//! one for each Service, and a change rewrites only a few chains.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;
use ipvs::{Family, Protocol};

use super::name::{Class, OUTSIDE, Word};
use super::rule::{Match, Target};
use super::{Name, Rule, Table};
use crate::desired::{Backend, Config, Frontend, FrontendKey, FrontendKind, WithoutBackends};
use crate::mode::iptables::name::{HAIRPIN, NODE_PORTS, VIPS};
use crate::model::SessionAffinity;

/// The rules of one frontend in one table: its chains, and the rule that jumps to the first one.
#[derive(Debug, Default)]
pub(super) struct OfFrontend {
    pub(super) chains: Vec<(Class, Vec<Rule>)>,
    pub(super) target: Option<Target>,
}

/// The classes of frontends' chains.
pub(super) const CLASSES: [Class; 3] = [Class::Backends, Class::External, Class::Restricted];

/// Matches of packets from pods. Empty if pods are unknown; then every client counts as outside.
pub(super) fn pods(config: &Config, family: Family) -> Vec<Match> {
    if let Some(interfaces) = &config.pod_interfaces {
        return vec![Match::all().interfaces(interfaces)];
    }
    let networks = config.cluster_cidrs.iter().map(ipnet::IpNet::trunc);
    let networks = networks.filter(|network| Family::of(&network.addr()) == family);
    let networks = ipnet::IpNet::aggregate(&networks.collect());
    let from = networks
        .into_iter()
        .map(|network| Match::all().source(network));
    from.collect()
}

/// Rules in table nat: the backends.
pub(super) fn delivery(frontend: &Frontend, config: &Config) -> OfFrontend {
    let mut of = OfFrontend::default();
    let in_cluster = chosen(frontend, &frontend.backends);
    if !in_cluster.is_empty() {
        let mark = match (frontend.kind, &frontend.external) {
            (FrontendKind::ClusterIp, _) => Some(Target::Jump(Name::of(OUTSIDE))),
            // For every client, because the answer must come back through this node.
            (FrontendKind::NodePort, _) | (_, None) => {
                Some(Target::SetMark(config.marks.masquerade()))
            }
            (_, Some(_)) => None,
        };
        let mark = mark.map(|mark| Match::all().then(&mark));
        of.enter(
            frontend,
            Class::Backends,
            mark.into_iter().chain(in_cluster).collect(),
        );
    }
    if let Some(external) = &frontend.external {
        let inside = of.target.take();
        let outside = chosen(frontend, external);
        if inside.is_some() || !outside.is_empty() {
            let rules = by_audience(frontend, config, inside, outside);
            of.enter(frontend, Class::External, rules);
        }
    }
    if let Some(next) = of.target.take_if(|_| frontend.source_ranges.is_some()) {
        of.enter(frontend, Class::Restricted, admission(frontend, &next));
    }
    of
}

/// Rules in table filter: rejects or drops packets without a backend.
pub(super) fn verdict(frontend: &Frontend) -> OfFrontend {
    let mut of = OfFrontend::default();
    let is_empty = |backends: &[Backend]| backends.is_empty();
    let nobody = frontend.backends.is_empty();
    let nobody_outside = frontend.external.as_deref().is_some_and(is_empty);
    if nobody && frontend.without_backends == WithoutBackends::Refuse {
        let key = frontend.key;
        let refuse = Target::Refuse(key.protocol, key.family());
        if frontend.source_ranges.is_some() {
            let mut rules = admission(frontend, &refuse);
            rules.push(Match::all().then(&Target::Drop));
            of.enter(frontend, Class::Restricted, rules);
        } else {
            of.target = Some(refuse);
        }
    } else if nobody || nobody_outside || frontend.source_ranges.is_some() {
        of.target = Some(Target::Drop);
    }
    of
}

impl OfFrontend {
    /// Adds a chain in front of the existing ones.
    fn enter(&mut self, frontend: &Frontend, class: Class, rules: Vec<Rule>) {
        self.chains.push((class, rules));
        self.target = Some(Target::Goto(Name::hashed(class, frontend.key)));
    }
}

/// Chooses each backend with a probability by its weight, except for clients with session affinity
/// that already have one.
fn chosen(frontend: &Frontend, backends: &[Backend]) -> Vec<Rule> {
    let family = frontend.key.family();
    let all = || Match::all().protocol(frontend.key.protocol);
    let affinity: Option<NonZeroU32> = match frontend.session_affinity {
        SessionAffinity::None => None,
        SessionAffinity::ClientIp(seconds) => Some(seconds),
    };
    let mut rules = Vec::with_capacity(backends.len());
    if let Some(seconds) = affinity {
        rules.extend(backends.iter().map(|backend| {
            let list = clients(frontend, *backend);
            let matching = all().remembered(&list, family, seconds);
            matching.then(&Target::SendTo(*backend))
        }));
    }
    // The sum of the weights of a backend and those after it.
    let shares = |backend: &Backend| u32::from(backend.weight.get());
    let mut left = backends.iter().map(shares).fold(0, u32::saturating_add);
    rules.extend(backends.iter().map(|backend| {
        let share = shares(backend);
        let mut matching = all().share_of(share, left);
        left = left.saturating_sub(share);
        if affinity.is_some() {
            matching = matching.remember(&clients(frontend, *backend), family);
        }
        matching.then(&Target::SendTo(*backend))
    }));
    rules
}

/// The list of a backend's clients. All addresses of a Service share it.
fn clients(frontend: &Frontend, backend: Backend) -> Name {
    let (owner, protocol) = (&frontend.owner, frontend.key.protocol);
    let (address, port) = (backend.address, backend.port);
    let what = format_args!("{owner} {protocol} {address} {port}");
    Name::hashed(Class::Clients, what)
}

/// Sends clients in the cluster and the node itself to `inside`, all others to the rules for
/// outside clients.
fn by_audience(
    frontend: &Frontend,
    config: &Config,
    inside: Option<Target>,
    outside: Vec<Rule>,
) -> Vec<Rule> {
    let pods = pods(config, frontend.key.family());
    // A pod on another node may have no route to this node's address.
    let mark = Target::SetMark(config.marks.masquerade());
    let mark = inside
        .is_some()
        .then(|| Match::all().source_local().then(&mark));
    let inside = inside.unwrap_or(Target::Return);
    let from_pods = pods.into_iter().map(|pod| pod.then(&inside));
    let from_node = mark
        .into_iter()
        .chain([Match::all().source_local().then(&inside)]);
    from_pods.chain(from_node).chain(outside).collect()
}

/// The rules of source ranges. They never lock out the node itself.
fn admission(frontend: &Frontend, then: &Target) -> Vec<Rule> {
    let ranges = frontend.source_ranges.iter();
    let ranges = ranges.flat_map(|ranges| ranges.iter());
    // Some targets are valid for one protocol only.
    let protocol = frontend.key.protocol;
    let admitted = ranges.map(|range| Match::all().source(*range).protocol(protocol));
    let admitted = admitted.chain([Match::all().protocol(protocol).source_local()]);
    admitted.map(|matching| matching.then(then)).collect()
}

/// Prefix lengths of the levels for IPv4. Most Service CIDRs have /12 to /20.
const LEVELS_V4: [u8; 4] = [16, 20, 24, 28];
/// Prefix lengths of the levels for IPv6. Service CIDRs have /108 to /120, and addresses of nodes
/// and load balancers mostly differ in earlier bits.
const LEVELS_V6: [u8; 6] = [64, 108, 112, 116, 120, 124];
/// Number of node ports on one branch of each level.
const LEVELS_PORT: [u16; 3] = [4096, 256, 16];

/// A place in a tree.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) table: Table,
    pub(super) root: Word,
    way: Way,
    /// The match of the leaf.
    pub(super) leaf: Match,
}

/// The property by which branches divide packets.
#[derive(Debug, Clone, Copy)]
enum Way {
    Destination(IpAddr),
    Port(Protocol, NonZeroU16),
}

impl Place {
    /// The place of a frontend.
    pub(super) fn of_frontend(table: Table, key: FrontendKey) -> Self {
        let (protocol, port) = (key.protocol, key.port);
        if key.is_node_port() {
            return Self {
                table,
                root: NODE_PORTS,
                way: Way::Port(protocol, port),
                leaf: Match::all().port(protocol, port),
            };
        }
        let destination = Match::all().destination(key.address.into());
        Self {
            table,
            root: VIPS,
            way: Way::Destination(key.address),
            leaf: destination.port(protocol, port),
        }
    }

    /// The place of a backend's connections to itself.
    pub(super) fn of_hairpin(address: IpAddr) -> Self {
        let itself = IpNet::from(address);
        Self {
            table: Table::Nat,
            root: HAIRPIN,
            way: Way::Destination(address),
            leaf: Match::all().source(itself).destination(itself),
        }
    }

    /// The matches of the branches, from the leaf to the root.
    pub(super) fn branches(&self) -> Box<dyn Iterator<Item = Match>> {
        match self.way {
            Way::Destination(address) => {
                let levels: &[u8] = match Family::of(&address) {
                    Family::V4 => &LEVELS_V4,
                    Family::V6 => &LEVELS_V6,
                };
                let networks = levels.iter().rev();
                let networks = networks.filter_map(move |length| IpNet::new(address, *length).ok());
                Box::new(networks.map(|network| Match::all().destination(network)))
            }
            Way::Port(protocol, port) => Box::new(LEVELS_PORT.iter().rev().map(move |width| {
                let first = port.get() / width * width;
                Match::all().ports(protocol, &(first..=first + (width - 1)))
            })),
        }
    }

    /// The chain that a branch jumps to.
    pub(super) fn chain(&self, branch: &Match) -> Name {
        let (root, way) = (Name::of(self.root), branch.as_str());
        Name::hashed(super::name::Class::Branch, format_args!("{root} {way}"))
    }
}
