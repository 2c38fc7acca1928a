//! Rules as text.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use ipvs::{Family, Protocol};

use super::Name;
use crate::desired::{Backend, PodInterfaces, ServicePortName};

/// A rule without its chain, in the words that iptables-save(8) has for it.
///
/// It can be written from checked values only, none of which has a line break, a quote or a space:
/// no object can make it more than one rule, or give it an option. That it is just as iptables
/// itself prints it is what lets [`Rules::parse`](super::Rules::parse) find out whether what is
/// there is what should be there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule(Box<str>);

impl Rule {
    /// A line that iptables-save(8) printed.
    pub(super) fn observed(text: &str) -> Self {
        Self(text.into())
    }

    /// As it stands in a chain.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The word behind an option.
    pub(super) fn value(&self, option: &str) -> Option<&str> {
        let mut words = self.words();
        words.find(|word| *word == option)?;
        words.next()
    }

    /// Its words. What is in quotes is one, with the quotes: others' rules have comments.
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

/// What a packet must be for a rule; made in the order in which iptables-save(8) prints it.
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

    /// From a network; any address is in one that is everything.
    pub(super) fn source(self, network: IpNet) -> Self {
        self.network("-s", network)
    }

    /// To a network.
    pub(super) fn destination(self, network: IpNet) -> Self {
        self.network("-d", network)
    }

    fn network(self, option: &str, network: IpNet) -> Self {
        match network.prefix_len() {
            0 => self,
            _ => self.and(format_args!("{option} {}", network.trunc())),
        }
    }

    /// Come in by these.
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

    /// From an address of the node.
    pub(super) fn source_local(self) -> Self {
        self.and(format_args!("-m addrtype --src-type LOCAL"))
    }

    /// To an address of the node.
    pub(super) fn destination_local(self) -> Self {
        self.and(format_args!("-m addrtype --dst-type LOCAL"))
    }

    pub(super) fn state(self, state: State) -> Self {
        self.and(format_args!("-m conntrack --ctstate {}", state.name()))
    }

    /// All of these bits of the mark are set.
    pub(super) fn marked(self, bits: u32) -> Self {
        self.and(format_args!("-m mark --mark {bits:#x}/{bits:#x}"))
    }

    pub(super) fn not_marked(self, bits: u32) -> Self {
        self.and(format_args!("-m mark ! --mark {bits:#x}/{bits:#x}"))
    }

    /// One packet of so many, by chance. The kernel compares a random number of 31 bits
    /// (`xt_statistic.c`), and iptables prints it as a fraction.
    pub(super) fn one_of(self, count: u32) -> Self {
        if count < 2 {
            return self;
        }
        let bits = f64::from(1_u32 << 31);
        let probability = (bits / f64::from(count)).round() / bits;
        let chance = format_args!("-m statistic --mode random --probability {probability:.11}");
        self.and(chance)
    }

    /// From a client that a list remembers since so many seconds; from now on it does so for as
    /// long again.
    pub(super) fn remembered(self, list: &Name, family: Family, seconds: NonZeroU32) -> Self {
        let mask = by_family(family, MASK_V4, MASK_V6);
        self.and(format_args!(
            "-m recent --update --seconds {seconds} --reap --name {list} --mask {mask} --rsource"
        ))
    }

    /// Has a list remember the client.
    pub(super) fn remember(self, list: &Name, family: Family) -> Self {
        let mask = by_family(family, MASK_V4, MASK_V6);
        let set = format_args!("-m recent --set --name {list} --mask {mask} --rsource");
        self.and(set)
    }

    /// Says whom the rule is for.
    pub(super) fn comment(self, owner: &ServicePortName) -> Self {
        self.and(format_args!("-m comment --comment \"{owner}\""))
    }

    /// How the rules begin that match this.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The rule that does this with such packets.
    pub(super) fn then(mut self, target: &Target) -> Rule {
        use fmt::Write;
        let _ = write!(self.0, "{target}");
        Rule(self.0.into())
    }
}

/// Enough for all but the rarest rules.
const USUAL: usize = 128;
const MASK_V4: &str = "255.255.255.255";
const MASK_V6: &str = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";

const fn by_family(family: Family, v4: &'static str, v6: &'static str) -> &'static str {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

/// What connection tracking says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its connection has not been answered yet.
    New,
    /// It belongs to a connection that has been answered, or is about one.
    Known,
    /// It makes no sense.
    Invalid,
    /// Its connection's destination was translated.
    Translated,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Known => "RELATED,ESTABLISHED",
            Self::Invalid => "INVALID",
            Self::Translated => "DNAT",
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Through this chain, and then on.
    Jump(Name),
    /// On in this chain, and not back.
    Goto(Name),
    Return,
    Accept,
    Drop,
    /// Its sender is told that nobody listens.
    Refuse(Protocol, Family),
    /// Any other protocol than those that have an answer of their own.
    RefusePort(Family),
    /// Sets bits of the mark.
    SetMark(u32),
    /// Turns bits of the mark over.
    FlipMark(u32),
    /// To a backend.
    SendTo(Backend),
    /// From the node, as those who answer see it.
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
    fn chances_are_as_iptables_prints_them() {
        let rule = |count| Match::all().one_of(count).then(&Target::Drop).to_string();
        assert_eq!(rule(1), "-j DROP");
        for (count, printed) in [
            (2, "0.50000000000"),
            (3, "0.33333333349"),
            (7, "0.14285714272"),
        ] {
            let expected = format!("-m statistic --mode random --probability {printed} -j DROP");
            assert_eq!(rule(count), expected);
        }
    }

    #[test]
    fn everything_needs_no_network() {
        let rule = Match::all()
            .source("::/0".parse().unwrap())
            .then(&Target::Return);
        assert_eq!(rule.as_str(), "-j RETURN");
    }
}
