//! Splits a transaction that iptables rejected as a whole.

use std::collections::{BTreeMap, BTreeSet};

use super::frontend::CLASSES;
use super::transaction::Part;
use super::{Name, Plan, Rule, Step, Transaction};
use crate::desired::{FrontendKey, ServicePortName};

impl Transaction {
    /// Splits it into one transaction per table, in order.
    pub(crate) fn apart(&self) -> impl Iterator<Item = Self> {
        let family = self.family;
        let parts = self.parts.iter().cloned();
        parts.map(move |part| Self {
            family,
            parts: vec![part],
        })
    }

    /// Joins the changes of these tables.
    pub(crate) fn of_tables(&self, tables: impl IntoIterator<Item = Self>) -> Self {
        let parts = tables.into_iter().flat_map(|table| table.parts);
        Self {
            family: self.family,
            parts: parts.collect(),
        }
    }

    /// Whether it writes a chain of a frontend.
    pub(crate) fn is_for(&self, key: FrontendKey) -> bool {
        let mut names = CLASSES.map(|class| Name::hashed(class, key)).into_iter();
        names.any(|name| {
            let mut parts = self.parts.iter();
            parts.any(|part| part.rewritten.contains_key(&name))
        })
    }

    /// The index of the table that the line with this number (from 1) belongs to.
    pub(crate) fn table_of_line(&self, number: usize) -> Option<usize> {
        let text = self.to_string();
        let before = text.lines().take(number);
        let begun = before.filter(|line| line.starts_with('*')).count();
        begun.checked_sub(1)
    }

    /// The Service ports with new rules.
    pub(crate) fn owners(&self) -> BTreeSet<ServicePortName> {
        let chains = self.parts.iter().flat_map(|part| part.rewritten.values());
        let mut owners = BTreeSet::new();
        for chain in chains {
            if let Some(owner) = &chain.owner {
                owners.insert(owner.clone());
                continue;
            }
            let was = chain.was.as_deref().unwrap_or_default();
            let new = chain.rules.iter().filter(|rule| !was.contains(rule));
            owners.extend(new.filter_map(Rule::owner));
        }
        owners
    }

    /// The same transaction with changes of these Service ports only; all others keep their rules.
    pub(crate) fn only(&self, owners: &BTreeSet<ServicePortName>) -> Self {
        let mut only = self.clone();
        let others = self.owners();
        let others: BTreeSet<_> = others.difference(owners).collect();
        for part in &mut only.parts {
            part.leave_out(&|owner| others.contains(owner));
        }
        only.parts.retain(|part| !part.is_empty());
        only
    }

    /// Removes the jumps from built-in chains, which are already in effect.
    pub(crate) fn without_jumps(mut self) -> Self {
        for part in &mut self.parts {
            part.inserted.clear();
            part.removed.clear();
        }
        self.parts.retain(|part| !part.is_empty());
        self
    }
}

impl Plan {
    /// The plan as it was executed: with these transactions in place of the steps with these
    /// indices. Deletions of flows of the Services that were left out are left out too.
    #[must_use]
    pub(crate) fn with(&self, done: &BTreeMap<usize, Transaction>) -> Self {
        let planned = |place: &usize| match self.steps().get(*place) {
            Some(Step::Restore(transaction)) => Some(transaction),
            _ => None,
        };
        let is_left_out = |key| {
            let mut steps = done.iter();
            steps.any(|(place, done)| {
                planned(place).is_some_and(|planned| planned.is_for(key)) && !done.is_for(key)
            })
        };
        let steps = self.steps().iter().enumerate();
        let steps = steps.filter_map(|(place, step)| match (step, done.get(&place)) {
            (_, Some(done)) => (!done.is_empty()).then(|| Step::Restore(done.clone())),
            (Step::DeleteFlows(flows), _) if is_left_out(flows.to) => None,
            (step, _) => Some(step.clone()),
        });
        Self::of(steps.collect())
    }
}

impl Part {
    /// Leaves out the chains of some owners: existing ones stay unchanged, new ones are not
    /// created, and the same holds for the rules that jump to them.
    fn leave_out(&mut self, is_out: &impl Fn(&ServicePortName) -> bool) {
        let mut kept = Vec::new();
        self.rewritten.retain(|_, chain| {
            let stays = chain.owner.as_ref().is_some_and(is_out);
            if stays {
                kept.extend(chain.was.iter().flat_map(|was| was.iter().cloned()));
            }
            !stays
        });
        let is_out = |rule: &&Rule| rule.owner().is_some_and(|owner| is_out(&owner));
        for chain in self.rewritten.values_mut() {
            let was = chain.was.as_deref().unwrap_or_default();
            if chain.owner.is_some() || !chain.rules.iter().chain(was).any(|rule| is_out(&rule)) {
                continue;
            }
            let stay = was.iter().filter(is_out);
            kept.extend(stay.clone().cloned());
            let new = chain.rules.iter().filter(|rule| !is_out(rule));
            let mut rules: Vec<_> = new.chain(stay).cloned().collect();
            rules.sort_unstable();
            chain.rules = rules.into();
        }
        // Nothing else was to change in this chain.
        self.rewritten
            .retain(|_, chain| chain.was.as_ref() != Some(&chain.rules));
        // Keep every chain that a kept rule jumps to.
        while let Some(rule) = kept.pop() {
            let chain = rule.leads_to();
            if let Some(rules) = chain.and_then(|name| self.deleted.remove(&name)) {
                kept.extend(rules.iter().cloned());
            }
        }
    }
}
