//! Rules: what a packet must be, and what becomes of it.

use std::fmt;

use ipnet::IpNet;
use ipvs::Family;

use super::Set;

/// One rule: each statement in turn, until one does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule(pub(super) Vec<Statement>);

/// A part of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Statement {
    /// Matches the first packets of a connection, until there is an answer.
    New,
    /// Matches a transport protocol.
    Protocol(TransportProtocol),
    /// Matches any other transport protocol.
    NotProtocol(TransportProtocol),
    /// Matches a source outside of a network, in packets of its family.
    SourceNotIn(IpNet),
    /// Matches what is in a set, in packets of its family.
    In(Set),
    /// Matches a packet all of whose mark bits in this mask are set.
    HasMark(u32),
    /// Sets these bits of the packet's mark.
    SetMark(u32),
    /// Clears these bits of the packet's mark.
    ClearMark(u32),
    /// Makes the address of the outgoing interface the source, with a port chosen at random: two
    /// connections at one time do not so often want the same.
    Masquerade,
    /// Answers with a TCP reset.
    ResetTcp,
    /// Answers with the ICMP or ICMPv6 error "port unreachable".
    RejectPort,
    /// Goes on in this chain, and does not come back.
    Goto(&'static str),
    /// Ends this chain.
    Return,
}

/// A transport protocol that a rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportProtocol {
    /// TCP.
    Tcp,
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
    /// The family whose packets alone it can match.
    pub fn family(&self) -> Option<Family> {
        match self {
            Self::SourceNotIn(network) => Some(Family::of(&network.addr())),
            Self::In(set) => Some(set.family()),
            _ => None,
        }
    }
}

impl TransportProtocol {
    /// IANA's number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Icmpv6 => 58,
        }
    }
}

impl fmt::Display for TransportProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
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
        match self {
            Self::New => f.write_str("ct state new"),
            Self::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Self::NotProtocol(protocol) => write!(f, "meta l4proto != {protocol}"),
            Self::SourceNotIn(IpNet::V4(network)) => write!(f, "ip saddr != {network}"),
            Self::SourceNotIn(IpNet::V6(network)) => write!(f, "ip6 saddr != {network}"),
            Self::In(set) => set.fmt(f),
            Self::HasMark(mask) => write!(f, "meta mark & {mask:#010x} == {mask:#010x}"),
            Self::SetMark(mask) => write!(f, "meta mark set meta mark | {mask:#010x}"),
            Self::ClearMark(mask) => write!(f, "meta mark set meta mark & {:#010x}", !mask),
            Self::Masquerade => f.write_str("masquerade fully-random"),
            Self::ResetTcp => f.write_str("reject with tcp reset"),
            Self::RejectPort => f.write_str("reject with icmpx port-unreachable"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Return => f.write_str("return"),
        }
    }
}
