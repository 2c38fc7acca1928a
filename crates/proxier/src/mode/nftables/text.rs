//! The rules in nft's syntax, for people and for [`Fingerprint`](crate::mode::ipvs::rules::Fingerprint)s.
#![cfg_attr(
    not(feature = "nftables"),
    allow(dead_code, reason = "the encoding for the kernel uses it")
)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipvs::Family;

use super::rules::{Chain, Rule, Ruleset, Statement, To};
use super::set::Part;
use super::{Chooser, Set, TABLE};
use crate::desired::PodInterfaces;
use crate::mode::ipvs::plan::Audience;
use crate::mode::ipvs::rules::{Fingerprint, of_network};

/// Both tables with their sets, in nft's syntax.
impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for family in [Family::V4, Family::V6] {
            writeln!(f, "table {} {TABLE} {{", table_family(family))?;
            for set in Set::ALL {
                set.declare(family, f)?;
                writeln!(f)?;
            }
            Text(family, &self.chains(family)).fmt(f)?;
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

/// Chains in nft's syntax.
pub(super) struct Text<'a>(pub(super) Family, pub(super) &'a [Chain]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(family, chains) = self;
        for (index, chain) in chains.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            writeln!(f, "{separator}\tchain {} {{", chain.name)?;
            if let Some(hook) = chain.hook {
                writeln!(f, "\t\t{hook}")?;
            }
            for rule in &chain.rules {
                writeln!(f, "\t\t{}", rule.text(*family))?;
            }
            writeln!(f, "\t}}")?;
        }
        Ok(())
    }
}

impl Chooser {
    /// Identifies its chain.
    pub(super) fn fingerprint(self) -> Fingerprint {
        Fingerprint::of(&Text(self.family, &[self.chain()]).to_string())
    }
}

impl Rule {
    /// The rule in the table of a family.
    pub(super) fn text(&self, family: Family) -> String {
        let statements = self.0.iter().map(|statement| statement.text(family));
        statements.collect::<Vec<_>>().join(" ")
    }
}

impl Statement {
    fn text(&self, family: Family) -> String {
        let ip = table_family(family);
        let frontend = |to: &To| match to {
            To::Address => key_text(Set::Services, family),
            To::NodePort => {
                let any: IpAddr = match family {
                    Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                    Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
                };
                let daddr = format!("{ip} daddr");
                key_text(Set::Services, family).replace(&daddr, &format!("{daddr} & {any}"))
            }
        };
        let key = |set: &Set, to: &To| match (set.key(), to) {
            (key, To::NodePort) if key == Set::Services.key() => frontend(to),
            _ => key_text(*set, family),
        };
        let number = "meta priority";
        let (affinity, endpoints) = (Set::Affinity.name(), Set::Endpoints.name());
        let client = |to: &To| format!("{} . {ip} saddr", frontend(to));
        match self {
            Self::Plain(plain) => plain.to_string(),
            Self::In(set, to) => format!("{} @{}", key(set, to), set.name()),
            Self::SourceNetworkIn(set, length) => {
                let parts = set.key().iter().map(|part| match part {
                    Part::Field(field) => of_network(*field, family, *length),
                    Part::Number => "number".to_owned(),
                });
                let key = parts.collect::<Vec<_>>().join(" . ");
                format!("{key} @{}", set.name())
            }
            Self::SourceIn(network) => format!("{ip} saddr {network}"),
            Self::FromInterfaces(PodInterfaces::Named(name)) => format!("iifname \"{name}\""),
            Self::FromInterfaces(PodInterfaces::Prefixed(name)) => format!("iifname \"{name}*\""),
            Self::DestinationIn(network) => format!("{ip} daddr {network}"),
            Self::NotLocalSource => "fib saddr type != local".to_owned(),
            Self::RejectPort(Family::V4) => "reject with icmp port-unreachable".to_owned(),
            Self::RejectPort(Family::V6) => "reject with icmpv6 port-unreachable".to_owned(),
            Self::NumberFrom(set, to) => {
                format!("{number} set {} map @{}", key(set, to), set.name())
            }
            Self::ContinueIn(chains) => format!("{number} vmap @{}", chains.name()),
            Self::Draw(Audience::All, count) => format!("{number} set numgen random mod {count}"),
            Self::Draw(_, count) => {
                let offset = super::element::EXTERNAL;
                format!("{number} set numgen random mod {count} offset {offset}")
            }
            Self::Lasting(to) => {
                let (key, numbers) = (frontend(to), Set::Numbers.name());
                format!("{number} set {key} . {number} map @{numbers}")
            }
            Self::ForgetNumber => format!("{number} set 0"),
            Self::NumberOfClient(to) => format!("{number} set {} map @{affinity}", client(to)),
            Self::Forget(to, seconds) => {
                format!(
                    "delete @{affinity} {{ {} timeout {seconds}s : {number} }}",
                    client(to)
                )
            }
            Self::Remember(to, seconds) => {
                format!(
                    "update @{affinity} {{ {} timeout {seconds}s : {number} }}",
                    client(to)
                )
            }
            Self::ToNumber(to) => format!("dnat to {} . {number} map @{endpoints}", frontend(to)),
        }
    }
}

/// A set's key in nft's syntax: `ip daddr . meta l4proto . th dport`.
fn key_text(set: Set, family: Family) -> String {
    let parts = set.key().iter().map(|part| match part {
        Part::Field(field) => field.expression(family),
        Part::Number => "number",
    });
    parts.collect::<Vec<_>>().join(" . ")
}

/// The name of the family of a table.
const fn table_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
