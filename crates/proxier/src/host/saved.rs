//! Filters in the text of iptables-save: those of legacy iptables, which netlink does not show, and
//! matches of iptables-nft that only iptables knows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipvs::Family;
use netlink::filter::{
    BaseChain, Condition, Field, Hook, Interface, Rule, Side, TableFamily, Verdict, Within, number,
};
use netlink::uapi::{
    IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, IPS_DST_NAT, NF_CT_STATE_ESTABLISHED,
    NF_CT_STATE_INVALID, NF_CT_STATE_NEW, NF_CT_STATE_RELATED,
};

use super::Filter;

/// The tables that filter, with the priority of their chains.
const TABLES: [(&str, i32); 4] = [
    ("raw", -300),
    ("mangle", -150),
    ("filter", 0),
    ("security", 50),
];
/// Matches whose options say everything.
const PLAIN_MATCHES: [&str; 9] = [
    "conntrack",
    "state",
    "comment",
    "tcp",
    "udp",
    "sctp",
    "multiport",
    "iprange",
    "mark",
];

/// The filters, and the number of all rules of other programs.
pub(super) fn filters(saved: &str, family: Family) -> (Vec<Filter>, usize) {
    let mut rules = BTreeMap::<String, Vec<Rule>>::new();
    let mut bases = Vec::new();
    let mut filters = Vec::new();
    let (mut table, mut count) = ("", 0);
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if line == "COMMIT" {
            let rules = std::mem::take(&mut rules);
            filters.extend(bases.drain(..).map(|base| Filter::new(base, rules.clone())));
        } else if line.starts_with("-A ") && !line.contains("SVCP") {
            count += 1;
        }
        let Some((name, priority)) = TABLES.into_iter().find(|(name, _)| *name == table) else {
            continue;
        };
        if let Some(chain) = line.strip_prefix(':') {
            bases.extend(base(chain, family, name, priority));
        } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|l| l.split_once(' '))
        {
            rules.entry(chain.to_owned()).or_default().push(parse(rule));
        }
    }
    (filters, count)
}

/// A chain at a hook: `INPUT DROP [0:0]`.
fn base(line: &str, family: Family, table: &str, priority: i32) -> Option<BaseChain> {
    let (name, rest) = line.split_once(' ')?;
    let hook = match name {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
        "OUTPUT" => Hook::Output,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    };
    Some(BaseChain {
        family: match family {
            Family::V4 => TableFamily::V4,
            Family::V6 => TableFamily::V6,
        },
        table: table.to_owned(),
        name: name.to_owned(),
        hook,
        priority,
        drops: rest.starts_with("DROP"),
    })
}

/// A rule without its chain.
fn parse(text: &str) -> Rule {
    let mut conditions = Vec::new();
    let mut verdict = Verdict::Continue;
    let mut words = text.split(' ');
    let mut is_not = false;
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default();
        match word {
            "!" => {
                is_not = true;
                continue;
            }
            "-j" | "-g" => {
                verdict = target(value(), word == "-g");
                break;
            }
            "-m" => {
                if !PLAIN_MATCHES.contains(&value()) {
                    conditions.push(Condition::Other);
                }
            }
            "--comment" => skip_text(&mut words),
            _ => conditions.push(condition(word, value, is_not).unwrap_or(Condition::Other)),
        }
        is_not = false;
    }
    Rule {
        text: Some(text.to_owned()),
        ..Rule::new(conditions, verdict)
    }
}

fn target(name: &str, goes: bool) -> Verdict {
    match name {
        "ACCEPT" => Verdict::Accept,
        "DROP" => Verdict::Drop,
        "REJECT" => Verdict::Reject,
        "RETURN" => Verdict::Return,
        _ if goes => Verdict::Goto(name.to_owned()),
        // A target that is no chain has no rules.
        _ => Verdict::Jump(name.to_owned()),
    }
}

/// The condition of an option. `None` if the option is not known: then its values are options that are
/// not known, too.
fn condition<'a>(option: &str, value: impl FnOnce() -> &'a str, is_not: bool) -> Option<Condition> {
    Some(match option {
        "-s" => network(Field::Source, value(), is_not)?,
        "-d" => network(Field::Destination, value(), is_not)?,
        "--src-range" => addresses(Field::Source, value(), is_not)?,
        "--dst-range" => addresses(Field::Destination, value(), is_not)?,
        "-p" => {
            let number = match value() {
                "tcp" => IPPROTO_TCP,
                "udp" => IPPROTO_UDP,
                "sctp" => IPPROTO_SCTP,
                // Other protocols are not those of Services.
                _ => 0,
            };
            within(
                Field::Protocol,
                vec![(number.into(), number.into())],
                is_not,
            )
        }
        "--sport" | "--sports" => ports(Field::SourcePort, value(), is_not)?,
        "--dport" | "--dports" => ports(Field::DestinationPort, value(), is_not)?,
        "-i" => interface(Side::In, value(), is_not),
        "-o" => interface(Side::Out, value(), is_not),
        "--ctstate" | "--state" if !is_not => {
            let bits = value().split(',').map(|state| match state {
                "INVALID" => NF_CT_STATE_INVALID,
                "NEW" => NF_CT_STATE_NEW,
                "ESTABLISHED" => NF_CT_STATE_ESTABLISHED,
                "RELATED" => NF_CT_STATE_RELATED,
                _ => 0,
            });
            Condition::State(bits.fold(0, |all, bit| all | bit))
        }
        "--ctstatus" if !is_not => match value() {
            "DNAT" => Condition::Status(IPS_DST_NAT),
            _ => Condition::Other,
        },
        "--mark" if !is_not => {
            let text = value();
            let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
            Condition::Mark {
                mask: hexadecimal(mask)?,
                value: hexadecimal(value)?,
            }
        }
        _ => return None,
    })
}

fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn within(field: Field, ranges: Vec<(u128, u128)>, is_not: bool) -> Condition {
    Condition::Field(Within {
        field,
        is_v6: false,
        ranges,
        is_not,
    })
}

fn network(field: Field, text: &str, is_not: bool) -> Option<Condition> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let whole = if address.is_ipv6() { 128 } else { 32 };
    let within = Within::network(field, address, prefix.unwrap_or(whole), is_not);
    Some(Condition::Field(within))
}

fn addresses(field: Field, text: &str, is_not: bool) -> Option<Condition> {
    let (first, last) = text.split_once('-')?;
    let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
    Some(Condition::Field(Within {
        field,
        is_v6: first.is_ipv6(),
        ranges: vec![(number(first), number(last))],
        is_not,
    }))
}

/// Ports and ranges of them: `80,443,1000:2000`.
fn ports(field: Field, text: &str, is_not: bool) -> Option<Condition> {
    let ranges = text.split(',').map(|range| {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        let port = |text: &str, open: u16| match text {
            "" => Some(open),
            port => port.parse().ok(),
        };
        Some((port(first, 0)?.into(), port(last, u16::MAX)?.into()))
    });
    Some(within(field, ranges.collect::<Option<_>>()?, is_not))
}

fn interface(side: Side, text: &str, is_not: bool) -> Condition {
    let prefix = text.strip_suffix('+');
    Condition::Interface(Interface {
        side,
        name: prefix.unwrap_or(text).to_owned(),
        is_prefix: prefix.is_some(),
        is_not,
    })
}

/// Skips a text, which may be quoted and contain escaped quotes.
fn skip_text<'a>(words: &mut impl Iterator<Item = &'a str>) {
    let Some(first) = words.next() else { return };
    let ends = |word: &str| word.ends_with('"') && !word.ends_with("\\\"");
    if first.starts_with('"') && !(first.len() > 1 && ends(first)) {
        words.find(|word| ends(word));
    }
}
