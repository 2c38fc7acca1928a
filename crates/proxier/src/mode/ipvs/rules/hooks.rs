//! The rules of each chain.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use ipvs::Family;

use super::parts::Parts;
use super::pods::{Outside, Pods};
use super::range;
use super::rule::Statement::{
    AnswerFrom, AnswerFromPort, ClearMark, DestinationNotIn, Drop, From, Goto, HasMark, In, Jump,
    LocalDestination, LocalSource, MarkFrom, Masquerade, NotFromLoopback, NotIn, NotProtocol,
    NotToLoopback, Protocol, RejectPort, Reply, ResetTcp, Return, SetMark, SourceNetworkIn,
    ToLoopback, Translated, UdpChecksum,
};
use super::rule::{CtState, Rule, Statement, TransportProtocol};
use super::set::Set;
use crate::desired::Marks;

const NEW: Statement = Statement::State(CtState::New);
/// The chain that rejects everything.
pub(crate) const REFUSED: &str = "refused";
pub(super) const ANSWER: &str = "answer";

/// The names of the chains of one family.
pub(super) struct Names {
    pub(super) capture: &'static str,
    pub(super) restricted: &'static str,
    pub(super) unserved: &'static str,
    pub(super) new_in: &'static str,
    pub(super) virtual_server: &'static str,
    pub(super) node_port: &'static str,
    pub(super) input: &'static str,
    pub(super) new_out: &'static str,
    pub(super) node_port_out: &'static str,
    pub(super) output: &'static str,
    pub(super) admit: &'static str,
    pub(super) admit_node_port: &'static str,
    pub(super) answer_from: &'static str,
}

impl Names {
    pub(super) const fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self {
                capture: "capture-v4",
                restricted: "restricted-v4",
                unserved: "unserved-v4",
                new_in: "new-v4",
                virtual_server: "virtual-server-v4",
                node_port: "node-port-v4",
                input: "input-v4",
                new_out: "new-output-v4",
                node_port_out: "node-port-output-v4",
                output: "output-v4",
                admit: "admit-v4",
                admit_node_port: "admit-node-port-v4",
                answer_from: "answer-from-v4",
            },
            Family::V6 => Self {
                capture: "capture-v6",
                restricted: "restricted-v6",
                unserved: "unserved-v6",
                new_in: "new-v6",
                virtual_server: "virtual-server-v6",
                node_port: "node-port-v6",
                input: "input-v6",
                new_out: "new-output-v6",
                node_port_out: "node-port-output-v6",
                output: "output-v6",
                admit: "admit-v6",
                admit_node_port: "admit-node-port-v6",
                answer_from: "answer-from-v6",
            },
        }
    }
}

fn rule<const N: usize>(statements: [Statement; N]) -> Rule {
    Rule(statements.into())
}

fn both(rules: impl Fn(Family) -> Vec<Rule>) -> Vec<Rule> {
    [rules(Family::V4), rules(Family::V6)].concat()
}

/// Sends each family's packets to a separate chain.
fn by_family(chain: fn(Names) -> &'static str) -> Vec<Rule> {
    both(|family| {
        let to = Goto(chain(Names::of(family)));
        vec![rule([Statement::Family(family), to])]
    })
}

/// A rule for clients from outside, if there can be any: packets that match `when` get `then`. If
/// pods are unknown, all clients except the node itself are outside.
fn outside<const N: usize>(
    pods: &Pods,
    family: Family,
    when: &[Statement],
    then: [Statement; N],
) -> Vec<Rule> {
    let source = match pods.outside(family) {
        Outside::None => return Vec::new(),
        Outside::Unknown => Vec::new(),
        Outside::Matching(source) => source,
    };
    vec![Rule([when, &[NotFromLoopback], &source, &then].concat())]
}

/// Ends a chain for the first packets of a connection.
pub(super) fn new_passes() -> Rule {
    rule([NEW, Return])
}

pub(super) fn refused() -> Vec<Rule> {
    vec![
        rule([Protocol(TransportProtocol::Tcp), ResetTcp]),
        rule([RejectPort]),
    ]
}

/// Incoming packets that no other program has translated, before routing. Answers are never
/// captured: they go to the client.
pub(super) fn capture() -> Vec<Rule> {
    let mut rules = vec![rule([Reply, Return])];
    rules.extend(by_family(|names| names.capture));
    rules
}

/// The mark alone decides whether a captured packet is masqueraded.
pub(super) fn capture_packets(family: Family, marks: Marks) -> Vec<Rule> {
    vec![
        rule([
            NEW,
            NotFromLoopback,
            In(Set::NoEndpoints(family)),
            Goto(Names::of(family).unserved),
        ]),
        rule([MarkFrom(Set::Captured(family))]),
        rule([
            Protocol(icmp(family)),
            Statement::State(CtState::Related),
            In(Set::CapturedAddresses(family)),
            SetMark(marks.own()),
        ]),
    ]
}

/// New packets from other hosts for a Service without endpoints. Clients outside of the source ranges
/// are dropped, as if it had some.
pub(super) fn unserved(family: Family) -> Vec<Rule> {
    vec![check_ranges(family), rule([Goto(REFUSED)])]
}

/// Drops clients outside of the source ranges.
fn check_ranges(family: Family) -> Rule {
    rule([
        In(Set::Restricted(family)),
        Jump(Names::of(family).restricted),
    ])
}

/// Marks what `filter-input` decides on, so that a rule of iptables can let it pass a policy that
/// drops: see [`Passage`](crate::mode::iptables::Passage).
///
/// Most packets are for virtual servers.
pub(super) fn admit(marks: Marks) -> Vec<Rule> {
    let mark = SetMark(marks.own());
    let to_virtual_server = |family| rule([In(Set::VirtualServers(family)), mark.clone(), Return]);
    let mut rules = both(|family| vec![to_virtual_server(family)]);
    rules.extend(by_family(|names| names.admit));
    rules
}

pub(super) fn admit_packets(family: Family, marks: Marks) -> Vec<Rule> {
    let mark = || SetMark(marks.own());
    vec![
        rule([
            In(Set::ServiceCidrs(family)),
            NotProtocol(icmp(family)),
            mark(),
            Return,
        ]),
        rule([Reply, Return]),
        rule([
            In(Set::HealthChecks(family)),
            LocalDestination,
            mark(),
            Return,
        ]),
        rule([
            DestinationNotIn(loopback(family)),
            In(Set::NodePortAddresses(family)),
            LocalDestination,
            Goto(Names::of(family).admit_node_port),
        ]),
    ]
}

/// The number of a virtual server is not set yet: it would stay on packets that `node_port` gives
/// none, and other programs may read its bits.
pub(super) fn admit_node_port(family: Family, marks: Marks) -> Vec<Rule> {
    let ours = marks.own();
    let numbers = [Set::NodePorts(family), Set::ExternalNodePorts(family)];
    let [inside, outside] = numbers.map(|map| rule([MarkFrom(map), ClearMark(!ours)]));
    vec![
        inside,
        outside,
        rule([In(Set::NoEndpointsNodePorts(family)), SetMark(ours)]),
    ]
}

/// While no virtual server has a mark, packets of established connections leave first: all else is
/// for new connections, or for no connection. If the virtual server is gone, TCP resets the
/// connection by itself, and other flows have been deleted.
///
/// Packets have a mark only from `capture` or `admit`.
pub(super) fn filter_input(marks: Marks, parts: Parts) -> Vec<Rule> {
    let own = marks.own();
    let is_marked = parts.capture || parts.admission;
    let clear = is_marked.then_some(ClearMark(own));
    let established = [Statement::State(CtState::Established)].into_iter();
    let established = Rule(established.chain(clear).chain([Return]).collect());
    let delivered = rule([HasMark(own), ClearMark(own)]);
    let established = (!parts.marks).then_some(established);
    let delivered = is_marked.then_some(delivered);
    let rules = established.into_iter().chain(delivered);
    rules.chain(by_family(|names| names.input)).collect()
}

pub(super) fn input(family: Family, parts: Parts) -> Vec<Rule> {
    let names = Names::of(family);
    let to_virtual_server = match parts.marks {
        true => Goto(names.virtual_server),
        false => Return,
    };
    let to_node_port = [
        DestinationNotIn(loopback(family)),
        In(Set::NodePortAddresses(family)),
        LocalDestination,
        Goto(names.node_port),
    ];
    let new = (parts.ranges || parts.refusal).then(|| rule([NEW, Jump(names.new_in)]));
    let others = [
        rule([Reply, Return]),
        rule([In(Set::VirtualServers(family)), to_virtual_server]),
        rule([
            In(Set::ServiceCidrs(family)),
            NotProtocol(icmp(family)),
            Goto(REFUSED),
        ]),
    ];
    let to_node_port = parts.marks.then(|| rule(to_node_port));
    new.into_iter().chain(others).chain(to_node_port).collect()
}

/// The first packets of connections to the node. Each lookup costs every one of them, so it is there
/// only while the set has something in it.
pub(super) fn new_in(family: Family, parts: Parts) -> Vec<Rule> {
    let refusal = [
        rule([In(Set::NoEndpoints(family)), Goto(REFUSED)]),
        rule([In(Set::Dropped(family)), Drop]),
    ];
    let ranges = parts.ranges.then(|| check_ranges(family));
    let refusal = refusal.into_iter().filter(|_| parts.refusal);
    ranges.into_iter().chain(refusal).collect()
}

/// The first packets of connections to an address with source ranges.
pub(super) fn restricted(family: Family) -> Vec<Rule> {
    let networks = range::lengths(family).map(|length| {
        let is_in = SourceNetworkIn(Set::SourceRanges(family), length);
        rule([is_in, Return])
    });
    networks.chain([rule([Drop])]).collect()
}

/// Packets for the address of a virtual server.
pub(super) fn virtual_server(pods: &Pods, family: Family) -> Vec<Rule> {
    let dropped = [In(Set::DroppedExternal(family)), Drop];
    let marked = [MarkFrom(Set::External(family))];
    [
        outside(pods, family, &[NEW], dropped),
        outside(pods, family, &[], marked),
    ]
    .concat()
}

/// Packets for an address that serves node ports.
pub(super) fn node_port(pods: &Pods, family: Family) -> Vec<Rule> {
    let refuse = rule([NEW, In(Set::NoEndpointsNodePorts(family)), Goto(REFUSED)]);
    let dropped = [In(Set::DroppedExternalNodePorts(family)), Drop];
    let marked = rule([MarkFrom(Set::NodePorts(family))]);
    let marked_external = [MarkFrom(Set::ExternalNodePorts(family))];
    [
        vec![refuse],
        outside(pods, family, &[NEW], dropped),
        vec![marked],
        outside(pods, family, &[], marked_external),
    ]
    .concat()
}

/// Packets that IPVS sends: clears their marks except for the masquerade bit. That bit is needed on
/// the first packet of a connection only; on later ones it would stay, also on the packet of a
/// tunnel that carries them.
pub(super) fn after_ipvs(marks: Marks) -> Vec<Rule> {
    let (own, mask) = (HasMark(marks.own()), marks.mask());
    vec![
        rule([
            own.clone(),
            Statement::State(CtState::Established),
            ClearMark(mask | marks.masquerade()),
        ]),
        rule([own, ClearMark(mask)]),
    ]
}

pub(super) fn filter_output() -> Vec<Rule> {
    by_family(|names| names.output)
}

pub(super) fn output(family: Family) -> Vec<Rule> {
    let names = Names::of(family);
    vec![
        rule([NEW, Jump(names.new_out)]),
        rule([
            ToLoopback,
            DestinationNotIn(loopback(family)),
            NotIn(Set::ServiceCidrs(family)),
            In(Set::NodePortAddresses(family)),
            LocalDestination,
            Goto(names.node_port_out),
        ]),
    ]
}

/// Packets of the node that IPVS would handle in the output hook, and packets that leave the node.
/// All others are rejected in the input hook, where the sender gets the same errors as any client:
/// here, send(2) would fail with EPERM, whatever the rule answers.
pub(super) fn new_out(family: Family) -> Vec<Rule> {
    let no_endpoints = In(Set::NoEndpoints(family));
    vec![
        rule([NotToLoopback, no_endpoints.clone(), Goto(REFUSED)]),
        rule([no_endpoints, In(Set::VirtualServers(family)), Goto(REFUSED)]),
        rule([In(Set::Dropped(family)), Drop]),
    ]
}

/// The node's own packets to an address that serves node ports. A virtual server of that address
/// takes precedence, and rejections are left to the input hook. Connections that another program
/// has translated keep their mark: with svcproxy's mark, IPVS would take over a connection whose
/// first packet is sent again.
pub(super) fn node_port_out(family: Family) -> Vec<Rule> {
    vec![
        rule([Translated, Return]),
        rule([In(Set::VirtualServers(family)), Return]),
        rule([NEW, In(Set::NoEndpointsNodePorts(family)), Return]),
        rule([MarkFrom(Set::NodePorts(family))]),
    ]
}

/// Sets the masquerade bit on connections to virtual servers from outside the cluster. Captured
/// packets get another mark later, which decides their masquerade.
pub(super) fn nat_prerouting(pods: &Pods, marks: Marks, all: bool) -> Vec<Rule> {
    both(|family| match pods.outside(family) {
        _ if all => masquerade_from(&[], family, marks),
        Outside::Unknown | Outside::None => Vec::new(),
        Outside::Matching(source) => masquerade_from(&source, family, marks),
    })
}

/// The same for the node's own packets, which arrive on no interface.
pub(super) fn nat_output(pods: &Pods, marks: Marks, all: bool) -> Vec<Rule> {
    both(|family| match (pods, pods.outside(family)) {
        (Pods::Interfaces(_), _) => masquerade_from(&[], family, marks),
        _ if all => masquerade_from(&[], family, marks),
        (_, Outside::Unknown | Outside::None) => Vec::new(),
        (_, Outside::Matching(source)) => masquerade_from(&source, family, marks),
    })
}

fn masquerade_from(source: &[Statement], family: Family, marks: Marks) -> Vec<Rule> {
    let to = [In(Set::VirtualServers(family)), SetMark(marks.masquerade())];
    vec![Rule([source, &to].concat())]
}

pub(super) fn nat_postrouting(marks: Marks) -> Vec<Rule> {
    let bit = marks.masquerade();
    let marked = rule([HasMark(bit), ClearMark(bit), Masquerade]);
    let hairpin = both(|family| vec![rule([In(Set::Hairpin(family)), Masquerade])]);
    [vec![marked], hairpin].concat()
}

/// Answers to the node's own clients. Packets from `lo` have passed `answers-out` already.
pub(super) fn answers_in() -> Vec<Rule> {
    vec![rule([Reply, NotFromLoopback, Goto(ANSWER)])]
}

/// Answers to other clients.
pub(super) fn answers_out() -> Vec<Rule> {
    vec![rule([Reply, Goto(ANSWER)])]
}

/// Answers to which IPVS may have given the address of the wrong virtual server as source.
pub(super) fn answer(parts: Parts) -> Vec<Rule> {
    let from = |family| Goto(Names::of(family).answer_from);
    let of_address = |family| rule([From(Set::VirtualServers(family)), from(family)]);
    let of_node_port = |family| rule([Statement::Family(family), LocalSource, from(family)]);
    let mut rules = both(|family| vec![of_address(family)]);
    if parts.marks {
        rules.extend(both(|family| vec![of_node_port(family)]));
    }
    rules
}

pub(super) fn answer_from(family: Family) -> Vec<Rule> {
    let from = |of, protocol| rule([of, AnswerFrom(family), AnswerFromPort(protocol)]);
    vec![
        from(Protocol(TransportProtocol::Tcp), TransportProtocol::Tcp),
        from(UdpChecksum, TransportProtocol::Udp),
    ]
}

/// ICMP or ICMPv6.
pub(crate) const fn icmp(family: Family) -> TransportProtocol {
    match family {
        Family::V4 => TransportProtocol::Icmp,
        Family::V6 => TransportProtocol::Icmpv6,
    }
}

/// The network of loopback addresses.
pub(crate) const fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
        Family::V6 => IpNet::new_assert(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    }
}
