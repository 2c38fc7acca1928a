//! The rules, as a value. They depend on the settings only.
#![cfg_attr(
    not(feature = "nftables"),
    allow(dead_code, reason = "the encoding for the kernel uses it")
)]

use std::num::NonZeroU32;

use ipnet::IpNet;
use ipvs::Family;

use super::{Choice, Chooser, Set};
use crate::desired::{Config, Marks, PodInterfaces};
use crate::mode::ipvs::plan::Audience;
use crate::mode::ipvs::rules::Statement as Plain;
use crate::mode::ipvs::rules::{
    ChainKind, CtState, Fingerprint, Hook, HookPoint, Outside, Pods, TransportProtocol, icmp,
    loopback, range_lengths,
};

/// One rule. The kernel executes its statements in order, until one does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule(pub(super) Vec<Statement>);

/// A part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// One that has nothing to do with this mode's sets.
    Plain(Plain),
    /// Matches packets whose key is in a set.
    In(Set, To),
    /// Matches packets to a destination that has the source's network of this length in a set.
    SourceNetworkIn(Set, u8),
    /// Matches a source in a network.
    SourceIn(IpNet),
    /// Matches packets that arrived on these interfaces.
    FromInterfaces(PodInterfaces),
    /// Matches a destination in a network.
    DestinationIn(IpNet),
    /// Matches a source that is no address of the node.
    NotLocalSource,
    /// Rejects with the ICMP or ICMPv6 error "port unreachable".
    RejectPort(Family),
    /// Looks a destination up in a map, and keeps the value as the packet's number. Matches packets
    /// whose destination is in the map.
    NumberFrom(Set, To),
    /// Continues in the chain that the packet's number selects.
    ContinueIn(Set),
    /// Draws one of this many numbers.
    Draw(Audience, NonZeroU32),
    /// Takes the lasting number that the packet's number stands for.
    Lasting(To),
    /// Takes the number of the endpoint that the client has. Matches packets of clients that have one.
    NumberOfClient(To),
    /// Forgets the client.
    Forget(To, NonZeroU32),
    /// Remembers the packet's number for the client, for this number of seconds.
    Remember(To, NonZeroU32),
    /// Translates the destination to the endpoint with the packet's number, if there is one.
    ToNumber(To),
    /// Clears the packet's number.
    ForgetNumber,
}

/// What stands for the destination address in a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The packet's destination.
    Address,
    /// The unspecified address: a node port.
    NodePort,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

/// The rules of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    pods: Pods,
    masquerade_all: bool,
    marks: Marks,
    excluded: Vec<IpNet>,
}

/// NF_IP_PRI_NAT_DST.
const DESTINATION_NAT: i32 = -100;
/// NF_IP_PRI_NAT_SRC.
const SOURCE_NAT: i32 = 100;
/// Before NF_IP_PRI_FILTER, 0, where iptables filters.
const ADMIT: i32 = -10;
/// After the host's firewall, which decides first.
const FILTER: i32 = 20;

const REFUSED: &str = "refused";
const RESTRICTED: &str = "restricted-sources";
const OUTPUT: &str = "output";
const INSIDE: &str = "inside";
const NODE_PORTS: &str = "node-ports";
const NODE_PORTS_INSIDE: &str = "node-ports-inside";
const UNDELIVERED: &str = "undelivered";
const UNDELIVERED_PORTS: &str = "undelivered-node-ports";

const NEW: Statement = Statement::Plain(Plain::State(CtState::New));

fn rule<const N: usize>(statements: [Statement; N]) -> Rule {
    Rule(statements.into())
}

const fn goto(chain: &'static str) -> Statement {
    Statement::Plain(Plain::Goto(chain))
}

const DROP: Statement = Statement::Plain(Plain::Drop);
const RETURN: Statement = Statement::Plain(Plain::Return);
const LOCAL: Statement = Statement::Plain(Plain::LocalDestination);

impl Ruleset {
    /// The rules for these settings.
    pub fn new(config: &Config) -> Self {
        let mut excluded: Vec<_> = config.exclude_cidrs.iter().map(IpNet::trunc).collect();
        excluded.sort_unstable();
        excluded.dedup();
        Self {
            pods: Pods::of(config),
            masquerade_all: config.masquerade_all,
            marks: config.marks,
            excluded,
        }
    }

    /// Identifies the rules of both tables.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.to_string())
    }

    /// The chains of a family's table. Each comes before those that jump to it.
    pub(super) fn chains(&self, family: Family) -> Vec<Chain> {
        use ChainKind::{Filter, Nat};
        use HookPoint::{Forward, Input, Output, Postrouting, Prerouting};
        let chain = |name: &str, rules| Chain {
            name: name.to_owned(),
            hook: None,
            rules,
        };
        let base = |name: &str, (kind, point, priority), rules| Chain {
            hook: Some(Hook {
                kind,
                point,
                priority,
            }),
            ..chain(name, rules)
        };
        let undelivered = || vec![rule([NEW, goto(UNDELIVERED)])];
        let own = self.marks.own();
        let admitted = rule([Plain::HasMark(own).into(), Plain::ClearMark(own).into()]);
        vec![
            chain(REFUSED, refused(family)),
            chain(RESTRICTED, restricted(family)),
            chain(NODE_PORTS_INSIDE, self.node_ports_inside()),
            chain(NODE_PORTS, self.node_ports(family)),
            chain(INSIDE, self.inside(family, NODE_PORTS)),
            chain(OUTPUT, self.output(family)),
            chain(UNDELIVERED_PORTS, undelivered_to(To::NodePort)),
            chain(UNDELIVERED, self.undelivered(family)),
            base(
                "nat-prerouting",
                (Nat, Prerouting, DESTINATION_NAT),
                self.prerouting(family),
            ),
            base(
                "nat-output",
                (Nat, Output, DESTINATION_NAT),
                vec![rule([goto(OUTPUT)])],
            ),
            base(
                "nat-postrouting",
                (Nat, Postrouting, SOURCE_NAT),
                self.postrouting(),
            ),
            base("admit", (Filter, Input, ADMIT), self.admit()),
            base(
                "filter-input",
                (Filter, Input, FILTER),
                [vec![admitted], undelivered()].concat(),
            ),
            base(
                "filter-forward",
                (Filter, Forward, FILTER),
                [self.invalid(family), undelivered()].concat(),
            ),
            base("filter-output", (Filter, Output, FILTER), undelivered()),
        ]
    }

    /// A rule for clients from outside the cluster, if there can be any. If pods are unknown, all
    /// clients except the node itself are outside.
    fn outside<const N: usize>(&self, family: Family, then: [Statement; N]) -> Vec<Rule> {
        let source = match self.pods.outside(family) {
            Outside::None => return Vec::new(),
            Outside::Unknown => Vec::new(),
            Outside::Matching(source) => source,
        };
        let source = source.into_iter().map(Statement::Plain);
        let from = [Statement::Plain(Plain::NotFromLoopback)].into_iter();
        vec![Rule(from.chain(source).chain(then).collect())]
    }

    /// The first packets of connections that arrive at the node.
    fn prerouting(&self, family: Family) -> Vec<Rule> {
        let restricted = rule([
            Statement::In(Set::Restricted, To::Address),
            Statement::Plain(Plain::Jump(RESTRICTED)),
        ]);
        let mut rules = vec![restricted];
        rules.extend(self.external(family, To::Address));
        rules.push(rule([goto(INSIDE)]));
        rules
    }

    /// Clients outside the cluster, at destinations that have other endpoints for them.
    fn external(&self, family: Family, to: To) -> Vec<Rule> {
        let chains = match to {
            To::Address => Set::ExternalChoices,
            To::NodePort => Set::ExternalPortChoices,
        };
        let dropped = [Statement::In(Set::DroppedExternal, to), DROP];
        [
            self.outside(family, choose(Set::External, to, chains)),
            self.outside(family, dropped),
        ]
        .concat()
    }

    /// All other packets that arrive at the node.
    fn inside(&self, family: Family, node_ports: &'static str) -> Vec<Rule> {
        let source = match self.pods.outside(family) {
            _ if self.masquerade_all => Some(Vec::new()),
            Outside::Unknown | Outside::None => None,
            Outside::Matching(source) => Some(source),
        };
        self.to_services(family, source, node_ports)
    }

    /// Packets of the node itself. They arrive on no interface, and no pod may know the way to
    /// their source.
    fn output(&self, family: Family) -> Vec<Rule> {
        let source = match (&self.pods, self.pods.outside(family)) {
            (Pods::Interfaces(_), _) => Some(Vec::new()),
            _ if self.masquerade_all => Some(Vec::new()),
            (_, Outside::Unknown | Outside::None) => None,
            (_, Outside::Matching(source)) => Some(source),
        };
        self.to_services(family, source, NODE_PORTS_INSIDE)
    }

    /// `masqueraded` matches clients whose connections are masqueraded at any destination.
    fn to_services(
        &self,
        family: Family,
        masqueraded: Option<Vec<Plain>>,
        node_ports: &'static str,
    ) -> Vec<Rule> {
        let mark = || Statement::Plain(Plain::SetMark(self.marks.masquerade()));
        let mut rules = vec![rule([Statement::In(Set::Masqueraded, To::Address), mark()])];
        rules.extend(masqueraded.map(|source| {
            let source = source.into_iter().map(Statement::Plain);
            let to = [Statement::NumberFrom(Set::Services, To::Address), mark()];
            Rule(source.chain(to).collect())
        }));
        rules.push(rule(choose(Set::Services, To::Address, Set::Choices)));
        rules.push(rule([
            Plain::DestinationNotIn(loopback(family)).into(),
            Statement::In(Set::NodePortAddresses, To::Address),
            LOCAL,
            goto(node_ports),
        ]));
        rules
    }

    fn node_ports(&self, family: Family) -> Vec<Rule> {
        let mut rules = self.external(family, To::NodePort);
        rules.push(rule([goto(NODE_PORTS_INSIDE)]));
        rules
    }

    /// Masqueraded for every client, because the answer must come back through this node.
    fn node_ports_inside(&self) -> Vec<Rule> {
        let mark = Plain::SetMark(self.marks.masquerade());
        vec![
            rule([
                Statement::NumberFrom(Set::Services, To::NodePort),
                mark.into(),
            ]),
            rule(choose(Set::Services, To::NodePort, Set::PortChoices)),
        ]
    }

    /// Clears the mark after use: otherwise the packet of a tunnel that carries this one would be
    /// masqueraded, too.
    fn postrouting(&self) -> Vec<Rule> {
        let bit = self.marks.masquerade();
        let [has, clear] = [Plain::HasMark(bit), Plain::ClearMark(bit)].map(Statement::Plain);
        vec![
            rule([Plain::Translated.into(), Statement::ForgetNumber]),
            rule([has, clear, Plain::Masquerade.into()]),
            rule([
                Plain::Translated.into(),
                Statement::In(Set::Hairpin, To::Address),
                Plain::Masquerade.into(),
            ]),
        ]
    }

    /// Marks health checks, so that a rule of iptables can let them pass a policy that drops: see
    /// [`Passage`](crate::mode::iptables::Passage).
    fn admit(&self) -> Vec<Rule> {
        vec![rule([
            Statement::In(Set::HealthChecks, To::Address),
            LOCAL,
            Plain::SetMark(self.marks.own()).into(),
        ])]
    }

    /// Connection tracking does not translate packets that it considers invalid. A client that gets
    /// an answer from the endpoint's own address resets the connection
    /// (kubernetes/kubernetes#74839).
    fn invalid(&self, family: Family) -> Vec<Rule> {
        let invalid = || Plain::State(CtState::Invalid).into();
        match &self.pods {
            Pods::Networks(networks) => {
                let networks = networks.iter();
                let own = networks.filter(|network| Family::of(&network.addr()) == family);
                own.map(|network| rule([invalid(), Statement::SourceIn(*network), DROP]))
                    .collect()
            }
            Pods::Interfaces(interfaces) => {
                vec![rule([
                    invalid(),
                    Statement::FromInterfaces(interfaces.clone()),
                    DROP,
                ])]
            }
        }
    }

    /// Packets that nothing has translated. In a Service CIDR, no other program can answer.
    fn undelivered(&self, family: Family) -> Vec<Rule> {
        let mut rules = vec![rule([Plain::Translated.into(), RETURN])];
        rules.extend(undelivered_to(To::Address));
        rules.push(rule([
            Plain::DestinationNotIn(loopback(family)).into(),
            Statement::In(Set::NodePortAddresses, To::Address),
            LOCAL,
            goto(UNDELIVERED_PORTS),
        ]));
        let excluded = self.excluded.iter();
        let excluded = excluded.filter(|network| Family::of(&network.addr()) == family);
        rules.extend(excluded.map(|network| rule([Statement::DestinationIn(*network), RETURN])));
        rules.push(rule([
            Statement::In(Set::ServiceCidrs, To::Address),
            Plain::NotProtocol(icmp(family)).into(),
            goto(REFUSED),
        ]));
        rules
    }
}

/// Continues in the chain that chooses an endpoint of the destination, if it is in a map.
const fn choose(services: Set, to: To, chains: Set) -> [Statement; 2] {
    [
        Statement::NumberFrom(services, to),
        Statement::ContinueIn(chains),
    ]
}

/// A destination that was not translated although it has endpoints is dropped: an element of it is
/// just being replaced, and the client tries again.
fn undelivered_to(to: To) -> Vec<Rule> {
    vec![
        rule([Statement::In(Set::NoEndpoints, to), goto(REFUSED)]),
        rule([Statement::In(Set::Dropped, to), DROP]),
        rule([Statement::NumberFrom(Set::Services, to), DROP]),
    ]
}

/// Clients of a destination with source ranges.
fn restricted(family: Family) -> Vec<Rule> {
    let networks = range_lengths(family).map(|length| {
        rule([
            Statement::SourceNetworkIn(Set::SourceRanges, length),
            RETURN,
        ])
    });
    let others = rule([Statement::NotLocalSource, DROP]);
    networks.chain([others]).collect()
}

fn refused(family: Family) -> Vec<Rule> {
    let tcp = Plain::Protocol(TransportProtocol::Tcp);
    vec![
        rule([tcp.into(), Plain::ResetTcp.into()]),
        rule([Statement::RejectPort(family)]),
    ]
}

impl Chooser {
    /// Its chain.
    pub(super) fn chain(self) -> Chain {
        let to = match self.is_node_port {
            true => To::NodePort,
            false => To::Address,
        };
        let Choice { count, affinity } = self.choice;
        let mut rules = Vec::new();
        if let Some(seconds) = affinity {
            let remember = || Statement::Remember(to, seconds);
            rules.push(rule([
                Statement::NumberOfClient(to),
                remember(),
                Statement::ToNumber(to),
            ]));
            // The kernel does not change the number of a known client, so it is forgotten first.
            rules.push(rule([
                Statement::Draw(self.audience, count),
                Statement::Lasting(to),
                Statement::Forget(to, seconds),
                remember(),
                Statement::ToNumber(to),
            ]));
        }
        // Also if no more clients can be remembered.
        let draw = [Statement::Draw(self.audience, count)].into_iter();
        let lasting = affinity.map(|_| Statement::Lasting(to));
        rules.push(Rule(
            draw.chain(lasting)
                .chain([Statement::ToNumber(to)])
                .collect(),
        ));
        Chain {
            name: self.name(),
            hook: None,
            rules,
        }
    }
}

impl From<Plain> for Statement {
    fn from(plain: Plain) -> Self {
        Self::Plain(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::Text;
    use super::*;

    fn config(cidrs: &[&str]) -> Config {
        let mut config = Config::new("n", vec![]);
        config.cluster_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        config
    }

    #[test]
    fn rules_of_both_families() {
        let mut config = config(&["10.244.0.0/16", "fd00:10:244::/56"]);
        config.exclude_cidrs = vec!["10.96.7.0/24".parse().unwrap()];
        insta::assert_snapshot!(Ruleset::new(&config));
    }

    #[test]
    fn chains_that_choose() {
        let chooser = |is_node_port, audience, seconds| {
            let choice = Choice {
                count: NonZeroU32::new(3).unwrap(),
                affinity: NonZeroU32::new(seconds),
            };
            Chooser {
                family: Family::V4,
                is_node_port,
                audience,
                choice,
            }
            .chain()
        };
        let chains = [
            chooser(false, Audience::All, 0),
            chooser(false, Audience::External, 10),
            chooser(true, Audience::All, 10),
            chooser(true, Audience::External, 0),
        ];
        insta::assert_snapshot!(Text(Family::V4, &chains));
    }

    #[test]
    fn settings_change_the_rules() {
        let plain = Ruleset::new(&config(&["10.244.0.0/16"])).fingerprint();
        let others: [fn(&mut Config); 4] = [
            |config| config.cluster_cidrs.clear(),
            |config| config.masquerade_all = true,
            |config| config.exclude_cidrs = vec!["10.96.7.0/24".parse().unwrap()],
            |config| {
                let name = "cni0".parse().unwrap();
                config.pod_interfaces = Some(PodInterfaces::Named(name));
            },
        ];
        for change in others {
            let mut config = config(&["10.244.0.0/16"]);
            change(&mut config);
            assert_ne!(Ruleset::new(&config).fingerprint(), plain);
        }
    }
}
