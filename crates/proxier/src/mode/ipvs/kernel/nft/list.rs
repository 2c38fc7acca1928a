//! Reads svcproxy's table.

use std::io;

use super::chain::ChainDefinition;
use super::element::{Part, is_network_set, networks};
use super::rule::RuleTag;
use super::set::SetDefinition;
use crate::desired::Config;
use crate::mode::ipvs::plan::Elements;
use crate::mode::ipvs::rules::{Fingerprint, Parts, Ruleset, Set, TABLE};
use netlink::uapi::*;
use netlink::{Attributes, Writer, nftables, user_data};
use netlink::{Error, Malformed, Socket};

/// The observed table, without its elements.
#[derive(Debug, Default)]
pub(super) struct TableShape {
    /// `NFTA_TABLE_FLAGS`.
    pub(super) flags: u32,
    pub(super) chains: Vec<ChainDefinition>,
    /// Sets that match svcproxy's declarations.
    pub(super) sets: Vec<Set>,
    /// Other sets, perhaps of an older version.
    pub(super) foreign_sets: Vec<String>,
    /// Counters, quotas and other named objects, of which svcproxy has none, with their type.
    pub(super) objects: Vec<(u32, String)>,
    /// Flowtables, of which svcproxy has none.
    pub(super) flowtables: Vec<String>,
    /// The ruleset of the rules, if it is complete and there are no other rules.
    rules: Option<Fingerprint>,
}

impl TableShape {
    /// The ruleset of the table, if it is complete and in effect, and the table contains nothing
    /// else.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        let has_all = self.sets.len() == Set::ALL.len() && self.has_all_chains();
        let has_others = !(self.foreign_sets.is_empty()
            && self.objects.is_empty()
            && self.flowtables.is_empty());
        self.rules
            .filter(|_| has_all && !has_others && self.flags == 0)
    }

    /// Whether the table is dormant: the kernel has detached its chains from the hooks.
    pub(super) const fn is_dormant(&self) -> bool {
        self.flags & NFT_TABLE_F_DORMANT != 0
    }

    /// Whether the table has exactly the chains of a ruleset, with their types, hooks, priorities
    /// and policies.
    fn has_all_chains(&self) -> bool {
        // Settings change only rules, not chains.
        let ruleset = Ruleset::new(&Config::new("", Vec::new()));
        let mut wanted: Vec<_> = ruleset.chains().iter().map(ChainDefinition::of).collect();
        let mut there = self.chains.clone();
        // The rules, if complete, tell whether a missing chain is part of the ruleset: no chain is
        // empty.
        let is_there = |name: &str| there.iter().any(|chain| chain.name() == name);
        wanted.retain(|chain| !Parts::CHAINS.contains(&chain.name()) || is_there(chain.name()));
        wanted.sort_unstable();
        there.sort_unstable();
        wanted == there
    }
}

pub(super) fn shape(socket: &mut Socket) -> io::Result<TableShape> {
    let mut shape = TableShape {
        flags: flags(socket)?,
        chains: chains(socket)?,
        objects: objects(socket)?,
        flowtables: flowtables(socket)?,
        ..TableShape::default()
    };
    sets(socket, &mut shape)?;
    let tags = list(
        socket,
        NFT_MSG_GETRULE,
        |w| w.text(NFTA_RULE_TABLE, TABLE),
        |tags: &mut Vec<Option<RuleTag>>, rule| {
            let tag = rule
                .value(NFTA_RULE_USERDATA)
                .and_then(|bytes| RuleTag::from_bytes(user_data::get(bytes, user_data::RULE_TAG)?));
            tags.push(tag);
            Ok(())
        },
    );
    shape.rules = complete(absent_is_empty(tags)?);
    Ok(shape)
}

/// The ruleset that these rules form, if each of its rules is there exactly once.
pub(crate) fn complete(tags: Vec<Option<RuleTag>>) -> Option<Fingerprint> {
    let mut tags = tags.into_iter().collect::<Option<Vec<_>>>()?;
    tags.sort_unstable_by_key(|tag| tag.index);
    let first = *tags.first()?;
    let expected = (0..first.count).map(|index| RuleTag { index, ..first });
    tags.into_iter().eq(expected).then_some(first.fingerprint)
}

fn flags(socket: &mut Socket) -> io::Result<u32> {
    let flags = list(
        socket,
        NFT_MSG_GETTABLE,
        |_| {},
        |flags: &mut u32, table| {
            if table.text(NFTA_TABLE_NAME) == Some(TABLE) {
                *flags = table.number(NFTA_TABLE_FLAGS)?.unwrap_or(0);
            }
            Ok(())
        },
    );
    absent_is_empty(flags)
}

/// Lists the chains. The kernel lists those of all tables, so others are skipped.
fn chains(socket: &mut Socket) -> io::Result<Vec<ChainDefinition>> {
    let chains = list(
        socket,
        NFT_MSG_GETCHAIN,
        |w| w.text(NFTA_CHAIN_TABLE, TABLE),
        |chains: &mut Vec<_>, chain| {
            let name = chain.text(NFTA_CHAIN_NAME);
            if let (Some(TABLE), Some(name)) = (chain.text(NFTA_CHAIN_TABLE), name) {
                chains.push(ChainDefinition::parse(name, chain)?);
            }
            Ok(())
        },
    );
    absent_is_empty(chains)
}

fn objects(socket: &mut Socket) -> io::Result<Vec<(u32, String)>> {
    let objects = list(
        socket,
        NFT_MSG_GETOBJ,
        |w| w.text(NFTA_OBJ_TABLE, TABLE),
        |objects: &mut Vec<_>, object| {
            let name = object.text(NFTA_OBJ_NAME);
            if let (Some(TABLE), Some(name)) = (object.text(NFTA_OBJ_TABLE), name) {
                let kind = object.require(NFTA_OBJ_TYPE)?.number()?;
                objects.push((kind, name.to_owned()));
            }
            Ok(())
        },
    );
    unknown_is_empty(objects)
}

fn flowtables(socket: &mut Socket) -> io::Result<Vec<String>> {
    let flowtables = list(
        socket,
        NFT_MSG_GETFLOWTABLE,
        |w| w.text(NFTA_FLOWTABLE_TABLE, TABLE),
        |flowtables: &mut Vec<_>, flowtable| {
            let name = flowtable.text(NFTA_FLOWTABLE_NAME);
            if let (Some(TABLE), Some(name)) = (flowtable.text(NFTA_FLOWTABLE_TABLE), name) {
                flowtables.push(name.to_owned());
            }
            Ok(())
        },
    );
    unknown_is_empty(flowtables)
}

fn sets(socket: &mut Socket, shape: &mut TableShape) -> io::Result<()> {
    let sets = list(
        socket,
        NFT_MSG_GETSET,
        |w| w.text(NFTA_SET_TABLE, TABLE),
        |sets: &mut Vec<_>, set| {
            let name = set
                .text(NFTA_SET_NAME)
                .filter(|name| !name.starts_with("__"));
            if let (Some(TABLE), Some(name)) = (set.text(NFTA_SET_TABLE), name) {
                sets.push((name.to_owned(), SetDefinition::parse(set)?));
            }
            Ok(())
        },
    );
    for (name, definition) in absent_is_empty(sets)? {
        match Set::from_name(&name) {
            Some(set) if definition == SetDefinition::of(set) => shape.sets.push(set),
            _ => shape.foreign_sets.push(name),
        }
    }
    Ok(())
}

/// The elements of all sets that match svcproxy's declarations.
pub(super) fn elements(socket: &mut Socket, shape: &TableShape) -> io::Result<Elements> {
    let mut elements = Elements::default();
    for set in &shape.sets {
        if is_network_set(*set) {
            let bytes = list_elements(socket, *set, |bytes: &mut Vec<Vec<u8>>, element| {
                bytes.push(element.bytes().to_vec());
                Ok(())
            })?;
            let parts = bytes.iter().map(|bytes| Attributes::parse(bytes));
            let parts = parts.filter_map(|part| part.and_then(Part::parse).transpose());
            let parts = parts.collect::<Result<_, _>>().map_err(Error::from)?;
            elements.extend(networks(parts, *set));
        } else {
            let listed = list_elements(socket, *set, |listed: &mut Vec<_>, element| {
                listed.extend(Part::parse(element)?.and_then(|part| part.element(*set)));
                Ok(())
            })?;
            elements.extend(listed);
        }
    }
    Ok(elements)
}

fn list_elements<T: Default>(
    socket: &mut Socket,
    set: Set,
    mut take: impl FnMut(&mut T, Attributes<'_>) -> Result<(), Malformed>,
) -> io::Result<T> {
    let request = |w: &mut Writer| {
        w.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
        w.text(NFTA_SET_ELEM_LIST_SET, set.name());
    };
    let listed = list(socket, NFT_MSG_GETSETELEM, request, |list, message| {
        for element in message.list(NFTA_SET_ELEM_LIST_ELEMENTS)? {
            take(list, element.attributes()?)?;
        }
        Ok(())
    });
    absent_is_empty(listed)
}

/// Lists objects in `inet` tables.
fn list<T: Default>(
    socket: &mut Socket,
    kind: u8,
    content: impl Fn(&mut Writer),
    take: impl FnMut(&mut T, Attributes<'_>) -> Result<(), Malformed>,
) -> io::Result<T> {
    nftables::list(socket, kind, [NFPROTO_INET, 0, 0, 0], content, take)
}

/// The table does not exist before the first run, and after `nft flush ruleset`.
fn absent_is_empty<T: Default>(listed: io::Result<T>) -> io::Result<T> {
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        listed => listed,
    }
}

/// Older kernels do not know such objects (before 4.10; flowtables before 4.16), so they have none.
fn unknown_is_empty<T: Default>(listed: io::Result<T>) -> io::Result<T> {
    match absent_is_empty(listed) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(T::default()),
        listed => listed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ruleset_is_there_if_each_of_its_rules_is_there_once() {
        let mut config = Config::new("n", vec![]);
        let tag = |index| RuleTag {
            fingerprint: Ruleset::new(&config).fingerprint(),
            index,
            count: 3,
        };
        let (first, second, third) = (tag(0), tag(1), tag(2));
        config.masquerade_all = true;
        let other = Ruleset::new(&config).fingerprint();
        let other = RuleTag {
            fingerprint: other,
            ..second
        };
        let all = |tags: &[RuleTag]| complete(tags.iter().copied().map(Some).collect());
        assert_eq!(all(&[second, first, third]), Some(first.fingerprint));
        assert_eq!(all(&[first, second]), None);
        assert_eq!(all(&[first, second, third, third]), None);
        assert_eq!(all(&[first, other, third]), None);
        assert_eq!(all(&[]), None);
        let untagged = vec![Some(first), Some(second), Some(third), None];
        assert_eq!(complete(untagged), None);
    }
}
