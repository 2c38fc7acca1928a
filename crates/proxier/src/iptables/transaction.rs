//! What iptables-restore(8) is told, as a value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipvs::Family;

use super::{Jump, Name, Rule, Rules, Table};
use crate::desired::ServicePortName;

/// Changes of one family's tables, each table's carried out as a whole or not at all. `Display`
/// is the text that `iptables-restore --noflush` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transaction {
    /// The family.
    pub family: Family,
    /// The changes of each table, in their order.
    pub(super) parts: Vec<Part>,
}

/// Changes of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) table: Table,
    /// Chains that get these rules in place of theirs, and whom they are for.
    pub(super) rewritten: BTreeMap<Name, (Arc<[Rule]>, Option<ServicePortName>)>,
    pub(super) deleted: BTreeSet<Name>,
    pub(super) inserted: Vec<Jump>,
    /// One of them each time it is here.
    pub(super) removed: Vec<Jump>,
}

impl Part {
    pub(super) const fn new(table: Table) -> Self {
        Self {
            table,
            rewritten: BTreeMap::new(),
            deleted: BTreeSet::new(),
            inserted: Vec::new(),
            removed: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let chains = self.rewritten.is_empty() && self.deleted.is_empty();
        chains && self.inserted.is_empty() && self.removed.is_empty()
    }
}

impl Transaction {
    /// Removes all of ours.
    #[must_use]
    pub fn removal(family: Family, there: &Rules) -> Self {
        let parts = Table::ALL.map(|table| {
            let of_table = there.chains().filter(|(of, _)| *of == table);
            let jumps = there.jumps.iter().filter(|jump| jump.table == table);
            Part {
                deleted: of_table.map(|(_, name)| name.clone()).collect(),
                removed: jumps.cloned().collect(),
                ..Part::new(table)
            }
        });
        let parts = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Self { family, parts }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The tables that it changes, in order.
    pub fn tables(&self) -> impl Iterator<Item = Table> {
        self.parts.iter().map(|part| part.table)
    }

    /// How many chains it writes and deletes.
    pub fn chains(&self) -> usize {
        let parts = self.parts.iter();
        parts
            .map(|part| part.rewritten.len() + part.deleted.len())
            .sum()
    }

    /// The line of the text with this number, from 1, and the Service port whose chain it is about.
    pub fn line(&self, number: usize) -> Option<(String, Option<ServicePortName>)> {
        let text = self.to_string();
        let line = text.lines().nth(number.checked_sub(1)?)?;
        let chain = line.strip_prefix("-A ").or_else(|| line.strip_prefix(':'));
        let chain: Option<Name> = chain.and_then(|l| l.split(' ').next()?.parse().ok());
        let rewritten = self.parts.iter().flat_map(|part| &part.rewritten);
        let mut found = rewritten.filter(|(name, _)| Some(*name) == chain.as_ref());
        let owner = found.find_map(|(_, (_, owner))| owner.clone());
        Some((line.to_owned(), owner))
    }

    /// Carries it out on what is known of the tables.
    pub(super) fn record(&self, there: &mut Rules) {
        for part in &self.parts {
            for (name, (rules, _)) in &part.rewritten {
                let (key, rules) = ((part.table, name.clone()), Arc::clone(rules));
                there.chains.insert(key, rules);
            }
            for name in &part.deleted {
                there.chains.remove(&(part.table, name.clone()));
            }
            for jump in &part.removed {
                if let Some(at) = there.jumps.iter().position(|other| other == jump) {
                    there.jumps.remove(at);
                }
            }
            there.jumps.extend(part.inserted.iter().cloned());
            there.jumps.sort_unstable();
        }
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| part.fmt(f))
    }
}

impl fmt::Display for Part {
    /// A chain that is declared is emptied. Those that go can go only when nothing leads to them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.table)?;
        for name in self.rewritten.keys().chain(&self.deleted) {
            writeln!(f, ":{name} - [0:0]")?;
        }
        for Jump { hook, rule, .. } in &self.removed {
            writeln!(f, "-D {hook} {rule}")?;
        }
        for (name, (rules, _)) in &self.rewritten {
            for rule in rules.iter() {
                writeln!(f, "-A {name} {rule}")?;
            }
        }
        // Each becomes the first of its chain.
        for Jump { hook, rule, .. } in self.inserted.iter().rev() {
            writeln!(f, "-I {hook} {rule}")?;
        }
        for name in &self.deleted {
            writeln!(f, "-X {name}")?;
        }
        writeln!(f, "COMMIT")
    }
}
