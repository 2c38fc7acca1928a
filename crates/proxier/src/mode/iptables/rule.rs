//! Rules as text.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use ipvs::{Family, Protocol};

use super::Name;
use crate::desired::{Backend, PodInterfaces, ServicePortName};

/// A rule without its chain, in the syntax of iptables-save(8).
///
/// Only checked values go into it, and none contains a line break, a quote or a space. So no object
/// can turn it into several rules, or add an option. The text is exactly what iptables prints, so
/// [`Rules::parse`](super::Rules::parse) can compare existing with desired rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule(Box<str>);

impl Rule {
    /// A line that iptables-save(8) printed.
    pub(super) fn observed(text: &str) -> Self {
        Self(text.into())
    }

    /// The text of the rule.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The word after an option.
    pub(super) fn value(&self, option: &str) -> Option<&str> {
        let mut words = self.words();
        words.find(|word| *word == option)?;
        words.next()
    }

    /// The words. Quoted text is one word, with the quotes: rules of other programs have comments.
    fn words(&self) -> impl Iterator<Item = &str> {
        let (mut is_quoted, mut is_escaped) = (false, false);
        self.0.split(move |character| {
            match character {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = true,
                '"' => is_quoted = !is_quoted,
                _ => {}
            }
            character == ' ' && !is_quoted
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The matches of a rule. Build it in the order in which iptables-save(8) prints them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Match(String);

impl Match {
    /// Every packet.
    pub(super) const fn all() -> Self {
        Self(String::new())
    }

    fn and(mut self, more: fmt::Arguments<'_>) -> Self {
        use fmt::Write;
        if self.0.capacity() == 0 {
            self.0.reserve(USUAL);
        }
        // Writing to a `String` cannot fail.
        let _ = write!(self.0, "{more} ");
        self
    }

    /// Source network. Adds nothing for a network of all addresses.
    pub(super) fn source(self, network: IpNet) -> Self {
        self.network("-s", network)
    }

    /// Destination network.
    pub(super) fn destination(self, network: IpNet) -> Self {
        self.network("-d", network)
    }

    fn network(self, option: &str, network: IpNet) -> Self {
        match network.prefix_len() {
            0 => self,
            _ => self.and(format_args!("{option} {}", network.trunc())),
        }
    }

    /// Incoming interfaces.
    pub(super) fn interfaces(self, interfaces: &PodInterfaces) -> Self {
        match interfaces {
            PodInterfaces::Named(name) => self.and(format_args!("-i {name}")),
            PodInterfaces::Prefixed(name) => self.and(format_args!("-i {name}+")),
        }
    }

    pub(super) fn protocol(self, protocol: Protocol) -> Self {
        self.and(format_args!("-p {protocol}"))
    }

    pub(super) fn icmp(self, family: Family) -> Self {
        self.and(format_args!(
            "-p {}",
            by_family(family, "icmp", "ipv6-icmp")
        ))
    }

    pub(super) fn port(self, protocol: Protocol, port: NonZeroU16) -> Self {
        let to = format_args!("-m {protocol} --dport {port}");
        self.protocol(protocol).and(to)
    }

    pub(super) fn ports(self, protocol: Protocol, ports: &RangeInclusive<u16>) -> Self {
        let (first, last) = (ports.start(), ports.end());
        let to = format_args!("-m {protocol} --dport {first}:{last}");
        self.protocol(protocol).and(to)
    }

    /// The source is an address of the node.
    pub(super) fn source_local(self) -> Self {
        self.and(format_args!("-m addrtype --src-type LOCAL"))
    }

    /// The destination is an address of the node.
    pub(super) fn destination_local(self) -> Self {
        self.and(format_args!("-m addrtype --dst-type LOCAL"))
    }

    pub(super) fn state(self, state: CtState) -> Self {
        self.and(format_args!("-m conntrack --ctstate {}", state.name()))
    }

    /// All of these bits of the mark are set.
    pub(super) fn marked(self, bits: u32) -> Self {
        self.and(format_args!("-m mark --mark {bits:#x}/{bits:#x}"))
    }

    pub(super) fn not_marked(self, bits: u32) -> Self {
        self.and(format_args!("-m mark ! --mark {bits:#x}/{bits:#x}"))
    }

    /// `share` packets of `all`, at random. The kernel compares with a random number of 31 bits
    /// (`xt_statistic.c`), and iptables prints the threshold as a fraction.
    pub(super) fn share_of(self, share: u32, all: u32) -> Self {
        if share >= all {
            return self;
        }
        let bits = f64::from(1_u32 << 31);
        let probability = (bits * f64::from(share) / f64::from(all)).round() / bits;
        let chance = format_args!("-m statistic --mode random --probability {probability:.11}");
        self.and(chance)
    }

    /// A client that was added to a list, or matched there, in the last `seconds`. A match renews
    /// the time.
    pub(super) fn remembered(self, list: &Name, family: Family, seconds: NonZeroU32) -> Self {
        let mask = by_family(family, MASK_V4, MASK_V6);
        self.and(format_args!(
            "-m recent --update --seconds {seconds} --reap --name {list} --mask {mask} --rsource"
        ))
    }

    /// Adds the client to a list.
    pub(super) fn remember(self, list: &Name, family: Family) -> Self {
        let mask = by_family(family, MASK_V4, MASK_V6);
        let set = format_args!("-m recent --set --name {list} --mask {mask} --rsource");
        self.and(set)
    }

    /// A comment with the Service port.
    pub(super) fn comment(self, owner: &ServicePortName) -> Self {
        self.and(format_args!("-m comment --comment \"{owner}\""))
    }

    /// The text with which rules of these matches begin.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The rule that applies this target to matching packets.
    pub(super) fn then(mut self, target: &Target) -> Rule {
        use fmt::Write;
        let _ = write!(self.0, "{target}");
        Rule(self.0.into())
    }
}

/// Enough for nearly all rules.
const USUAL: usize = 128;
const MASK_V4: &str = "255.255.255.255";
const MASK_V6: &str = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";

const fn by_family(family: Family, v4: &'static str, v6: &'static str) -> &'static str {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

/// The state of a packet in connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CtState {
    /// The connection has no answer yet.
    New,
    /// The connection has been answered, or the packet is related to one.
    #[cfg_attr(
        not(all(feature = "ipvs", feature = "iptables")),
        expect(dead_code, reason = "only the passage through host firewalls uses it")
    )]
    Known,
    /// The packet fits no connection.
    Invalid,
    /// The destination of the connection was translated.
    Translated,
}

impl CtState {
    const fn name(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Known => "RELATED,ESTABLISHED",
            Self::Invalid => "INVALID",
            Self::Translated => "DNAT",
        }
    }
}

/// The target of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Traverse this chain, then continue.
    Jump(Name),
    /// Continue in this chain without coming back.
    Goto(Name),
    Return,
    Accept,
    Drop,
    /// Reject as if no program listened: a TCP reset, or an ICMP error.
    Refuse(Protocol, Family),
    /// Reject a packet of any other protocol.
    RefusePort(Family),
    /// Set bits of the mark.
    SetMark(u32),
    /// Flip bits of the mark.
    FlipMark(u32),
    /// Translate the destination to a backend.
    SendTo(Backend),
    /// Masquerade: the backend sees the node as source.
    Masquerade,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump(chain) => write!(f, "-j {chain}"),
            Self::Goto(chain) => write!(f, "-g {chain}"),
            Self::Return => f.write_str("-j RETURN"),
            Self::Accept => f.write_str("-j ACCEPT"),
            Self::Drop => f.write_str("-j DROP"),
            Self::Refuse(Protocol::Tcp, _) => f.write_str("-j REJECT --reject-with tcp-reset"),
            Self::Refuse(_, family) | Self::RefusePort(family) => {
                let icmp = by_family(*family, "icmp", "icmp6");
                write!(f, "-j REJECT --reject-with {icmp}-port-unreachable")
            }
            Self::SetMark(bits) => write!(f, "-j MARK --set-xmark {bits:#x}/{bits:#x}"),
            Self::FlipMark(bits) => write!(f, "-j MARK --set-xmark {bits:#x}/0x0"),
            Self::SendTo(backend) => {
                let to = SocketAddr::new(backend.address, backend.port.get());
                write!(f, "-j DNAT --to-destination {to}")
            }
            Self::Masquerade => f.write_str("-j MASQUERADE --random-fully"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_as_iptables_prints_them() {
        let rule = |count| {
            let matching = Match::all().share_of(1, count);
            matching.then(&Target::Drop).to_string()
        };
        assert_eq!(rule(1), "-j DROP");
        for (count, printed) in [
            (2, "0.50000000000"),
            (3, "0.33333333349"),
            (7, "0.14285714272"),
        ] {
            let expected = format!("-m statistic --mode random --probability {printed} -j DROP");
            assert_eq!(rule(count), expected);
        }
        let three_of_four = Match::all().share_of(3, 4).then(&Target::Drop);
        let expected = "-m statistic --mode random --probability 0.75000000000 -j DROP";
        assert_eq!(three_of_four.to_string(), expected);
    }

    #[test]
    fn a_network_of_all_addresses_is_not_printed() {
        let rule = Match::all()
            .source("::/0".parse().unwrap())
            .then(&Target::Return);
        assert_eq!(rule.as_str(), "-j RETURN");
    }
}
