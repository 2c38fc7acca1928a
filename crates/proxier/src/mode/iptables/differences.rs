//! What a transaction changes for each Service port, for people.

use std::collections::BTreeMap;

use super::transaction::{Part, Written};
use super::{Name, Rule, Table, Transaction};
use crate::desired::ServicePortName;

/// A chain or rule that differs from the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The Service port that it belongs to; `None` for what Services share.
    pub owner: Option<ServicePortName>,
    /// What the transaction does about it: `add nat SVCPROXY-VIPS: -d 10.96.0.1/32 …`.
    pub step: String,
}

/// Chains of a frontend lead to each other at most so many times.
const DEPTH: usize = 3;

impl Transaction {
    /// The changes, each with the Service port that it belongs to.
    pub fn differences(&self) -> Vec<Difference> {
        let owners = self.deleted_chains();
        let mut all = Vec::new();
        for part in &self.parts {
            let table = part.table;
            for (name, written) in &part.rewritten {
                rewritten(table, name, written, &mut all);
            }
            for name in part.deleted.keys() {
                all.push(Difference {
                    owner: owners.get(&(table, name)).cloned(),
                    step: format!("delete chain {table} {name}"),
                });
            }
            let jumps = part.inserted.iter().map(|jump| ("add", jump));
            let jumps = jumps.chain(part.removed.iter().map(|jump| ("delete", jump)));
            all.extend(jumps.map(|(verb, jump)| Difference {
                owner: None,
                step: format!("{verb} {table} {}: {}", jump.hook, jump.rule),
            }));
        }
        all
    }

    /// The owners of deleted chains: only the rules that lead to them name a Service port.
    fn deleted_chains(&self) -> BTreeMap<(Table, &Name), ServicePortName> {
        let mut owners = BTreeMap::new();
        let owns =
            |part: &Part, rule: &Rule, owner: &ServicePortName, owners: &mut BTreeMap<_, _>| {
                let Some(next) = rule.leads_to() else { return };
                if let Some((name, _)) = self.deleted(part.table, &next) {
                    owners.insert((part.table, name), owner.clone());
                }
            };
        for part in &self.parts {
            let was = part
                .rewritten
                .values()
                .filter_map(|chain| chain.was.as_deref());
            let deleted = part.deleted.values().map(AsRef::as_ref);
            for rule in was.chain(deleted).flatten() {
                if let Some(owner) = rule.owner() {
                    owns(part, rule, &owner, &mut owners);
                }
            }
            for _ in 1..DEPTH {
                for (name, rules) in &part.deleted {
                    let Some(owner) = owners.get(&(part.table, name)).cloned() else {
                        continue;
                    };
                    for rule in rules.iter() {
                        owns(part, rule, &owner, &mut owners);
                    }
                }
            }
        }
        owners
    }

    fn deleted(&self, table: Table, name: &Name) -> Option<(&Name, &std::sync::Arc<[Rule]>)> {
        let parts = self.parts.iter().filter(|part| part.table == table);
        parts
            .filter_map(|part| part.deleted.get_key_value(name))
            .next()
    }
}

/// The rules that a chain lacks, and those that it should not have.
fn rewritten(table: Table, name: &Name, written: &Written, all: &mut Vec<Difference>) {
    let Written { rules, owner, was } = written;
    if was.is_none() && (owner.is_some() || rules.is_empty()) {
        let owner = owner.clone();
        let step = format!("add chain {table} {name}");
        all.push(Difference { owner, step });
        return;
    }
    let was = was.as_deref().unwrap_or_default();
    let before = all.len();
    let missing = rules.iter().filter(|rule| !was.contains(rule));
    let missing = missing.map(|rule| ("add", rule));
    let extra = was.iter().filter(|rule| !rules.contains(rule));
    let extra = extra.map(|rule| ("delete", rule));
    all.extend(missing.chain(extra).map(|(verb, rule)| Difference {
        owner: owner.clone().or_else(|| rule.owner()),
        step: format!("{verb} {table} {name}: {rule}"),
    }));
    // The same rules in another order, or some of them twice.
    if all.len() == before {
        let owner = owner.clone();
        let step = format!("write the rules of {table} {name} in order");
        all.push(Difference { owner, step });
    }
}
