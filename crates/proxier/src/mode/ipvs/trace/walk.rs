//! Evaluates chains: the statements of each rule, in order, as the kernel does.

use ipvs::{Family, Protocol};

use super::lookup::Lookup;
use crate::mode::ipvs::rules::{
    Chain, ChainKind, CtState, HookPoint, REFUSED, Rule, Set, Statement, TransportProtocol,
};
use crate::mode::trace::{Origin, Packet, Step};

/// Chains jump to others at most so often; the kernel allows 16.
const DEPTH: usize = 16;

/// A packet on its way, and what happened to it.
pub(super) struct Walker<'a> {
    pub(super) chains: &'a [Chain],
    pub(super) lookup: Lookup<'a>,
    pub(super) is_local: &'a dyn Fn(std::net::IpAddr) -> bool,
    /// As it is now: its destination may have been rewritten.
    pub(super) packet: Packet,
    pub(super) mark: u32,
    pub(super) is_masqueraded: bool,
    /// Whether it leaves through `lo`.
    pub(super) to_loopback: bool,
    /// Whether it arrived on `lo`: it is the node's own and was delivered to the node.
    pub(super) from_loopback: bool,
    pub(super) steps: Vec<Step>,
    pub(super) owner: Option<String>,
}

/// How a packet leaves the chains of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Refuse,
    Drop,
}

/// How a packet leaves a chain.
enum End {
    /// By its last rule, or by `return`.
    Continue,
    Verdict(Verdict),
}

/// What a statement does with a packet.
enum Flow {
    Next,
    NoMatch,
    Return,
    Jump(&'static str),
    Goto(&'static str),
    Verdict(Verdict),
}

impl Walker<'_> {
    /// Passes the chains of a hook whose priority and kind `are_passed`.
    pub(super) fn hook(
        &mut self,
        point: HookPoint,
        are_passed: impl Fn(i32, ChainKind) -> bool,
    ) -> Verdict {
        let chains = self.chains;
        let hooked = chains.iter().filter_map(|chain| Some((chain.hook?, chain)));
        let mut hooked: Vec<_> = hooked
            .filter(|(hook, _)| hook.point == point && are_passed(hook.priority, hook.kind))
            .collect();
        hooked.sort_by_key(|(hook, _)| hook.priority);
        for (hook, chain) in hooked {
            let place = format!("{} ({})", chain.name, hook.priority);
            match self.chain(chain.name, point.name(), &place, DEPTH) {
                End::Continue | End::Verdict(Verdict::Accept) => {}
                End::Verdict(verdict) => return verdict,
            }
        }
        Verdict::Accept
    }

    fn chain(&mut self, name: &str, hook: &'static str, place: &str, depth: usize) -> End {
        let chains = self.chains;
        let chain = chains.iter().find(|chain| chain.name == name);
        let (Some(chain), Some(deeper)) = (chain, depth.checked_sub(1)) else {
            return End::Continue;
        };
        for rule in &chain.rules {
            match self.rule(rule, hook, place) {
                Flow::Next | Flow::NoMatch => {}
                Flow::Return => return End::Continue,
                Flow::Verdict(verdict) => return End::Verdict(verdict),
                Flow::Goto(to) => {
                    let place = below(place, to);
                    return self.chain(to, hook, &place, deeper);
                }
                Flow::Jump(to) => {
                    let place = below(place, to);
                    if let End::Verdict(verdict) = self.chain(to, hook, &place, deeper) {
                        return End::Verdict(verdict);
                    }
                }
            }
        }
        End::Continue
    }

    fn rule(&mut self, rule: &Rule, hook: &'static str, place: &str) -> Flow {
        let mut effects = Vec::new();
        let mut owner = None;
        let mut end = Flow::Next;
        for statement in rule.statements() {
            end = self.statement(statement, &mut effects, &mut owner);
            if !matches!(end, Flow::Next) {
                break;
            }
        }
        if matches!(end, Flow::NoMatch) {
            return end;
        }
        // Rules that only lead to another chain are not worth a line.
        if !effects.is_empty() {
            self.owner = self.owner.take().or(owner);
            self.steps.push(Step {
                hook,
                place: place.to_owned(),
                rule: rule.to_string(),
                effect: effects.join(", "),
            });
        }
        end
    }

    /// Whether a packet matches, or what a statement does with it.
    fn statement(
        &mut self,
        statement: &Statement,
        effects: &mut Vec<String>,
        owner: &mut Option<String>,
    ) -> Flow {
        let matching = |matches| if matches { Flow::Next } else { Flow::NoMatch };
        let packet = &self.packet;
        match statement {
            Statement::Family(family) => matching(packet.family() == *family),
            Statement::State(state) => matching(*state == CtState::New),
            // The first packet of a connection that no other program translates.
            Statement::Reply | Statement::Translated | Statement::From(_) => Flow::NoMatch,
            Statement::UdpChecksum => matching(packet.protocol == Protocol::Udp),
            Statement::Protocol(protocol) => matching(is(*protocol, packet)),
            Statement::NotProtocol(protocol) => matching(!is(*protocol, packet)),
            Statement::SourceNotIn(network) => matching(
                Family::of(&network.addr()) == packet.family() && !network.contains(&packet.source),
            ),
            Statement::DestinationNotIn(network) => matching(
                Family::of(&network.addr()) == packet.family()
                    && !network.contains(&packet.destination),
            ),
            Statement::LocalDestination => matching((self.is_local)(packet.destination)),
            Statement::LocalSource => matching((self.is_local)(packet.source)),
            Statement::In(set) => match self.look_up(*set) {
                Some((comment, _)) => {
                    *owner = owner.take().or(comment);
                    Flow::Next
                }
                None => Flow::NoMatch,
            },
            Statement::NotIn(set) => matching(self.look_up(*set).is_none()),
            Statement::SourceNetworkIn(set, length) => matching(
                set.family() == packet.family() && self.lookup.is_in_range(packet, *length),
            ),
            Statement::NotFromLoopback => matching(!self.from_loopback),
            Statement::ToLoopback => matching(self.to_loopback),
            Statement::NotToLoopback => matching(!self.to_loopback),
            Statement::NotFrom(interfaces) => matching(!packet.is_from(interfaces)),
            Statement::HasMark(bits) => matching(self.mark & bits == *bits),
            Statement::SetMark(bits) => {
                self.mark |= bits;
                effects.push(format!("sets the mark's bits {bits:#x}"));
                Flow::Next
            }
            Statement::ClearMark(bits) => {
                self.mark &= !bits;
                effects.push(format!("clears the mark's bits {bits:#x}"));
                Flow::Next
            }
            Statement::MarkFrom(set) => match self.look_up(*set) {
                Some((comment, Some(mark))) => {
                    self.mark = mark;
                    *owner = owner.take().or(comment);
                    effects.push(format!("sets the mark {mark:#010x}"));
                    Flow::Next
                }
                _ => Flow::NoMatch,
            },
            Statement::AnswerFrom(_) | Statement::AnswerFromPort(_) => Flow::Next,
            Statement::Masquerade => {
                self.is_masqueraded = true;
                effects.push("masquerades: the endpoint sees the node's address".to_owned());
                Flow::Verdict(Verdict::Accept)
            }
            Statement::ResetTcp => {
                effects.push("refuses: TCP reset".to_owned());
                Flow::Verdict(Verdict::Refuse)
            }
            Statement::RejectPort => {
                effects.push("refuses: ICMP port unreachable".to_owned());
                Flow::Verdict(Verdict::Refuse)
            }
            Statement::Drop => {
                effects.push("drops".to_owned());
                Flow::Verdict(Verdict::Drop)
            }
            Statement::Jump(to) => {
                self.owner = self.owner.take().or(owner.take());
                Flow::Jump(to)
            }
            Statement::Goto(to) => {
                // What is refused is decided here, where the Service is known.
                self.owner = self.owner.take().or(owner.take());
                if *to == REFUSED {
                    effects.push("is to be refused".to_owned());
                }
                Flow::Goto(to)
            }
            Statement::Return => Flow::Return,
        }
    }

    fn look_up(&self, set: Set) -> Option<(Option<String>, Option<u32>)> {
        if set.has_address() && set.family() != self.packet.family() {
            return None;
        }
        let found = self.lookup.find(set, &self.packet)?;
        let comment = found.comment.map(|comment| comment.to_string());
        Some((comment, found.mark.map(Into::into)))
    }

    /// Records what is no rule.
    pub(super) fn note(&mut self, hook: &'static str, place: &str, effect: impl Into<String>) {
        self.steps.push(Step {
            hook,
            place: place.to_owned(),
            rule: String::new(),
            effect: effect.into(),
        });
    }

    /// Whether the node sends it.
    pub(super) fn is_own(&self) -> bool {
        self.packet.origin == Origin::Node
    }
}

fn below(place: &str, to: &str) -> String {
    let base = place.split(" > ").next().unwrap_or(place);
    format!("{base} > {to}")
}

fn is(protocol: TransportProtocol, packet: &Packet) -> bool {
    u16::from(protocol.number()) == packet.protocol.number()
}
