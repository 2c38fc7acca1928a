//! Rules: matches and verdicts. Chains: lists of rules, at a hook or as jump targets.
#![cfg_attr(
    not(feature = "ipvs"),
    allow(dead_code, reason = "the encoding for the kernel uses it")
)]

use std::fmt;

use ipnet::IpNet;
use ipvs::Family;

use super::Set;
use crate::desired::PodInterfaces;

/// One rule. The kernel executes its statements in order, until one does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule(pub(super) Vec<Statement>);

/// A part of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum Statement {
    /// Matches packets of a family.
    Family(Family),
    /// Matches the state of the packet's connection.
    State(CtState),
    /// Matches packets in the reply direction.
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
    /// Matches a destination that is an address of the node, or in a network with a `local` route.
    LocalDestination,
    /// Matches such a source.
    LocalSource,
    /// Matches packets whose key is in a set; if the set has addresses, packets of its family only.
    In(Set),
    /// Matches packets whose key is not in a set.
    NotIn(Set),
    /// Matches packets the network of whose source, of this length, is in a set of source ranges.
    SourceNetworkIn(Set, u8),
    /// Matches answers from a destination in a set: looks up the source.
    From(Set),
    /// Matches packets that did not arrive on `lo`.
    NotFromLoopback,
    /// Matches packets that leave through `lo`.
    ToLoopback,
    /// Matches packets that do not leave through `lo`.
    NotToLoopback,
    /// Matches packets that did not arrive on these interfaces, including the node's own packets.
    NotFrom(PodInterfaces),
    /// Matches packets with all mark bits of this mask set.
    HasMark(u32),
    /// Sets these bits of the packet's mark.
    SetMark(u32),
    /// Clears these bits of the packet's mark.
    ClearMark(u32),
    /// Sets the packet's mark from a map. Matches packets whose key is in the map.
    MarkFrom(Set),
    /// Sets the source address to the original destination of the connection, in packets of this
    /// family.
    AnswerFrom(Family),
    /// Sets the source port to the original destination port of the connection. Earlier statements
    /// must match packets of this protocol: TCP, or UDP with a checksum.
    AnswerFromPort(TransportProtocol),
    /// Sets the source to the address of the outgoing interface, with a random port, so that
    /// simultaneous connections rarely collide.
    Masquerade,
    /// Rejects with a TCP reset.
    ResetTcp,
    /// Rejects with the ICMP or ICMPv6 error "port unreachable".
    RejectPort,
    /// Drops the packet.
    Drop,
    /// Traverses this chain, then continues.
    Jump(&'static str),
    /// Continues in this chain without coming back.
    Goto(&'static str),
    /// Ends this chain.
    Return,
}

/// The state of a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum CtState {
    /// New: there is no answer yet.
    New,
    /// The connection has been answered.
    Established,
    /// The packet is related to a connection, for instance an ICMP error about it.
    Related,
    /// Connection tracking cannot attribute the packet to a connection.
    Invalid,
}

/// A transport protocol that a rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum TransportProtocol {
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
    /// The statements.
    pub(crate) fn statements(&self) -> &[Statement] {
        &self.0
    }
}

impl Statement {
    /// The family of the addresses that it reads.
    pub(crate) fn family(&self) -> Option<Family> {
        match self {
            Self::SourceNotIn(network) | Self::DestinationNotIn(network) => {
                Some(Family::of(&network.addr()))
            }
            Self::In(set)
            | Self::NotIn(set)
            | Self::SourceNetworkIn(set, _)
            | Self::From(set)
            | Self::MarkFrom(set) => set.has_address().then(|| set.family()),
            Self::AnswerFrom(family) => Some(*family),
            _ => None,
        }
    }
}

impl CtState {
    const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Related => "related",
            Self::Invalid => "invalid",
        }
    }
}

impl TransportProtocol {
    /// IANA's number.
    pub(crate) const fn number(self) -> u8 {
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
            Self::SourceNetworkIn(set, length) => {
                set.write_key_of_network(*length, f)?;
                write!(f, " @{}", set.name())
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

/// A network as nft lists it: without the length for a single address.
fn short(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

/// A chain of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) struct Chain {
    /// The name.
    pub(crate) name: &'static str,
    /// The hook; `None` for a jump target.
    pub(crate) hook: Option<Hook>,
    /// The rules. Packets without a verdict are accepted.
    pub(crate) rules: Vec<Rule>,
}

/// The hook of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) struct Hook {
    /// The type of the chain.
    pub(crate) kind: ChainKind,
    /// The hook point.
    pub(crate) point: HookPoint,
    /// The priority at the hook point; lower ones run first.
    pub(crate) priority: i32,
}

/// The type of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum ChainKind {
    /// Decide on each packet.
    Filter,
    /// Translate addresses, seeing the first packet of each connection.
    Nat,
}

/// A hook point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum HookPoint {
    /// Incoming packets, before routing.
    Prerouting,
    /// Packets for the node itself.
    Input,
    /// Packets that the node passes on.
    Forward,
    /// Packets that the node sends.
    Output,
    /// Outgoing packets, after routing.
    Postrouting,
}

impl ChainKind {
    /// The name in nft and in the kernel.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

impl HookPoint {
    /// The name in nft.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// The first line of a chain in nft's syntax.
impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, point) = (self.kind.name(), self.point.name());
        let priority = self.priority;
        write!(
            f,
            "type {kind} hook {point} priority {priority}; policy accept;"
        )
    }
}

/// The chain in nft's syntax.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(hook) = self.hook {
            writeln!(f, "\t\t{hook}")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}
