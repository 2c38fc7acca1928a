//! The chains that do not depend on Services.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use ipnet::IpNet;
use ipvs::{Family, Protocol};

use super::frontend::pods;
use super::name::{
    FORWARD, HAIRPIN, HEALTH_CHECKS, NODE_PORTS, OUTSIDE, POSTROUTING, SERVICES, UNDELIVERED, VIPS,
    Word,
};
use super::rule::{CtState, Match, Target};
use super::{Hook, Jump, Name, Rule, Table};
use crate::desired::Config;
use crate::mode::ipvs::rules::loopback;

/// The roots of the trees that contain the Services' rules.
pub(super) const ROOTS: [(Table, Word); 5] = [
    (Table::Nat, VIPS),
    (Table::Nat, NODE_PORTS),
    (Table::Nat, HAIRPIN),
    (Table::Filter, VIPS),
    (Table::Filter, NODE_PORTS),
];

/// The chains that depend on the settings only, with their rules.
pub(super) fn chains(config: &Config, family: Family) -> [(Table, Word, Vec<Rule>); 5] {
    [
        (Table::Nat, SERVICES, to_trees(config, family)),
        (Table::Nat, OUTSIDE, outside(config, family)),
        (Table::Nat, POSTROUTING, postrouting(config)),
        (Table::Filter, UNDELIVERED, undelivered(config, family)),
        (Table::Filter, FORWARD, forward(config, family)),
    ]
}

/// svcproxy's rules in built-in chains, in the order of each chain.
pub(super) fn jumps() -> [Jump; 8] {
    let jump = |table, hook, matching: Match, to| Jump {
        table,
        hook,
        rule: matching.then(&Target::Jump(Name::of(to))),
    };
    let new = || Match::all().state(CtState::New);
    [
        jump(Table::Filter, Hook::Input, new(), UNDELIVERED),
        jump(Table::Filter, Hook::Input, new(), HEALTH_CHECKS),
        jump(Table::Filter, Hook::Forward, new(), UNDELIVERED),
        jump(Table::Filter, Hook::Forward, Match::all(), FORWARD),
        jump(Table::Filter, Hook::Output, new(), UNDELIVERED),
        jump(Table::Nat, Hook::Prerouting, Match::all(), SERVICES),
        jump(Table::Nat, Hook::Output, Match::all(), SERVICES),
        jump(Table::Nat, Hook::Postrouting, Match::all(), POSTROUTING),
    ]
}

/// Virtual IPs come before node ports, because a virtual IP may be an address of the node.
fn to_trees(config: &Config, family: Family) -> Vec<Rule> {
    let networks = config.node_port_networks();
    let networks = networks
        .into_iter()
        .filter(|network| Family::of(&network.addr()) == family);
    let to_ports = Target::Jump(Name::of(NODE_PORTS));
    let to_ports = networks.map(|network| {
        Match::all()
            .destination(network)
            .destination_local()
            .then(&to_ports)
    });
    let first = [
        Match::all().then(&Target::Jump(Name::of(VIPS))),
        Match::all()
            .destination(loopback(family))
            .then(&Target::Return),
    ];
    first.into_iter().chain(to_ports).collect()
}

fn outside(config: &Config, family: Family) -> Vec<Rule> {
    let mark = Match::all().then(&Target::SetMark(config.marks.masquerade()));
    if config.masquerade_all {
        return vec![mark];
    }
    let pods = pods(config, family);
    let mark = (!pods.is_empty()).then_some(mark);
    pods.into_iter()
        .map(|pod| pod.then(&Target::Return))
        .chain(mark)
        .collect()
}

/// Clears the mark after use: otherwise the packet of a tunnel that carries this one would be
/// masqueraded, too.
fn postrouting(config: &Config) -> Vec<Rule> {
    let bit = config.marks.masquerade();
    let translated = Match::all().state(CtState::Translated);
    vec![
        translated.then(&Target::Jump(Name::of(HAIRPIN))),
        Match::all().not_marked(bit).then(&Target::Return),
        Match::all().then(&Target::FlipMark(bit)),
        Match::all().then(&Target::Masquerade),
    ]
}

/// Packets that no rule of a Service in table nat has translated. In a Service CIDR, no other
/// program can answer.
fn undelivered(config: &Config, family: Family) -> Vec<Rule> {
    let translated = Match::all()
        .state(CtState::Translated)
        .then(&Target::Return);
    let of_family = |cidrs: &[IpNet]| {
        let cidrs = cidrs
            .iter()
            .filter(move |cidr| Family::of(&cidr.addr()) == family);
        cidrs.map(|cidr| cidr.trunc()).collect::<Vec<_>>()
    };
    let to_others = of_family(&config.exclude_cidrs).into_iter();
    let to_others = to_others.map(|cidr| Match::all().destination(cidr).then(&Target::Return));
    let unused = of_family(&config.service_cidrs)
        .into_iter()
        .flat_map(|cidr| {
            let to = || Match::all().destination(cidr);
            [
                to().icmp(family).then(&Target::Return),
                to().protocol(Protocol::Tcp)
                    .then(&Target::Refuse(Protocol::Tcp, family)),
                to().then(&Target::RefusePort(family)),
            ]
        });
    let mut rules = vec![translated];
    rules.extend(to_trees(config, family));
    // Rules for loopback addresses would have no effect from here on: `to_trees` returns for them.
    rules.extend(to_others.chain(unused));
    rules
}

/// Accepts forwarded packets of Services' connections, even if the policy of the host's FORWARD
/// chain is to drop.
fn forward(config: &Config, family: Family) -> Vec<Rule> {
    // Connection tracking does not translate packets that it considers invalid. A client that gets
    // an answer from the backend's own address resets the connection (kubernetes/kubernetes#74839).
    let invalid = pods(config, family).into_iter();
    let invalid = invalid.map(|pod| pod.state(CtState::Invalid).then(&Target::Drop));
    // Also the first packet of a connection that keeps its source, which kube-proxy's rules leave to
    // those of the network plugin.
    let rest = [
        Match::all()
            .marked(config.marks.masquerade())
            .then(&Target::Accept),
        Match::all()
            .state(CtState::Translated)
            .then(&Target::Accept),
    ];
    invalid.chain(rest).collect()
}

/// Lets load balancers reach the health check node ports, as a host whose policy is to drop would
/// not.
pub(super) fn health_checks(ports: impl Iterator<Item = NonZeroU16>) -> Vec<Rule> {
    let ports: BTreeSet<_> = ports.collect();
    let ports = ports.into_iter();
    let to = ports.map(|port| Match::all().port(Protocol::Tcp, port).then(&Target::Accept));
    to.collect()
}
