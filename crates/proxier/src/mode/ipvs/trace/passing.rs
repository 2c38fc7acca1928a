//! A packet on its way, and what statements without a set do with it: the same in all modes whose
//! rules are nftables.

use std::net::IpAddr;

use ipvs::{Family, Protocol};

use crate::mode::ipvs::rules::{CtState, Statement, TransportProtocol};
use crate::mode::trace::{Origin, Packet};

/// Chains jump to others at most so often; the kernel allows 16.
pub(crate) const DEPTH: usize = 16;

/// A packet on its way, and what happened to it.
#[derive(Clone)]
pub(crate) struct Passing<'a> {
    /// As it is now: its destination may have been rewritten.
    pub(crate) packet: Packet,
    pub(crate) mark: u32,
    /// Whether address translation has given it another destination.
    pub(crate) is_translated: bool,
    pub(crate) is_masqueraded: bool,
    /// Whether it leaves through `lo`.
    pub(crate) to_loopback: bool,
    /// Whether it arrived on `lo`: it is the node's own and was delivered to the node.
    pub(crate) from_loopback: bool,
    pub(crate) is_local: &'a dyn Fn(IpAddr) -> bool,
}

/// How a packet leaves the chains of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Refuse,
    Drop,
}

/// How a packet leaves a chain.
pub(crate) enum End {
    /// By its last rule, or by `return`.
    Continue,
    Verdict(Verdict),
}

/// What a statement does with a packet.
pub(crate) enum Flow {
    Next,
    NoMatch,
    Return,
    Jump(&'static str),
    Goto(&'static str),
    Verdict(Verdict),
}

impl<'a> Passing<'a> {
    pub(crate) const fn new(packet: Packet, is_local: &'a dyn Fn(IpAddr) -> bool) -> Self {
        Self {
            packet,
            mark: 0,
            is_translated: false,
            is_masqueraded: false,
            to_loopback: false,
            from_loopback: false,
            is_local,
        }
    }

    /// Whether the node sends it.
    pub(crate) fn is_own(&self) -> bool {
        self.packet.origin == Origin::Node
    }

    /// Whether the packet matches, or what a statement does with it. A statement with a set matches
    /// nothing: its sets are the caller's.
    pub(crate) fn statement(&mut self, statement: &Statement, effects: &mut Vec<String>) -> Flow {
        let matching = |matches| if matches { Flow::Next } else { Flow::NoMatch };
        let packet = &self.packet;
        match statement {
            Statement::Family(family) => matching(packet.family() == *family),
            Statement::State(state) => matching(*state == CtState::New),
            // The first packet of a connection.
            Statement::Reply | Statement::From(_) => Flow::NoMatch,
            Statement::Translated => matching(self.is_translated),
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
            Statement::Jump(to) => Flow::Jump(to),
            Statement::Goto(to) => Flow::Goto(to),
            Statement::Return => Flow::Return,
            Statement::In(_)
            | Statement::NotIn(_)
            | Statement::SourceNetworkIn(..)
            | Statement::MarkFrom(_) => Flow::NoMatch,
        }
    }
}

/// The place of a chain that another one continues in: `nat-output (-100) > output`.
pub(crate) fn below(place: &str, to: &str) -> String {
    let base = place.split(" > ").next().unwrap_or(place);
    format!("{base} > {to}")
}

fn is(protocol: TransportProtocol, packet: &Packet) -> bool {
    u16::from(protocol.number()) == packet.protocol.number()
}
