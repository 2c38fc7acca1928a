//! Lets the Service traffic of IPVS mode and nftables mode pass iptables' filter.
//!
//! A host whose policy is to drop in `FORWARD` (as Docker sets it) or in `INPUT` drops what IPVS
//! mode needs: packets to virtual IPs, node ports and health checks arrive at the node itself, and
//! the answers of endpoints are forwarded. An nftables chain cannot accept what another base chain
//! drops, so these rules are in iptables' own table, as kube-proxy's are:
//!
//! | chain | lets pass |
//! | --- | --- |
//! | `SVCPASS-INPUT` | what chain `admit` of svcproxy's table has marked |
//! | `SVCPASS-FORWARD` | packets to be masqueraded, and those of known connections; in nftables mode also those whose destination has been translated, since there the first packet of a connection is forwarded too |
//!
//! They are the same whatever the Services, so the iptables programs run at the start only, and
//! after another program has changed the built-in chains.

use ipvs::Family;
use netlink::uapi::*;
use netlink::{Listener, Message, Socket, Watch, nftables};

use super::kernel::{Flavour, kind_in_iptables, restore, save};
use super::name::FORWARD as FORWARD_OF_IPTABLES;
use super::rule::{CtState, Match, Target};
use super::transaction::{Part, Written};
use super::{Hook, Jump, Name, Rule, Rules, Table, Transaction};
use crate::desired::{Config, Marks};
use crate::mode::NodeError;
use crate::mode::conntrack::netlink_family;
use crate::mode::probe::Mode;
use crate::mode::proc_sys::legacy_tables;

const INPUT: &str = "SVCPASS-INPUT";
const FORWARD: &str = "SVCPASS-FORWARD";
const HOOKS: [(Hook, &str); 2] = [(Hook::Input, INPUT), (Hook::Forward, FORWARD)];
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Whether a chain lets pass what Services need, in either mode.
pub(crate) fn is_passage(chain: &str) -> bool {
    [INPUT, FORWARD].contains(&chain) || chain == Name::of(FORWARD_OF_IPTABLES).as_str()
}

/// The rules that let the traffic of a mode pass iptables' filter, in iptables-nft and
/// iptables-legacy. A host without a table `filter` needs none.
#[derive(Debug)]
pub struct Passage {
    netfilter: Socket,
}

/// Watches iptables-nft's built-in chains until it is dropped.
#[derive(Debug)]
pub struct PassageWatch(#[expect(dead_code, reason = "its drop ends the thread")] Watch);

impl Passage {
    /// Opens a socket, and changes nothing.
    ///
    /// # Errors
    ///
    /// Lack of privileges.
    pub fn open() -> Result<Self, NodeError> {
        let netfilter = Socket::open().map_err(error("open netfilter"))?;
        Ok(Self { netfilter })
    }

    /// Writes the rules of a mode that are missing. Returns the number of tables that it has changed.
    ///
    /// # Errors
    ///
    /// If the chains cannot be listed, or an iptables program fails.
    pub fn ensure(&mut self, mode: Mode, config: &Config) -> Result<usize, NodeError> {
        let mut changed = 0;
        for family in FAMILIES {
            if !config.serves(family) {
                continue;
            }
            for flavour in self.in_use(family)? {
                let flavour = flavour.or_plain()?;
                let there = parse(&save(flavour, family)?);
                if let Some(missing) = missing(family, &there, mode, config.marks) {
                    restore(flavour, &missing)?;
                    changed += 1;
                }
            }
        }
        Ok(changed)
    }

    /// Removes the rules. Returns the number of chains.
    ///
    /// # Errors
    ///
    /// As [`ensure`](Self::ensure).
    pub fn remove(&mut self) -> Result<usize, NodeError> {
        let mut removed = 0;
        for (flavour, removal) in self.removals()? {
            restore(flavour, &removal)?;
            removed += removal.chains();
        }
        Ok(removed)
    }

    /// What [`remove`](Self::remove) would do now. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`ensure`](Self::ensure).
    pub fn removals(&mut self) -> Result<Vec<(Flavour, Transaction)>, NodeError> {
        let mut removals = Vec::new();
        for family in FAMILIES {
            for flavour in self.in_use(family)? {
                let Ok(flavour) = flavour.or_plain() else {
                    // Without the programs there are no rules of svcproxy.
                    continue;
                };
                let there = Transaction::removal(family, &parse(&save(flavour, family)?));
                if !there.is_empty() {
                    removals.push((flavour, there));
                }
            }
        }
        Ok(removals)
    }

    /// The iptables that have a table `filter` for a family.
    fn in_use(&mut self, family: Family) -> Result<Vec<Flavour>, NodeError> {
        let chains = nftables::chains(&mut self.netfilter, netlink_family(family));
        let chains = chains.map_err(error("list chains"))?;
        let is_built_in = |name: &str| HOOKS.iter().any(|(hook, _)| hook.name() == name);
        let has_nft = chains
            .iter()
            .any(|(table, name)| table == Table::Filter.name() && is_built_in(name));
        let legacy = legacy_tables(family).unwrap_or_default();
        let has_legacy = legacy.lines().any(|name| name == Table::Filter.name());
        let flavours = [(Flavour::Nft, has_nft), (Flavour::Legacy, has_legacy)];
        let flavours = flavours.into_iter();
        Ok(flavours
            .filter_map(|(flavour, has)| has.then_some(flavour))
            .collect())
    }

    /// Calls `report` soon after another program may have removed the rules, or has created the
    /// built-in chains, in iptables-nft. Legacy iptables has no notifications.
    ///
    /// # Errors
    ///
    /// If the kernel has no notifications, or lack of privileges.
    pub fn watch(report: impl FnMut() + Send + 'static) -> Result<PassageWatch, NodeError> {
        Listener::open(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES])
            .and_then(|listener| Watch::start(vec![listener], matters, report))
            .map(PassageWatch)
            .map_err(error("listen to changes of iptables"))
    }
}

fn error(operation: &'static str) -> impl Fn(std::io::Error) -> NodeError {
    move |source| NodeError::PacketFilter { operation, source }
}

fn named(table: Table, name: &str) -> Option<Name> {
    let is_own = table == Table::Filter && [INPUT, FORWARD].contains(&name);
    is_own.then(|| Name::of_other(name)).flatten()
}

fn parse(saved: &str) -> Rules {
    Rules::parse_named(saved, named, |_, _| {})
}

/// The rules of each chain, in the order of [`HOOKS`].
fn rules(mode: Mode, marks: Marks) -> [Vec<Rule>; 2] {
    let accept = |matching: Match| matching.then(&Target::Accept);
    let translated = accept(Match::all().state(CtState::Translated));
    let mut forwarded = vec![
        accept(Match::all().marked(marks.masquerade())),
        accept(Match::all().state(CtState::Known)),
    ];
    forwarded.extend((mode == Mode::Nftables).then_some(translated));
    [vec![accept(Match::all().marked(marks.own()))], forwarded]
}

/// What is missing or different in a table `filter`; `None` if nothing is.
fn missing(family: Family, there: &Rules, mode: Mode, marks: Marks) -> Option<Transaction> {
    let mut part = Part::new(Table::Filter);
    for ((hook, chain), rules) in HOOKS.into_iter().zip(rules(mode, marks)) {
        let name = Name::of_other(chain)?;
        let jump = Jump {
            table: Table::Filter,
            hook,
            rule: Match::all().then(&Target::Jump(name.clone())),
        };
        if !there.jumps().contains(&jump) {
            part.inserted.push(jump);
        }
        if there.chain(Table::Filter, &name) != rules {
            let written = Written {
                rules: rules.into(),
                owner: None,
                was: None,
            };
            part.rewritten.insert(name, written);
        }
    }
    let parts = vec![part];
    (!parts.iter().all(Part::is_empty)).then_some(Transaction { family, parts })
}

/// Whether a change may be of the rules' places, or remove them.
fn matters(message: &Message<'_>) -> bool {
    let Some(kind) = kind_in_iptables(message) else {
        return false;
    };
    let chain = match kind {
        NFT_MSG_DELTABLE => None,
        NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN => Some(NFTA_CHAIN_NAME),
        NFT_MSG_DELRULE => Some(NFTA_RULE_CHAIN),
        _ => return false,
    };
    let Ok(attributes) = message.attributes() else {
        return true;
    };
    let is_place = |name: &str| HOOKS.iter().any(|(hook, _)| hook.name() == name);
    let is_own = |name: &str| kind != NFT_MSG_NEWCHAIN && [INPUT, FORWARD].contains(&name);
    attributes.text(NFTA_TABLE_NAME) == Some(Table::Filter.name())
        && chain.is_none_or(|attribute| {
            let name = attributes.text(attribute).unwrap_or_default();
            is_place(name) || is_own(name)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// kubernetes/kubernetes#59656, #97225: written once, then left alone, also beside others.
    #[test]
    fn rules_are_written_where_they_are_missing() {
        let marks = Marks::default();
        let docker = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n\
                      -A FORWARD -j DOCKER-USER\n";
        let saved = |more: &str| format!("{docker}{more}COMMIT\n");
        let all = missing(Family::V4, &parse(&saved("")), Mode::Ipvs, marks).unwrap();
        assert_eq!(
            all.to_string(),
            "*filter\n:SVCPASS-FORWARD - [0:0]\n:SVCPASS-INPUT - [0:0]\n\
             -A SVCPASS-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
             -A SVCPASS-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A SVCPASS-INPUT -m mark --mark 0x2000/0x2000 -j ACCEPT\n\
             -I FORWARD -j SVCPASS-FORWARD\n-I INPUT -j SVCPASS-INPUT\nCOMMIT\n"
        );
        let chains = ":SVCPASS-FORWARD - [0:0]\n:SVCPASS-INPUT - [0:0]\n\
             -A SVCPASS-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
             -A SVCPASS-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A SVCPASS-INPUT -m mark --mark 0x2000/0x2000 -j ACCEPT\n";
        let there = saved(&format!(
            "{chains}-A FORWARD -j SVCPASS-FORWARD\n-A INPUT -j SVCPASS-INPUT\n"
        ));
        assert_eq!(missing(Family::V4, &parse(&there), Mode::Ipvs, marks), None);
        // `iptables -F FORWARD`.
        let flushed = saved(&format!("{chains}-A INPUT -j SVCPASS-INPUT\n"));
        let flushed = missing(Family::V4, &parse(&flushed), Mode::Ipvs, marks).unwrap();
        assert_eq!(
            flushed.to_string(),
            "*filter\n-I FORWARD -j SVCPASS-FORWARD\nCOMMIT\n"
        );
        // Neither are they those of mode iptables.
        assert!(Rules::parse(&there).is_empty());
        let removal = Transaction::removal(Family::V4, &parse(&there)).to_string();
        assert!(
            removal.contains("-D FORWARD -j SVCPASS-FORWARD\n"),
            "{removal}"
        );
        assert!(!removal.contains("DOCKER"), "{removal}");
    }
}
