//! iptables-restore applies the changes of a table completely or not at all. This module isolates
//! the Service ports whose rules are rejected, so that all others work.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Refusal;
use crate::desired::ServicePortName;
use crate::mode::iptables::{Plan, Step, Transaction};
use crate::mode::{ApplyReport, NodeError, Refused};

/// Executes all transactions of a plan. Returns the executed part of the plan if a Service port was
/// left out.
pub(crate) fn restore_all(
    plan: &Plan,
    report: &mut ApplyReport,
    restore: &mut impl FnMut(&Transaction) -> Result<(), NodeError>,
) -> Option<Plan> {
    let mut done = BTreeMap::new();
    for (step, planned) in plan.steps().iter().enumerate() {
        let Step::Restore(transaction) = planned else {
            continue;
        };
        report.counts.transactions += transaction.tables().map(|_| 1).sum::<u64>();
        let outcome = carry_out(transaction, restore);
        for error in outcome.failures {
            report.fail(step, error);
        }
        let refused = outcome.refused.into_iter();
        let refused = refused.map(|(owner, error)| Refused { step, owner, error });
        report.refused.extend(refused);
        done.extend(outcome.done.map(|done| (step, done)));
    }
    if report.refused.is_empty() {
        return None;
    }
    let done = plan.with(&done);
    report.in_vain = plan.steps().len() - done.steps().len();
    Some(done)
}

/// The result of a transaction.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// Failures that belong to no single Service port.
    pub(crate) failures: Vec<NodeError>,
    /// The rejected Service ports. They keep their previous rules.
    pub(crate) refused: Vec<(ServicePortName, NodeError)>,
    /// The executed part, if it is not everything.
    pub(crate) done: Option<Transaction>,
}

/// Executes a transaction without the parts that iptables rejects, and reports these by Service
/// port if possible.
pub(crate) fn carry_out(
    transaction: &Transaction,
    restore: &mut impl FnMut(&Transaction) -> Result<(), NodeError>,
) -> Restored {
    let mut outcome = Restored::default();
    let Err(error) = restore(transaction) else {
        return outcome;
    };
    let number = refusal(&error).and_then(|refusal| Some(refusal.line.as_ref()?.0));
    let Some(place) = number.and_then(|number| transaction.table_of_line(number)) else {
        outcome.failures.push(error);
        return outcome;
    };
    let mut tables = transaction.apart();
    // The tables before it are in effect.
    let mut done: Vec<_> = tables.by_ref().take(place).collect();
    let mut first = Some(error);
    for table in tables {
        let result = first.take().map_or_else(|| restore(&table), Err);
        match result {
            Ok(()) => done.push(table),
            Err(error) => done.extend(one_table(&table, error, restore, &mut outcome)),
        }
    }
    outcome.done = Some(transaction.of_tables(done));
    outcome
}

/// Executes one table's changes, which were rejected together, without the rejected Service ports.
fn one_table(
    table: &Transaction,
    mut error: NodeError,
    restore: &mut impl FnMut(&Transaction) -> Result<(), NodeError>,
    outcome: &mut Restored,
) -> Option<Transaction> {
    let mut wanted = table.owners();
    // Leave out the Service port that the error names, a few times: maybe all of them are rejected.
    for _ in 0..NAMED {
        let owner = refusal(&error).and_then(|refusal| refusal.owner.clone());
        let Some(owner) = owner.filter(|owner| wanted.remove(owner)) else {
            break;
        };
        outcome.refused.push((owner, error));
        let others = table.only(&wanted);
        error = match some(&others, restore) {
            Ok(()) => return Some(others),
            Err(error) => error,
        };
    }
    if refusal(&error).is_none_or(|refusal| refusal.line.is_none()) || wanted.is_empty() {
        outcome.failures.push(error);
        return None;
    }
    if let Err(error) = some(&table.only(&BTreeSet::new()), restore) {
        // The failure belongs to no Service port.
        outcome.failures.push(error);
        return None;
    }
    let taken = by_halves(&table.clone().without_jumps(), wanted, restore, outcome);
    Some(table.only(&taken))
}

/// Finds the rejected Service ports by bisection: tries some of them together with the accepted
/// ones. Returns the accepted ones.
fn by_halves(
    table: &Transaction,
    wanted: BTreeSet<ServicePortName>,
    restore: &mut impl FnMut(&Transaction) -> Result<(), NodeError>,
    outcome: &mut Restored,
) -> BTreeSet<ServicePortName> {
    let mut taken = BTreeSet::new();
    let mut groups = VecDeque::from([Vec::from_iter(wanted)]);
    let mut left = TRIED;
    while let Some(mut group) = groups.pop_front() {
        let with: BTreeSet<_> = taken.iter().chain(&group).cloned().collect();
        let refusal = match some(&table.only(&with), restore) {
            Ok(()) => {
                taken = with;
                continue;
            }
            Err(NodeError::Iptables(refusal)) if refusal.line.is_some() => refusal,
            Err(error) => {
                outcome.failures.push(error);
                break;
            }
        };
        left -= 1;
        let second = group.split_off(group.len().div_ceil(2));
        match group.pop() {
            Some(owner) if group.is_empty() && second.is_empty() => {
                let error = NodeError::Iptables(Box::new(refusal.of(owner.clone())));
                outcome.refused.push((owner, error));
            }
            _ if left == 0 => {
                outcome.failures.push(NodeError::Iptables(refusal));
                break;
            }
            last => {
                group.extend(last);
                groups.extend([group, second]);
            }
        }
    }
    taken
}

/// Executes a part of a transaction, unless it is empty.
fn some(
    some: &Transaction,
    restore: &mut impl FnMut(&Transaction) -> Result<(), NodeError>,
) -> Result<(), NodeError> {
    if some.is_empty() {
        return Ok(());
    }
    restore(some)
}

/// How many Service ports are left out one after another because an error names them. More than
/// that are found faster by bisection.
const NAMED: usize = 8;
/// Limit of runs to isolate rejections, because each run reads the whole table. The next sync
/// continues from the rules that are in effect then.
const TRIED: usize = 64;

fn refusal(error: &NodeError) -> Option<&Refusal> {
    match error {
        NodeError::Iptables(refusal) => Some(refusal),
        _ => None,
    }
}

#[cfg(test)]
mod lasting;
#[cfg(test)]
mod tests;
