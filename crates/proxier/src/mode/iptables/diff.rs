//! The difference between a draft and the node's rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::draft::{Chain, Draft};
use super::transaction::{Part, Written};
use super::{Jump, Rules, Table};

/// The changes of each table. Chains that the draft lacks are deleted only if the draft is
/// complete. Rules of table filter that reject or drop are added before the changes of table nat,
/// and removed after them, so that no packet goes astray in between; they handle only packets that
/// nothing has translated. On a node without svcproxy's rules, they are added after table nat: the
/// mode ipvs may have been in effect until now, and they would reject its packets before IPVS sees
/// them.
pub(super) fn parts(draft: Draft<'_>, jumps: Option<Vec<Jump>>, there: &Rules) -> Vec<Part> {
    let mut parts = Parts::default();
    let mut is_closing = false;
    if draft.is_everything() {
        for (key, old) in &there.chains {
            if !draft.chains.contains_key(key) {
                let (table, name) = key;
                parts
                    .of(*table)
                    .deleted
                    .insert(name.clone(), Arc::clone(old));
            }
        }
    }
    let mut chains: Vec<_> = draft.chains.into_iter().collect();
    chains.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (key, chain) in chains {
        let was = there.chains.get(&key).map(Arc::clone);
        let (table, name) = key;
        if chain.rules.is_empty() && !chain.is_fixed {
            if let Some(was) = was {
                parts.of(table).deleted.insert(name, was);
            }
        } else if was.as_deref() != Some(chain.rules.as_slice()) {
            let is_new = |rule| !was.as_deref().unwrap_or_default().contains(rule);
            is_closing |= table == Table::Filter && chain.rules.iter().any(is_new);
            let Chain { rules, owner, .. } = chain;
            let rules = rules.into();
            let written = Written { rules, owner, was };
            parts.of(table).rewritten.insert(name, written);
        }
    }
    if let Some(wanted) = jumps {
        let mut left = there.jumps.clone();
        for jump in wanted {
            match left.iter().position(|other| *other == jump) {
                Some(at) => drop(left.remove(at)),
                None => parts.of(jump.table).inserted.push(jump),
            }
        }
        for jump in left {
            parts.of(jump.table).removed.push(jump);
        }
    }
    let mut in_order: Vec<_> = parts
        .0
        .into_values()
        .filter(|part| !part.is_empty())
        .collect();
    let filter_is_first = is_closing && !there.is_empty();
    let is_late = |part: &Part| (part.table == Table::Filter) != filter_is_first;
    in_order.sort_by_key(is_late);
    in_order
}

#[derive(Default)]
struct Parts(BTreeMap<Table, Part>);

impl Parts {
    fn of(&mut self, table: Table) -> &mut Part {
        self.0.entry(table).or_insert_with(|| Part::new(table))
    }
}
