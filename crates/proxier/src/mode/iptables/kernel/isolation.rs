//! A table's changes are taken as a whole or not at all: who is refused must not keep the others
//! from being served.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Refusal;
use crate::desired::ServicePortName;
use crate::mode::iptables::{Plan, Step, Transaction};
use crate::mode::{ApplyReport, BackendError, Refused};

/// Has all transactions of a plan carried out; what was done of the plan, if somebody was left out.
pub(crate) fn restore_all(
    plan: &Plan,
    report: &mut ApplyReport,
    restore: &mut impl FnMut(&Transaction) -> Result<(), BackendError>,
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

/// What became of a transaction.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What failed for nobody in particular.
    pub(crate) failures: Vec<BackendError>,
    /// Who was refused: such a one keeps the rules that it has.
    pub(crate) refused: Vec<(ServicePortName, BackendError)>,
    /// What was carried out, if that is not all of it.
    pub(crate) done: Option<Transaction>,
}

/// Has a transaction carried out but for what is refused, which is told, by Service port where one
/// is to blame.
pub(crate) fn carry_out(
    transaction: &Transaction,
    restore: &mut impl FnMut(&Transaction) -> Result<(), BackendError>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let Err(error) = restore(transaction) else {
        return outcome;
    };
    let number = refusal(&error).and_then(|refusal| Some(refusal.line.as_ref()?.0));
    let Some(place) = number.and_then(|number| transaction.table_of_line(number)) else {
        outcome.failures.push(error);
        return outcome;
    };
    let mut tables = transaction.apart();
    // The tables before it are done.
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

/// What was carried out of a table's changes of which all together were refused.
fn one_table(
    table: &Transaction,
    mut error: BackendError,
    restore: &mut impl FnMut(&Transaction) -> Result<(), BackendError>,
    outcome: &mut Outcome,
) -> Option<Transaction> {
    let mut wanted = table.owners();
    // As long as one is named, and it is not as if all were.
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
        // It is nobody's.
        outcome.failures.push(error);
        return None;
    }
    let taken = by_halves(&table.clone().without_jumps(), wanted, restore, outcome);
    Some(table.only(&taken))
}

/// Finds who is refused by trying some of them at a time, beside those who have been taken; who
/// was.
fn by_halves(
    table: &Transaction,
    wanted: BTreeSet<ServicePortName>,
    restore: &mut impl FnMut(&Transaction) -> Result<(), BackendError>,
    outcome: &mut Outcome,
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
            Err(BackendError::Iptables(refusal)) if refusal.line.is_some() => refusal,
            Err(error) => {
                outcome.failures.push(error);
                break;
            }
        };
        left -= 1;
        let second = group.split_off(group.len().div_ceil(2));
        match group.pop() {
            Some(owner) if group.is_empty() && second.is_empty() => {
                let error = BackendError::Iptables(Box::new(refusal.of(owner.clone())));
                outcome.refused.push((owner, error));
            }
            _ if left == 0 => {
                outcome.failures.push(BackendError::Iptables(refusal));
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

/// Has some of a transaction carried out, if there is any.
fn some(
    some: &Transaction,
    restore: &mut impl FnMut(&Transaction) -> Result<(), BackendError>,
) -> Result<(), BackendError> {
    if some.is_empty() {
        return Ok(());
    }
    restore(some)
}

/// How many one after another are left out because a line names them: more are found faster
/// together.
const NAMED: usize = 8;
/// How often at most a refusal is looked into: each time the program reads the whole table. The
/// next sync begins with what is in force by then.
const TRIED: usize = 64;

fn refusal(error: &BackendError) -> Option<&Refusal> {
    match error {
        BackendError::Iptables(refusal) => Some(refusal),
        _ => None,
    }
}

#[cfg(test)]
mod lasting;
#[cfg(test)]
mod tests;
