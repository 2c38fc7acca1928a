//! Reads svcproxy's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use ipvs::Family;
use netlink::nftables;
use netlink::uapi::*;
use netlink::{Attributes, Malformed, Socket, Writer, user_data};

use super::element::{Definition, Listed, elements};
use crate::desired::Config;
use crate::mode::conntrack::netlink_family;
use crate::mode::ipvs::kernel::nft::{ChainDefinition, RuleTag, complete};
use crate::mode::ipvs::plan::Comment;
use crate::mode::ipvs::rules::Fingerprint;
use crate::mode::nftables::rules::Chain;
use crate::mode::nftables::{Chooser, Element, Ruleset, Set, TABLE};

/// The table of one family, as it was found.
#[derive(Debug)]
pub(super) struct Table {
    /// Whether it can be used as it is: all sets are there, and nothing else.
    pub(super) is_sound: bool,
    /// The rules that do not choose an endpoint, if they are complete.
    pub(super) rules: Option<Fingerprint>,
    pub(super) choosers: BTreeSet<Chooser>,
    /// Chains that are selected by their choice, with other rules.
    pub(super) outdated: BTreeSet<Chooser>,
}

/// Lists the table of a family, and adds its elements. `None` if there is no table.
pub(super) fn table(
    socket: &mut Socket,
    family: Family,
    found: &mut Vec<(Element, Comment)>,
) -> io::Result<Option<Table>> {
    let is_own = |attributes: Attributes<'_>| attributes.text(NFTA_TABLE_NAME) == Some(TABLE);
    let flags = list(
        socket,
        NFT_MSG_GETTABLE,
        family,
        |_| {},
        |flags: &mut Option<u32>, table| {
            if is_own(table) {
                *flags = Some(table.number(NFTA_TABLE_FLAGS)?.unwrap_or(0));
            }
            Ok(())
        },
    )?;
    let Some(flags) = flags else {
        return Ok(None);
    };
    let chains = chains(socket, family)?;
    let sets = sets(socket, family)?;
    let wanted = Set::ALL.map(|set| (set.name().to_owned(), Definition::of(set, family)));
    let has_sets = sets == wanted.into_iter().collect();
    let tags = tags(socket, family)?;
    let (choosing, others): (BTreeMap<_, _>, BTreeMap<_, _>) = tags
        .into_iter()
        .partition(|(chain, _)| Chooser::from_name(family, chain).is_some());
    let mut table = Table {
        is_sound: has_sets && flags == 0,
        rules: complete(others.into_values().flatten().collect())
            .filter(|_| has_base_chains(&chains, family)),
        choosers: BTreeSet::new(),
        outdated: BTreeSet::new(),
    };
    if !table.is_sound {
        return Ok(Some(table));
    }
    let mut selected = BTreeSet::new();
    for set in Set::ALL {
        let listed = match set {
            Set::Affinity => continue,
            set => list_elements(socket, set, family)?,
        };
        let chooser = |one: &Listed| {
            let chooser = Chooser::from_name(family, one.chain.as_deref()?)?;
            let is_own = chooser.set() == set && one.choice() == Some(chooser.choice);
            is_own.then_some(chooser)
        };
        selected.extend(listed.iter().filter_map(chooser));
        found.extend(elements(listed, set, family));
    }
    let is_complete = |chooser: &Chooser| {
        let tags = choosing.get(&chooser.name()).cloned().unwrap_or_default();
        complete(tags) == Some(chooser.fingerprint())
    };
    // A chain that is not selected is not known: rules that are installed again remove it.
    let is_chooser = |chain: &ChainDefinition| Chooser::from_name(family, chain.name()).is_some();
    if chains.iter().filter(|chain| is_chooser(chain)).count() != selected.len() {
        table.rules = None;
    }
    (table.choosers, table.outdated) = selected.into_iter().partition(is_complete);
    Ok(Some(table))
}

/// Whether the chains that do not choose are exactly those of a ruleset, at their hooks. Settings
/// change only rules, not chains.
fn has_base_chains(chains: &[ChainDefinition], family: Family) -> bool {
    let ruleset = Ruleset::new(&Config::new("", Vec::new()));
    let wanted = ruleset.chains(family);
    let of = |chain: &Chain| ChainDefinition::new(chain.name.clone(), chain.hook);
    let mut wanted: Vec<_> = wanted.iter().map(of).collect();
    let others = chains.iter().filter(|chain| {
        let chooser = Chooser::from_name(family, chain.name());
        chooser.is_none_or(|chooser| **chain != ChainDefinition::new(chooser.name(), None))
    });
    let mut there: Vec<_> = others.cloned().collect();
    wanted.sort_unstable();
    there.sort_unstable();
    wanted == there
}

fn chains(socket: &mut Socket, family: Family) -> io::Result<Vec<ChainDefinition>> {
    let request = |w: &mut Writer| w.text(NFTA_CHAIN_TABLE, TABLE);
    list(
        socket,
        NFT_MSG_GETCHAIN,
        family,
        request,
        |chains: &mut Vec<_>, chain| {
            let name = chain.text(NFTA_CHAIN_NAME);
            if let (Some(TABLE), Some(name)) = (chain.text(NFTA_CHAIN_TABLE), name) {
                chains.push(ChainDefinition::parse(name, chain)?);
            }
            Ok(())
        },
    )
}

fn sets(socket: &mut Socket, family: Family) -> io::Result<BTreeMap<String, Definition>> {
    let request = |w: &mut Writer| w.text(NFTA_SET_TABLE, TABLE);
    list(
        socket,
        NFT_MSG_GETSET,
        family,
        request,
        |sets: &mut BTreeMap<_, _>, set| {
            if let (Some(TABLE), Some(name)) = (set.text(NFTA_SET_TABLE), set.text(NFTA_SET_NAME)) {
                sets.insert(name.to_owned(), Definition::parse(set)?);
            }
            Ok(())
        },
    )
}

/// The tags of the rules, by chain.
fn tags(socket: &mut Socket, family: Family) -> io::Result<BTreeMap<String, Vec<Option<RuleTag>>>> {
    let request = |w: &mut Writer| w.text(NFTA_RULE_TABLE, TABLE);
    list(
        socket,
        NFT_MSG_GETRULE,
        family,
        request,
        |tags: &mut BTreeMap<_, Vec<_>>, rule| {
            let tag = rule
                .value(NFTA_RULE_USERDATA)
                .and_then(|bytes| RuleTag::from_bytes(user_data::get(bytes, user_data::RULE_TAG)?));
            let chain = rule.text(NFTA_RULE_CHAIN).unwrap_or_default();
            if rule.text(NFTA_RULE_TABLE) == Some(TABLE) {
                tags.entry(chain.to_owned()).or_default().push(tag);
            }
            Ok(())
        },
    )
}

fn list_elements(socket: &mut Socket, set: Set, family: Family) -> io::Result<Vec<Listed>> {
    let request = |w: &mut Writer| {
        w.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
        w.text(NFTA_SET_ELEM_LIST_SET, set.name());
    };
    list(
        socket,
        NFT_MSG_GETSETELEM,
        family,
        request,
        |listed: &mut Vec<_>, message| {
            for element in message.list(NFTA_SET_ELEM_LIST_ELEMENTS)? {
                listed.extend(Listed::parse(element.attributes()?)?);
            }
            Ok(())
        },
    )
}

/// Lists objects of a family. The table may disappear meanwhile.
fn list<T: Default>(
    socket: &mut Socket,
    kind: u8,
    family: Family,
    request: impl Fn(&mut Writer),
    take: impl FnMut(&mut T, Attributes<'_>) -> Result<(), Malformed>,
) -> io::Result<T> {
    match nftables::list(socket, kind, netlink_family(family).header(), request, take) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        listed => listed,
    }
}
