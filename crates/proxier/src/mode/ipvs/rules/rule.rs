//! Rules: what a packet must be, and what becomes of it.

use std::fmt;

use ipnet::IpNet;
use ipvs::Family;

use super::Set;
use crate::desired::PodInterfaces;

/// One rule: each statement in turn, until one does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule(pub(super) Vec<Statement>);

/// A part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Statement {
    /// Matches packets of a family.
    Family(Family),
    /// Matches where connection tracking sees a packet.
    State(State),
    /// Matches what answers the first packet of a connection.
    Reply,
    /// Matches a connection whose destination address translation has changed.
    Translated,
    /// Matches a UDP packet that has a checksum; over IPv4 it may have none.
    UdpChecksum,
    /// Matches a transport protocol.
    Protocol(TransportProtocol),
    /// Matches any other transport protocol.
    NotProtocol(TransportProtocol),
    /// Matches a source outside of a network, in packets of its family.
    SourceNotIn(IpNet),
    /// Matches a destination outside of a network, in packets of its family.
    DestinationNotIn(IpNet),
    /// Matches a destination that is one of the node's own addresses, or in a network that is
    /// local to the node as a whole.
    LocalDestination,
    /// Matches a source that is such an address.
    LocalSource,
    /// Matches what is in a set, in packets of its family if it has addresses.
    In(Set),
    /// Matches what is not in a set.
    NotIn(Set),
    /// Matches what comes from a destination in a set: its source is looked up.
    From(Set),
    /// Matches packets that did not come in by `lo`.
    NotFromLoopback,
    /// Matches packets that leave by `lo`.
    ToLoopback,
    /// Matches packets that do not leave by `lo`.
    NotToLoopback,
    /// Matches packets that did not come in by these interfaces, the node's own too.
    NotFrom(PodInterfaces),
    /// Matches a packet all of whose mark bits in this mask are set.
    HasMark(u32),
    /// Sets these bits of the packet's mark.
    SetMark(u32),
    /// Clears these bits of the packet's mark.
    ClearMark(u32),
    /// Makes the mark that a map has for it the packet's. Matches what is in the map.
    MarkFrom(Set),
    /// Makes the address that the connection's first packet was for the source, in packets of this
    /// family.
    AnswerFrom(Family),
    /// Makes the port that the connection's first packet was for the source port, in packets of
    /// this protocol: TCP, or UDP with a checksum.
    AnswerFromPort(TransportProtocol),
    /// Makes the address of the outgoing interface the source, with a port chosen at random: two
    /// connections at one time do not so often want the same.
    Masquerade,
    /// Answers with a TCP reset.
    ResetTcp,
    /// Answers with the ICMP or ICMPv6 error "port unreachable".
    RejectPort,
    /// Gives no answer.
    Drop,
    /// Goes through this chain, and then on.
    Jump(&'static str),
    /// Goes on in this chain, and does not come back.
    Goto(&'static str),
    /// Ends this chain.
    Return,
}

/// What connection tracking knows of a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Nothing: it begins, and there is no answer yet.
    New,
    /// It has been answered.
    Established,
    /// It is part of another: an ICMP error about it, for one.
    Related,
}

/// A transport protocol that a rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
    /// ICMPv6.
    Icmpv6,
}

impl Rule {
    /// Its statements.
    pub fn statements(&self) -> &[Statement] {
        &self.0
    }
}

impl Statement {
    /// The family of the addresses it looks at.
    pub fn family(&self) -> Option<Family> {
        match self {
            Self::SourceNotIn(network) | Self::DestinationNotIn(network) => {
                Some(Family::of(&network.addr()))
            }
            Self::In(set) | Self::NotIn(set) | Self::From(set) | Self::MarkFrom(set) => {
                set.has_address().then(|| set.family())
            }
            Self::AnswerFrom(family) => Some(*family),
            _ => None,
        }
    }
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Related => "related",
        }
    }
}

impl TransportProtocol {
    /// IANA's number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmpv6 => 58,
        }
    }
}

impl fmt::Display for TransportProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmpv6 => "ipv6-icmp",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, statement) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{statement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = |network: &IpNet| match network {
            IpNet::V4(_) => "ip",
            IpNet::V6(_) => "ip6",
        };
        match self {
            Self::Family(family) => write!(f, "meta nfproto {}", family_name(*family)),
            Self::State(state) => write!(f, "ct state {}", state.name()),
            Self::Reply => f.write_str("ct direction reply"),
            Self::Translated => f.write_str("ct status dnat"),
            Self::UdpChecksum => f.write_str("udp checksum != 0"),
            Self::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Self::NotProtocol(protocol) => write!(f, "meta l4proto != {protocol}"),
            Self::SourceNotIn(network) => write!(f, "{} saddr != {}", ip(network), short(network)),
            Self::DestinationNotIn(network) => {
                write!(f, "{} daddr != {}", ip(network), short(network))
            }
            Self::LocalDestination => f.write_str("fib daddr type local"),
            Self::LocalSource => f.write_str("fib saddr type local"),
            Self::In(set) => {
                set.write_key(f)?;
                write!(f, " @{}", set.name())
            }
            Self::From(set) => {
                set.write_key_of_answer(f)?;
                write!(f, " @{}", set.name())
            }
            Self::NotIn(set) => {
                set.write_key(f)?;
                write!(f, " != @{}", set.name())
            }
            Self::NotFromLoopback => f.write_str("iif != \"lo\""),
            Self::ToLoopback => f.write_str("oif \"lo\""),
            Self::NotToLoopback => f.write_str("oif != \"lo\""),
            Self::NotFrom(PodInterfaces::Named(name)) => write!(f, "iifname != \"{name}\""),
            Self::NotFrom(PodInterfaces::Prefixed(name)) => write!(f, "iifname != \"{name}*\""),
            Self::HasMark(mask) => write!(f, "meta mark & {mask:#010x} == {mask:#010x}"),
            Self::SetMark(mask) => write!(f, "meta mark set meta mark | {mask:#010x}"),
            Self::ClearMark(mask) => write!(f, "meta mark set meta mark & {:#010x}", !mask),
            Self::MarkFrom(map) => {
                f.write_str("meta mark set ")?;
                map.write_key(f)?;
                write!(f, " map @{}", map.name())
            }
            Self::AnswerFrom(Family::V4) => f.write_str("ip saddr set ct original ip daddr"),
            Self::AnswerFrom(Family::V6) => f.write_str("ip6 saddr set ct original ip6 daddr"),
            Self::AnswerFromPort(protocol) => {
                write!(f, "{protocol} sport set ct original proto-dst")
            }
            Self::Masquerade => f.write_str("masquerade fully-random"),
            Self::ResetTcp => f.write_str("reject with tcp reset"),
            Self::RejectPort => f.write_str("reject with icmpx port-unreachable"),
            Self::Drop => f.write_str("drop"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Return => f.write_str("return"),
        }
    }
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// A network as nft lists it: a single address without its length.
fn short(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}
