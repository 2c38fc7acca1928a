//! Rules as nft writes them, as far as they are known.

use std::fmt::{self, Display, Formatter};

use super::field::{Side, address, below};
use super::{Condition, Field, Hook, Interface, Rule, TableFamily, Verdict, Within};
use crate::uapi::*;

/// Ranges of one condition that are shown, at most.
const SHOWN: usize = 8;

/// The name in nft.
impl Display for TableFamily {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

/// The name in nft.
impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

/// The text of the program that listed it, or nft's. A condition that is not known is `…`.
impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        for condition in &self.conditions {
            // What the addresses show.
            let is_family = matches!(condition, Condition::Field(of) if of.field == Field::Family);
            if !is_family {
                write!(f, "{condition} ")?;
            }
        }
        match &self.verdict {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Reject => f.write_str("reject"),
            Verdict::Jump(to) => write!(f, "jump {to}"),
            Verdict::Goto(to) => write!(f, "goto {to}"),
            Verdict::Return => f.write_str("return"),
            Verdict::Continue => f.write_str("continue"),
        }
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(states) => named(
                f,
                "ct state",
                *states,
                &[
                    (NF_CT_STATE_INVALID, "invalid"),
                    (NF_CT_STATE_ESTABLISHED, "established"),
                    (NF_CT_STATE_RELATED, "related"),
                    (NF_CT_STATE_NEW, "new"),
                ],
            ),
            Self::Status(bits) => named(f, "ct status", *bits, &[(IPS_DST_NAT, "dnat")]),
            Self::Mark { mask, value } if *mask == u32::MAX => write!(f, "meta mark {value:#x}"),
            Self::Mark { mask, value } => write!(f, "meta mark & {mask:#x} == {value:#x}"),
            Self::Field(within) => within.fmt(f),
            Self::Interface(interface) => interface.fmt(f),
            Self::Other => f.write_str("…"),
        }
    }
}

/// Bits by name, or as a number if one of them has none.
fn named(f: &mut Formatter<'_>, what: &str, bits: u32, names: &[(u32, &str)]) -> fmt::Result {
    let known = names.iter().fold(0, |all, (bit, _)| all | bit);
    if bits & !known != 0 {
        return write!(f, "{what} {bits:#x}");
    }
    let of = names.iter().filter(|(bit, _)| bits & bit != 0);
    let of: Vec<_> = of.map(|(_, name)| *name).collect();
    write!(f, "{what} {}", of.join(","))
}

impl Display for Within {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ip = if self.is_v6 { "ip6" } else { "ip" };
        match self.field {
            Field::Family => f.write_str("meta nfproto")?,
            Field::Source => write!(f, "{ip} saddr")?,
            Field::Destination => write!(f, "{ip} daddr")?,
            Field::Protocol => f.write_str("meta l4proto")?,
            Field::SourcePort => f.write_str("th sport")?,
            Field::DestinationPort => f.write_str("th dport")?,
        }
        f.write_str(if self.is_not { " != " } else { " " })?;
        let ranges = self.ranges.iter().take(SHOWN);
        let mut ranges: Vec<_> = ranges.map(|of| self.range(*of)).collect();
        if self.ranges.len() > SHOWN {
            ranges.push("…".to_owned());
        }
        match ranges.as_slice() {
            [only] => f.write_str(only),
            several => write!(f, "{{ {} }}", several.join(", ")),
        }
    }
}

impl Within {
    fn range(&self, (first, last): (u128, u128)) -> String {
        let is_address = matches!(self.field, Field::Source | Field::Destination);
        let value = |value: u128| match (self.field, u8::try_from(value)) {
            _ if is_address => address(value, self.is_v6).to_string(),
            (Field::Protocol, Ok(IPPROTO_TCP)) => "tcp".to_owned(),
            (Field::Protocol, Ok(IPPROTO_UDP)) => "udp".to_owned(),
            (Field::Protocol, Ok(IPPROTO_SCTP)) => "sctp".to_owned(),
            _ => value.to_string(),
        };
        if first == last {
            return value(first);
        }
        let width: u8 = if self.is_v6 { 128 } else { 32 };
        let mut prefixes = (0..width).filter(|length| {
            let ones = below(width.saturating_sub(*length));
            first & ones == 0 && last == first | ones
        });
        match prefixes.next().filter(|_| is_address) {
            Some(length) => format!("{}/{length}", value(first)),
            None => format!("{}-{}", value(first), value(last)),
        }
    }
}

impl Display for Interface {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let which = match self.side {
            Side::In => "iifname",
            Side::Out => "oifname",
        };
        let not = if self.is_not { "!= " } else { "" };
        let rest = if self.is_prefix { "*" } else { "" };
        write!(f, "{which} {not}\"{}{rest}\"", self.name)
    }
}
