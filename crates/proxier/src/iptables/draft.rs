//! Chains as they should be, some or all of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::base;
use super::frontend::{CLASSES, OfFrontend, delivery, verdict};
use super::name::Class;
use super::rule::{Match, Target};
use super::tree::Place;
use super::{Name, Rule, Rules, Table};
use crate::desired::{Config, Frontend, FrontendKey, ServicePortName};

/// Changes to what there is; without that, everything is made from scratch.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    there: Option<&'a Rules>,
    /// The chains that were looked at, which need not differ from those that are there.
    pub(super) chains: BTreeMap<(Table, Name), Chain>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Chain {
    pub(super) rules: Vec<Rule>,
    /// The Service port it is for, if it is for one.
    pub(super) owner: Option<ServicePortName>,
    /// It stays though it be empty.
    pub(super) is_fixed: bool,
}

impl<'a> Draft<'a> {
    /// Nothing yet.
    pub(super) fn from_scratch() -> Self {
        let (there, chains) = (None, BTreeMap::new());
        Self { there, chains }
    }

    /// What there is, to be changed.
    pub(super) fn of(there: &'a Rules) -> Self {
        let (there, chains) = (Some(there), BTreeMap::new());
        Self { there, chains }
    }

    /// Whether what it does not have should not be there.
    pub(super) const fn is_everything(&self) -> bool {
        self.there.is_none()
    }

    /// All that does not depend on Services.
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

    /// The frontend of a key, or that there is none.
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
            let place = Place::of_frontend(table, key);
            let rule = owner.zip(target.as_ref());
            let rule = rule.map(|(owner, target)| place.leaf.clone().comment(owner).then(target));
            self.hang(&place, rule);
        }
    }

    /// Whether a backend may be its own client.
    pub(super) fn hairpin(&mut self, address: IpAddr, wanted: bool) {
        let place = Place::of_hairpin(address);
        let rule = wanted.then(|| place.leaf.clone().then(&Target::Masquerade));
        self.hang(&place, rule);
    }

    /// Puts a rule into a tree, with the branches that lead there, or takes both out.
    fn hang(&mut self, place: &Place, rule: Option<Rule>) {
        let (mut matching, mut rule) = (&place.leaf, rule);
        for branch in place.branches.iter().rev() {
            let name = place.chain(branch);
            let is_empty = self.put(place.table, &name, matching, rule);
            rule = (!is_empty).then(|| branch.clone().then(&Target::Goto(name)));
            matching = branch;
        }
        self.put(place.table, &Name::of(place.root), matching, rule);
    }

    /// Makes this the chain's only rule that matches this; whether the chain is empty then.
    fn put(&mut self, table: Table, name: &Name, matching: &Match, rule: Option<Rule>) -> bool {
        let key = (table, name.clone());
        let there = match self.chains.get(&key) {
            Some(chain) => chain.rules.as_slice(),
            None => self
                .there
                .map(|rules| rules.chain(table, name))
                .unwrap_or_default(),
        };
        let is_same = |old: &&Rule| old.as_str().starts_with(matching.as_str());
        if there.iter().filter(is_same).eq(rule.as_ref()) {
            return there.is_empty();
        }
        let mut rules: Vec<_> = there.iter().filter(|old| !is_same(old)).cloned().collect();
        if let Some(rule) = rule {
            let at = rules.partition_point(|other| *other < rule);
            rules.insert(at, rule);
        }
        let is_empty = rules.is_empty();
        let is_fixed = !name.is_a(Class::Branch);
        self.chains.insert(
            key,
            Chain {
                rules,
                owner: None,
                is_fixed,
            },
        );
        is_empty
    }
}
