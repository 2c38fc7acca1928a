//! Reads chains, rules and sets.

use std::collections::BTreeMap;
use std::io;

use super::parse::{Draft, Element, verdict};
use super::{BaseChain, Hook, Rule, TableFamily, Verdict};
use crate::socket::Socket;
use crate::uapi::*;
use crate::{Attributes, Malformed, Writer, nftables};

/// How much of a rule is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What concerns every packet: sets of addresses, ports and interfaces are not read, and count as
    /// [`Condition::Other`](super::Condition::Other).
    Outline,
    /// Sets, too.
    Whole,
}

/// The chains of all tables that filter. Passes the table and the name of every other chain to
/// `see`.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn base_chains(
    socket: &mut Socket,
    mut see: impl FnMut(&str, &str),
) -> io::Result<Vec<BaseChain>> {
    let mut found = Vec::new();
    for family in TableFamily::ALL {
        let listed = list(
            socket,
            NFT_MSG_GETCHAIN,
            family,
            |_| {},
            |chains: &mut Vec<_>, chain| {
                let names = (chain.text(NFTA_CHAIN_TABLE), chain.text(NFTA_CHAIN_NAME));
                if let (Some(table), Some(name)) = names {
                    match base(chain)? {
                        Some((hook, priority)) => chains.push(BaseChain {
                            family,
                            table: table.to_owned(),
                            name: name.to_owned(),
                            hook,
                            priority,
                            drops: chain.number(NFTA_CHAIN_POLICY)?
                                == Some(NF_DROP.cast_unsigned()),
                        }),
                        None => see(table, name),
                    }
                }
                Ok(())
            },
        );
        found.extend(listed?);
    }
    Ok(found)
}

/// Hook and priority of a chain of type filter or route.
fn base(chain: Attributes<'_>) -> Result<Option<(Hook, i32)>, Malformed> {
    let Some(hook) = chain.nested(NFTA_CHAIN_HOOK)? else {
        return Ok(None);
    };
    let point = match hook.require(NFTA_HOOK_HOOKNUM)?.number()? {
        NF_INET_PRE_ROUTING => Hook::Prerouting,
        NF_INET_LOCAL_IN => Hook::Input,
        NF_INET_FORWARD => Hook::Forward,
        NF_INET_LOCAL_OUT => Hook::Output,
        NF_INET_POST_ROUTING => Hook::Postrouting,
        _ => return Ok(None),
    };
    let priority = i32::from_be_bytes(hook.require(NFTA_HOOK_PRIORITY)?.array()?);
    let filters = matches!(chain.text(NFTA_CHAIN_TYPE), Some("filter" | "route"));
    Ok(filters.then_some((point, priority)))
}

/// The rules of a chain.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn rules(
    socket: &mut Socket,
    family: TableFamily,
    table: &str,
    chain: &str,
    detail: Detail,
) -> io::Result<Vec<Rule>> {
    let of_chain = |w: &mut Writer| {
        w.text(NFTA_RULE_TABLE, table);
        w.text(NFTA_RULE_CHAIN, chain);
    };
    let drafts = list(
        socket,
        NFT_MSG_GETRULE,
        family,
        of_chain,
        |drafts: &mut Vec<Draft>, rule| {
            // Old kernels list the rules of other chains, too.
            if rule.text(NFTA_RULE_CHAIN) == Some(chain) {
                drafts.push(Draft::parse(rule, family, detail)?);
            }
            Ok(())
        },
    )?;
    let mut sets = BTreeMap::new();
    let mut rules = Vec::new();
    for draft in drafts {
        let mut replaced = vec![draft.rule];
        for lookup in &draft.sets {
            let elements = match sets.get(&lookup.set) {
                Some(elements) => elements,
                None => {
                    let elements = elements(socket, family, table, &lookup.set)?;
                    sets.entry(lookup.set.clone()).or_insert(elements)
                }
            };
            replaced = Draft::look_up(replaced, lookup, elements);
        }
        rules.extend(replaced);
    }
    Ok(rules)
}

/// A key of a set as the kernel lists it.
struct Key {
    key: Vec<u8>,
    last: Option<Vec<u8>>,
    is_end: bool,
    verdict: Verdict,
}

/// The elements of a set.
fn elements(
    socket: &mut Socket,
    family: TableFamily,
    table: &str,
    set: &str,
) -> io::Result<Vec<Element>> {
    let of_set = |w: &mut Writer| {
        w.text(NFTA_SET_ELEM_LIST_TABLE, table);
        w.text(NFTA_SET_ELEM_LIST_SET, set);
    };
    let keys = list(
        socket,
        NFT_MSG_GETSETELEM,
        family,
        of_set,
        |keys: &mut Vec<_>, message| {
            for element in message.list(NFTA_SET_ELEM_LIST_ELEMENTS)? {
                keys.extend(key(element.attributes()?)?);
            }
            Ok(())
        },
    )?;
    Ok(ranges(keys))
}

fn key(element: Attributes<'_>) -> Result<Option<Key>, Malformed> {
    let value = |kind| -> Result<Option<Vec<u8>>, Malformed> {
        let data = element.nested(kind)?;
        Ok(data.and_then(|data| Some(data.value(NFTA_DATA_VALUE)?.to_vec())))
    };
    let flags = element.number(NFTA_SET_ELEM_FLAGS)?.unwrap_or_default();
    let data = element.nested(NFTA_SET_ELEM_DATA)?;
    let verdict = data.map(verdict).transpose()?.flatten();
    // A catch-all element has no key; one of no bytes makes the condition unknown.
    let is_catch_all = flags & NFT_SET_ELEM_CATCHALL != 0;
    let first = value(NFTA_SET_ELEM_KEY)?.or_else(|| is_catch_all.then(Vec::new));
    let last = value(NFTA_SET_ELEM_KEY_END)?;
    Ok(first.map(|key| Key {
        key,
        last,
        is_end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
        verdict: verdict.unwrap_or(Verdict::Continue),
    }))
}

/// The ranges of keys: in an interval set, the kernel lists where one begins, and the key behind its
/// end, which is missing if the range reaches the last key.
fn ranges(mut keys: Vec<Key>) -> Vec<Element> {
    let is_interval = keys.iter().any(|key| key.is_end);
    if is_interval {
        // Where one range ends and the next begins at the same key, the end comes first.
        keys.sort_by(|a, b| a.key.cmp(&b.key).then(b.is_end.cmp(&a.is_end)));
    }
    let mut found = Vec::new();
    let mut keys = keys.into_iter().peekable();
    while let Some(key) = keys.next() {
        if key.is_end {
            continue;
        }
        let last = match (key.last, keys.peek()) {
            (Some(last), _) => last,
            (None, Some(end)) if is_interval => before(&end.key),
            (None, None) if is_interval => vec![u8::MAX; key.key.len()],
            (None, _) => key.key.clone(),
        };
        found.push(Element {
            keys: [key.key, last],
            verdict: key.verdict,
        });
    }
    found
}

/// The key before another one.
fn before(key: &[u8]) -> Vec<u8> {
    let mut before = key.to_vec();
    for byte in before.iter_mut().rev() {
        let (less, borrows) = byte.overflowing_sub(1);
        *byte = less;
        if !borrows {
            break;
        }
    }
    before
}

/// Lists objects of one family. What was deleted since its name was read has no objects.
fn list<T: Default>(
    socket: &mut Socket,
    kind: u8,
    family: TableFamily,
    content: impl Fn(&mut Writer),
    take: impl FnMut(&mut T, Attributes<'_>) -> Result<(), Malformed>,
) -> io::Result<T> {
    match nftables::list(socket, kind, family.header(), content, take) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        listed => listed,
    }
}
