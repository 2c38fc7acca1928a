//! The way of a connection's first packet in nftables mode: evaluates the [`Ruleset`] that is installed
//! over the elements of a [`NodeState`], hook by hook.
//!
//! Chance decides between the endpoints of a Service, so the packet's number is a list here: all that
//! it may be. The evaluation knows svcproxy's rules only ([`host`](crate::host) judges what other
//! programs do).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::element::EXTERNAL;
use super::rules::{Chain, Rule, Statement, To};
use super::{Choice, Chooser, Element, NodeState, Ruleset, Set, Target};
use crate::desired::FrontendKey;
use crate::mode::ipvs::plan::{Audience, Comment};
use crate::mode::ipvs::rules::{ChainKind, HookPoint, REFUSED, Statement as Plain};
use crate::mode::ipvs::trace::passing::{DEPTH, End, Flow, Passing, Verdict, below};
use crate::mode::trace::{Answer, Outcome, Packet, Step, Surroundings, Trace};

/// Follows the first packet of a connection through the hooks of a node; without a ruleset, on a
/// node whose rules are gone. The client is one that session affinity does not know yet.
///
/// ```
/// use proxier::desired::{Config, DesiredState};
/// use proxier::mode::ipvs::plan::Scope;
/// use proxier::mode::nftables::{NodeState, Plan, Ruleset, trace};
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
/// let ruleset = Ruleset::new(desired.config());
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
    let family = packet.family();
    let chains = ruleset.map(|ruleset| ruleset.chains(family));
    let chains = chains.unwrap_or_default();
    let is_local = |address: IpAddr| around.owns(address);
    let mut walker = Walker {
        chains: &chains,
        node,
        passing: Passing::new(packet.clone(), &is_local),
        numbers: Vec::new(),
        targets: BTreeMap::new(),
        steps: Vec::new(),
        owner: None,
    };
    let outcome = outcome(&mut walker);
    Trace {
        steps: walker.steps,
        outcome,
        owner: walker.owner,
    }
}

fn outcome(walker: &mut Walker<'_>) -> Outcome {
    let is_own = walker.passing.is_own();
    let first = match is_own {
        true => HookPoint::Output,
        false => HookPoint::Prerouting,
    };
    let verdict = walker.hook(first, ChainKind::Nat);
    if let Some(ended) = ended(verdict) {
        return ended;
    }
    if !walker.targets.is_empty() {
        return served(walker, is_own);
    }
    let is_local = (walker.passing.is_local)(walker.passing.packet.destination);
    // The node's own packets pass output, and come back by input if the node has the address.
    let hooks = match (is_own, is_local) {
        (true, true) => &[HookPoint::Output, HookPoint::Input][..],
        (true, false) => &[HookPoint::Output],
        (false, true) => &[HookPoint::Input],
        (false, false) => &[HookPoint::Forward],
    };
    for hook in hooks {
        walker.passing.from_loopback = is_own && *hook == HookPoint::Input;
        if let Some(ended) = ended(walker.hook(*hook, ChainKind::Filter)) {
            return ended;
        }
    }
    match is_local {
        true => Outcome::Delivered,
        false => Outcome::Leaves,
    }
}

/// The rest of the way to each endpoint. Only the way to the first one is recorded: the others differ
/// in masquerading at most.
fn served(walker: &mut Walker<'_>, is_own: bool) -> Outcome {
    let targets = std::mem::take(&mut walker.targets);
    let before = walker.passing.clone();
    let mut answers = Vec::new();
    for (to, weight) in targets {
        let steps = walker.steps.len();
        walker.passing = before.clone();
        walker.passing.is_translated = true;
        walker.passing.packet.destination = to.address;
        walker.passing.packet.port = to.port;
        // An endpoint in the node's own network is delivered to, and postrouting sees only what
        // leaves.
        let is_local = (walker.passing.is_local)(to.address);
        let filter = match (is_own, is_local) {
            (true, _) => HookPoint::Output,
            (false, true) => HookPoint::Input,
            (false, false) => HookPoint::Forward,
        };
        walker.hook(filter, ChainKind::Filter);
        if is_own || !is_local {
            walker.hook(HookPoint::Postrouting, ChainKind::Nat);
        }
        if !answers.is_empty() {
            walker.steps.truncate(steps);
        }
        let endpoint = SocketAddr::new(to.address, to.port.get());
        answers.push(Answer::new(endpoint, weight, walker.passing.is_masqueraded));
    }
    Outcome::Served(answers)
}

const fn ended(verdict: Verdict) -> Option<Outcome> {
    match verdict {
        Verdict::Accept => None,
        Verdict::Refuse => Some(Outcome::Refused),
        Verdict::Drop => Some(Outcome::Dropped),
    }
}

/// A packet on its way through the chains.
struct Walker<'a> {
    chains: &'a [Chain],
    node: &'a NodeState,
    passing: Passing<'a>,
    /// All that the packet's number may be.
    numbers: Vec<u32>,
    /// Where the packet may go, and by how many numbers.
    targets: BTreeMap<Target, u32>,
    steps: Vec<Step>,
    owner: Option<String>,
}

/// Where a rule leads that does not end.
enum Next {
    Plain(Flow),
    Chosen(Chooser),
}

impl Walker<'_> {
    /// Passes the chains of a hook.
    fn hook(&mut self, point: HookPoint, kind: ChainKind) -> Verdict {
        let chains = self.chains;
        let hooked = chains.iter().filter_map(|chain| Some((chain.hook?, chain)));
        let mut hooked: Vec<_> = hooked
            .filter(|(hook, _)| hook.point == point && hook.kind == kind)
            .collect();
        hooked.sort_by_key(|(hook, _)| hook.priority);
        for (hook, chain) in hooked {
            let place = format!("{} ({})", chain.name, hook.priority);
            match self.chain(chain, point.name(), &place, DEPTH) {
                End::Continue | End::Verdict(Verdict::Accept) => {}
                End::Verdict(verdict) => return verdict,
            }
        }
        Verdict::Accept
    }

    fn chain(&mut self, chain: &Chain, hook: &'static str, place: &str, depth: usize) -> End {
        let Some(deeper) = depth.checked_sub(1) else {
            return End::Continue;
        };
        for rule in &chain.rules {
            let end = match self.rule(rule, hook, place) {
                Next::Plain(Flow::Next | Flow::NoMatch) => continue,
                Next::Plain(Flow::Return) => End::Continue,
                Next::Plain(Flow::Verdict(verdict)) => End::Verdict(verdict),
                Next::Plain(Flow::Goto(to)) => self.other(to, hook, place, deeper),
                Next::Plain(Flow::Jump(to)) => match self.other(to, hook, place, deeper) {
                    End::Continue => continue,
                    end => end,
                },
                Next::Chosen(chooser) => {
                    let place = below(place, &chooser.name());
                    self.chain(&chooser.chain(), hook, &place, deeper)
                }
            };
            return end;
        }
        End::Continue
    }

    fn other(&mut self, name: &str, hook: &'static str, place: &str, depth: usize) -> End {
        let chains = self.chains;
        match chains.iter().find(|chain| chain.name == name) {
            Some(chain) => self.chain(chain, hook, &below(place, name), depth),
            None => End::Continue,
        }
    }

    fn rule(&mut self, rule: &Rule, hook: &'static str, place: &str) -> Next {
        let mut effects = Vec::new();
        let mut owner = None;
        let mut end = Next::Plain(Flow::Next);
        for statement in &rule.0 {
            end = self.statement(statement, &mut effects, &mut owner);
            if !matches!(end, Next::Plain(Flow::Next)) {
                break;
            }
        }
        if matches!(end, Next::Plain(Flow::NoMatch)) {
            return end;
        }
        // Rules that only lead to another chain are not worth a line.
        if !effects.is_empty() {
            self.owner = self.owner.take().or(owner);
            self.steps.push(Step {
                hook,
                place: place.to_owned(),
                rule: rule.text(self.passing.packet.family()),
                effect: effects.join(", "),
            });
        }
        end
    }

    /// Whether the packet matches, or what a statement does with it.
    fn statement(
        &mut self,
        statement: &Statement,
        effects: &mut Vec<String>,
        owner: &mut Option<String>,
    ) -> Next {
        let matching = |matches| Next::Plain(if matches { Flow::Next } else { Flow::NoMatch });
        let packet = &self.passing.packet;
        match statement {
            Statement::Plain(plain) => {
                if *plain == Plain::Goto(REFUSED) {
                    // What is refused is decided here, where the Service is known.
                    self.owner = self.owner.take().or(owner.take());
                    effects.push("is to be refused".to_owned());
                }
                Next::Plain(self.passing.statement(plain, effects))
            }
            Statement::In(set, to) => match self.find(*set, *to) {
                Some(comment) => {
                    *owner = owner.take().or_else(|| text(&comment));
                    matching(true)
                }
                None => matching(false),
            },
            Statement::SourceNetworkIn(_, length) => {
                let network = IpNet::new(packet.source, *length).map(|network| network.trunc());
                let element = network.map(|network| Element::SourceRange(packet.key(), network));
                matching(element.is_ok_and(|element| self.node.elements.contains(&element)))
            }
            Statement::SourceIn(network) => matching(network.contains(&packet.source)),
            Statement::FromInterfaces(interfaces) => matching(packet.is_from(interfaces)),
            Statement::DestinationIn(network) => matching(network.contains(&packet.destination)),
            Statement::NotLocalSource => matching(!(self.passing.is_local)(packet.source)),
            Statement::RejectPort(_) => {
                Next::Plain(self.passing.statement(&Plain::RejectPort, effects))
            }
            Statement::NumberFrom(set, to) => {
                let audience = match set {
                    Set::External => Audience::External,
                    _ => Audience::All,
                };
                let Some((choice, comment)) = self.choice(audience, *to) else {
                    return matching(false);
                };
                // The rule may only lead to the chain that chooses, which knows no Service.
                self.owner = self.owner.take().or_else(|| text(&comment));
                self.numbers = vec![choice.number()];
                matching(true)
            }
            Statement::ContinueIn(chains) => match self.chooser(*chains) {
                Some(chooser) => Next::Chosen(chooser),
                None => matching(false),
            },
            Statement::Draw(audience, count) => {
                self.numbers = (offset(*audience)..).take(size(count.get())).collect();
                effects.push(format!("draws one of {count} numbers"));
                matching(true)
            }
            Statement::Lasting(to) => {
                let lasting = self.lasting(self.key(*to));
                let drawn = self.numbers.iter();
                self.numbers = drawn.filter_map(|n| lasting.get(n)).copied().collect();
                matching(!self.numbers.is_empty())
            }
            // A new client has no number yet, and there is nothing to forget.
            Statement::NumberOfClient(_) => matching(false),
            Statement::Forget(..) => matching(true),
            Statement::Remember(_, seconds) => {
                effects.push(format!("the client keeps its endpoint {seconds} s"));
                matching(true)
            }
            Statement::ToNumber(to) => {
                let endpoints = self.endpoints(self.key(*to));
                let mut targets = BTreeMap::new();
                for to in self.numbers.iter().filter_map(|n| endpoints.get(n)) {
                    *targets.entry(*to).or_default() += 1;
                }
                if targets.is_empty() {
                    return matching(false);
                }
                effects.push(match targets.len() {
                    1 => "sends to its only endpoint".to_owned(),
                    many => format!("sends to one of {many} endpoints"),
                });
                self.targets = targets;
                Next::Plain(Flow::Verdict(Verdict::Accept))
            }
            Statement::ForgetNumber => matching(true),
        }
    }

    /// The destination that stands in a key.
    fn key(&self, to: To) -> FrontendKey {
        match to {
            To::Address => self.passing.packet.key(),
            To::NodePort => self.passing.packet.node_port(),
        }
    }

    /// The comment of the element of a set that the packet matches.
    fn find(&self, set: Set, to: To) -> Option<Comment> {
        let packet = &self.passing.packet;
        let (key, family) = (self.key(to), packet.family());
        let in_network = |of: fn(&Element) -> Option<IpNet>| {
            let mut networks = self.node.elements.others().filter_map(of);
            networks.any(|network| network.contains(&packet.destination))
        };
        let is_there = match set {
            Set::Restricted => return self.comment(&Element::Restricted(key)),
            Set::Masqueraded => return self.comment(&Element::Masqueraded(key)),
            Set::NoEndpoints => return self.comment(&Element::NoEndpoints(key)),
            Set::Dropped => return self.comment(&Element::Dropped(key, Audience::All)),
            Set::DroppedExternal => {
                return self.comment(&Element::Dropped(key, Audience::External));
            }
            Set::Hairpin => {
                let hairpin = Element::Hairpin(packet.source);
                packet.source == packet.destination && self.node.elements.contains(&hairpin)
            }
            Set::ServiceCidrs => in_network(|element| match element {
                Element::ServiceCidr(network) => Some(*network),
                _ => None,
            }),
            Set::NodePortAddresses => in_network(|element| match element {
                Element::NodePortAddresses(network) => Some(*network),
                _ => None,
            }),
            Set::HealthChecks => {
                let element = Element::HealthCheck(family, packet.port);
                packet.protocol == ipvs::Protocol::Tcp && self.node.elements.contains(&element)
            }
            // Maps, which other statements look up.
            _ => false,
        };
        is_there.then_some(None)
    }

    fn comment(&self, of: &Element) -> Option<Comment> {
        let key = of.frontend()?;
        let mut elements = self.node.elements.of(&key);
        elements.find_map(|(element, comment)| (element == of).then(|| comment.clone()))
    }

    /// The elements of a destination for clients of an audience.
    fn choice(&self, of: Audience, to: To) -> Option<(Choice, Comment)> {
        let key = self.key(to);
        let mut elements = self.node.elements.of(&key);
        elements.find_map(|(element, comment)| match element {
            Element::Service {
                audience, choice, ..
            } if *audience == of => Some((*choice, comment.clone())),
            _ => None,
        })
    }

    /// The chain that the packet's number selects, if the node has it.
    fn chooser(&self, chains: Set) -> Option<Chooser> {
        let choice = Choice::from_number(*self.numbers.first()?)?;
        let mut choosers = self.node.choosers.iter();
        let family = self.passing.packet.family();
        choosers
            .find(|chooser| {
                (chooser.family, chooser.set(), chooser.choice) == (family, chains, choice)
            })
            .copied()
    }

    /// The lasting numbers of a destination, by the numbers that are drawn.
    fn lasting(&self, of: FrontendKey) -> BTreeMap<u32, u32> {
        let elements = self.node.elements.of(&of);
        let lasting = elements.filter_map(|(element, _)| match element {
            Element::Number {
                audience,
                number,
                lasting,
                ..
            } => Some((number | offset(*audience), lasting | offset(*audience))),
            _ => None,
        });
        lasting.collect()
    }

    /// The endpoints of a destination by number.
    fn endpoints(&self, of: FrontendKey) -> BTreeMap<u32, Target> {
        let elements = self.node.elements.of(&of);
        let endpoints = elements.filter_map(|(element, _)| match element {
            Element::Endpoint {
                audience,
                number,
                to,
                ..
            } => Some((number | offset(*audience), *to)),
            _ => None,
        });
        endpoints.collect()
    }
}

/// What the numbers of an audience have besides in the kernel's maps.
const fn offset(audience: Audience) -> u32 {
    match audience {
        Audience::All => 0,
        Audience::External => EXTERNAL,
    }
}

fn text(comment: &Comment) -> Option<String> {
    comment.as_ref().map(ToString::to_string)
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
