//! The input of iptables-restore(8), as a value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipvs::Family;

use super::{Jump, Name, Rule, Rules, Table};
use crate::desired::ServicePortName;

/// Changes of one family's tables. Those of each table are applied completely or not at all.
/// `Display` is the input for `iptables-restore --noflush`.
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
    pub(super) rewritten: BTreeMap<Name, Written>,
    /// Chains to delete, with their rules.
    pub(super) deleted: BTreeMap<Name, Arc<[Rule]>>,
    pub(super) inserted: Vec<Jump>,
    /// Rules to delete from built-in chains; duplicates are deleted once per entry.
    pub(super) removed: Vec<Jump>,
}

/// A chain whose rules are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) rules: Arc<[Rule]>,
    /// The Service port that it belongs to, if any.
    pub(super) owner: Option<ServicePortName>,
    /// The existing rules, if the chain exists.
    pub(super) was: Option<Arc<[Rule]>>,
}

impl Part {
    pub(super) const fn new(table: Table) -> Self {
        Self {
            table,
            rewritten: BTreeMap::new(),
            deleted: BTreeMap::new(),
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
    /// Removes all of svcproxy's rules.
    #[must_use]
    pub fn removal(family: Family, there: &Rules) -> Self {
        let parts = Table::ALL.map(|table| {
            let of_table = there.chains.iter().filter(|((of, _), _)| *of == table);
            let of_table = of_table.map(|((_, name), rules)| (name.clone(), Arc::clone(rules)));
            let jumps = there.jumps.iter().filter(|jump| jump.table == table);
            Part {
                deleted: of_table.collect(),
                removed: jumps.cloned().collect(),
                ..Part::new(table)
            }
        });
        let parts = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Self { family, parts }
    }

    /// Splits it into one transaction per table, so that the rejection of one does not affect the
    /// others.
    #[cfg(all(feature = "ipvs", feature = "iptables"))]
    pub(crate) fn by_table(self) -> impl Iterator<Item = Self> {
        let family = self.family;
        self.parts.into_iter().map(move |part| Self {
            family,
            parts: vec![part],
        })
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The changed tables, in order.
    pub fn tables(&self) -> impl Iterator<Item = Table> {
        self.parts.iter().map(|part| part.table)
    }

    /// The number of chains that it writes and deletes.
    pub fn chains(&self) -> usize {
        let parts = self.parts.iter();
        parts
            .map(|part| part.rewritten.len() + part.deleted.len())
            .sum()
    }

    /// The table and name of each chain that it changes, built-in chains first.
    pub fn changed(&self) -> Vec<String> {
        self.names(usize::MAX).0
    }

    /// The names of what it changes, built-in chains first, and how many names are left out.
    pub(super) fn names(&self, limit: usize) -> (Vec<String>, usize) {
        let built_in = self.parts.iter().flat_map(|part| {
            let jumps = part.inserted.iter().chain(&part.removed);
            jumps.map(|jump| format!("{} {}", part.table, jump.hook))
        });
        let built_in: BTreeSet<_> = built_in.collect();
        let own = self.parts.iter().flat_map(|part| {
            let chains = part.rewritten.keys().chain(part.deleted.keys());
            chains.map(|name| (part.table, name))
        });
        let count = built_in.len() + self.chains();
        let own = own
            .take(limit)
            .map(|(table, name)| format!("{table} {name}"));
        let named: Vec<_> = built_in.into_iter().chain(own).take(limit).collect();
        let left_out = count - named.len();
        (named, left_out)
    }

    /// The line of the text with this number (from 1), and its Service port.
    pub fn line(&self, number: usize) -> Option<(String, Option<ServicePortName>)> {
        let text = self.to_string();
        let line = text.lines().nth(number.checked_sub(1)?)?;
        let (chain, rule) = match line.strip_prefix("-A ") {
            Some(rest) => rest.split_once(' ')?,
            None => (line.strip_prefix(':').unwrap_or_default(), ""),
        };
        let chain: Option<Name> = chain.split(' ').next().and_then(|name| name.parse().ok());
        let written = self
            .parts
            .iter()
            .filter_map(|part| part.rewritten.get(chain.as_ref()?));
        let owner = written.filter_map(|chain| chain.owner.clone()).next();
        let owner = owner.or_else(|| Rule::observed(rule).owner());
        Some((line.to_owned(), owner))
    }

    /// Applies it to the known state of the tables.
    pub(crate) fn record(&self, there: &mut Rules) {
        for part in &self.parts {
            for (name, chain) in &part.rewritten {
                let (key, rules) = ((part.table, name.clone()), Arc::clone(&chain.rules));
                there.chains.insert(key, rules);
            }
            for name in part.deleted.keys() {
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
    /// Declaring a chain empties it. A chain can be deleted only after all rules that jump to it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.table)?;
        for name in self.rewritten.keys().chain(self.deleted.keys()) {
            writeln!(f, ":{name} - [0:0]")?;
        }
        for Jump { hook, rule, .. } in &self.removed {
            writeln!(f, "-D {hook} {rule}")?;
        }
        for (name, chain) in &self.rewritten {
            for rule in chain.rules.iter() {
                writeln!(f, "-A {name} {rule}")?;
            }
        }
        // Each inserted rule becomes the first one of its chain, hence the reverse order.
        for Jump { hook, rule, .. } in self.inserted.iter().rev() {
            writeln!(f, "-I {hook} {rule}")?;
        }
        for name in self.deleted.keys() {
            writeln!(f, "-X {name}")?;
        }
        writeln!(f, "COMMIT")
    }
}
