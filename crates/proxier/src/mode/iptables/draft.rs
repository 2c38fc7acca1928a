//! The desired chains, some or all of them.

use std::net::IpAddr;
use std::num::NonZeroU16;

use foldhash::{HashMap, HashMapExt};

use super::frontend::{CLASSES, OfFrontend, Place, delivery, verdict};
use super::name::{Class, HEALTH_CHECKS};
use super::rule::{Match, Target};
use super::{Name, Rule, Rules, Table, base};
use crate::desired::{Config, Frontend, FrontendKey, ServicePortName};

/// Desired changes of existing rules; without existing rules, the complete desired rules.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    there: Option<&'a Rules>,
    /// The desired chains so far. They may equal the existing ones.
    pub(super) chains: HashMap<(Table, Name), Chain>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Chain {
    pub(super) rules: Vec<Rule>,
    /// The Service port that it belongs to, if any.
    pub(super) owner: Option<ServicePortName>,
    /// Keep the chain even if it is empty.
    pub(super) is_fixed: bool,
}

impl<'a> Draft<'a> {
    /// An empty draft of complete rules.
    pub(super) fn from_scratch() -> Self {
        let (there, chains) = (None, HashMap::new());
        Self { there, chains }
    }

    /// A draft of changes to existing rules.
    pub(super) fn of(there: &'a Rules) -> Self {
        let (there, chains) = (Some(there), HashMap::new());
        Self { there, chains }
    }

    /// Whether the draft is complete, so that all other chains are deleted.
    pub(super) const fn is_everything(&self) -> bool {
        self.there.is_none()
    }

    /// Adds everything that does not depend on Services.
    pub(super) fn base(&mut self, config: &Config, family: ipvs::Family) {
        let roots = base::ROOTS.map(|(table, word)| (table, word, Vec::new()));
        for (table, word, rules) in base::chains(config, family).into_iter().chain(roots) {
            let chain = Chain {
                rules,
                owner: None,
                is_fixed: true,
            };
            self.chains.insert((table, Name::of(word)), chain);
        }
    }

    /// Sets the health check node ports.
    pub(super) fn health_checks(&mut self, ports: impl Iterator<Item = NonZeroU16>) {
        let chain = Chain {
            rules: base::health_checks(ports),
            owner: None,
            is_fixed: true,
        };
        let key = (Table::Filter, Name::of(HEALTH_CHECKS));
        self.chains.insert(key, chain);
    }

    /// Sets the frontend of a key, or removes it.
    pub(super) fn frontend(
        &mut self,
        key: FrontendKey,
        frontend: Option<&Frontend>,
        config: &Config,
    ) {
        let nat = frontend.map(|f| delivery(f, config)).unwrap_or_default();
        let filter = frontend.map(verdict).unwrap_or_default();
        let owner = frontend.map(|f| &f.owner);
        for (table, of) in [(Table::Nat, nat), (Table::Filter, filter)] {
            let OfFrontend { mut chains, target } = of;
            for class in CLASSES {
                let made = chains.iter_mut().find(|(of, _)| *of == class);
                if made.is_none() && self.is_everything() {
                    continue;
                }
                let rules = made
                    .map(|(_, rules)| std::mem::take(rules))
                    .unwrap_or_default();
                let owner = owner.cloned();
                let chain = Chain {
                    rules,
                    owner,
                    is_fixed: false,
                };
                self.chains.insert((table, Name::hashed(class, key)), chain);
            }
            if target.is_none() && self.is_everything() {
                continue;
            }
            let place = Place::of_frontend(table, key);
            let rule = owner.zip(target.as_ref());
            let rule = rule.map(|(owner, target)| place.leaf.clone().comment(owner).then(target));
            self.hang(&place, rule);
        }
    }

    /// Adds or removes the masquerade of a backend's connections to itself.
    pub(super) fn hairpin(&mut self, address: IpAddr, wanted: bool) {
        let place = Place::of_hairpin(address);
        let rule = wanted.then(|| place.leaf.clone().then(&Target::Masquerade));
        self.hang(&place, rule);
    }

    /// Inserts a rule into a tree, with the branches that lead to it, or removes both. Stops at the
    /// first chain that stays unchanged.
    fn hang(&mut self, place: &Place, rule: Option<Rule>) {
        let (mut matching, mut rule) = (place.leaf.clone(), rule);
        for branch in place.branches() {
            let name = place.chain(&branch);
            let Some(is_empty) = self.put(place.table, &name, &matching, rule) else {
                return;
            };
            rule = (!is_empty).then(|| branch.clone().then(&Target::Goto(name)));
            matching = branch;
        }
        self.put(place.table, &Name::of(place.root), &matching, rule);
    }

    /// Makes `rule` the chain's only rule with this match, in the order of the chain. Returns
    /// whether the chain is empty now, or `None` if it did not change.
    fn put(
        &mut self,
        table: Table,
        name: &Name,
        matching: &Match,
        rule: Option<Rule>,
    ) -> Option<bool> {
        let key = (table, name.clone());
        let old = self.there;
        let old = || old.map(|rules| rules.chain(table, name));
        let there = match self.chains.get(&key) {
            Some(chain) => chain.rules.as_slice(),
            None => old().unwrap_or_default(),
        };
        // Rules with the same match are adjacent.
        let first = there.partition_point(|other| other.as_str() < matching.as_str());
        let same = there.iter().skip(first);
        let same = same.take_while(|other| other.as_str().starts_with(matching.as_str()));
        let same = first..first + same.count();
        if there.get(same.clone()) == Some(rule.as_slice()) {
            return None;
        }
        let chain = self.chains.entry(key).or_insert_with(|| Chain {
            rules: old().unwrap_or_default().to_vec(),
            owner: None,
            is_fixed: !name.is_a(Class::Branch),
        });
        chain.rules.splice(same, rule);
        Some(chain.rules.is_empty())
    }
}
