//! A table's changes are taken as a whole or not at all: who is refused must not keep the others
//! from being served.

use std::collections::{BTreeSet, VecDeque};

use super::Refusal;
use crate::backend::BackendError;
use crate::desired::ServicePortName;
use crate::iptables::Transaction;

/// Has a transaction carried out but for what is refused, which is told, by Service port where one
/// is to blame: such a one keeps the rules that it has.
pub(super) fn carry_out(
    transaction: &Transaction,
    restore: &mut impl FnMut(&Transaction) -> Result<(), BackendError>,
) -> Vec<BackendError> {
    let Err(error) = restore(transaction) else {
        return Vec::new();
    };
    let number = refusal(&error).and_then(|refusal| Some(refusal.line.as_ref()?.0));
    let Some(place) = number.and_then(|number| transaction.table_of_line(number)) else {
        return vec![error];
    };
    // The tables before it are done.
    let mut failures = Vec::new();
    let mut tables = transaction.apart().skip(place);
    if let Some(table) = tables.next() {
        one_table(&table, error, restore, &mut failures);
    }
    for table in tables {
        if let Err(error) = restore(&table) {
            one_table(&table, error, restore, &mut failures);
        }
    }
    failures
}

fn one_table(
    table: &Transaction,
    mut error: BackendError,
    restore: &mut impl FnMut(&Transaction) -> Result<(), BackendError>,
    failures: &mut Vec<BackendError>,
) {
    let mut wanted = table.owners();
    // As long as one is named, and it is not as if all were.
    for _ in 0..NAMED {
        let owner = refusal(&error).and_then(|refusal| refusal.owner.clone());
        if owner.is_none_or(|owner| !wanted.remove(&owner)) {
            break;
        }
        failures.push(error);
        error = match restore(&table.only(&wanted)) {
            Ok(()) => return,
            Err(error) => error,
        };
    }
    if refusal(&error).is_none_or(|refusal| refusal.line.is_none()) || wanted.is_empty() {
        return failures.push(error);
    }
    if let Err(error) = restore(&table.only(&BTreeSet::new())) {
        // It is nobody's.
        return failures.push(error);
    }
    by_halves(&table.clone().without_jumps(), wanted, restore, failures);
}

/// Finds who is refused by trying some of them at a time, beside those who have been taken.
fn by_halves(
    table: &Transaction,
    wanted: BTreeSet<ServicePortName>,
    restore: &mut impl FnMut(&Transaction) -> Result<(), BackendError>,
    failures: &mut Vec<BackendError>,
) {
    let mut taken = BTreeSet::new();
    let mut groups = VecDeque::from([Vec::from_iter(wanted)]);
    let mut left = TRIED;
    while let Some(mut group) = groups.pop_front() {
        let with: BTreeSet<_> = taken.iter().chain(&group).cloned().collect();
        let refusal = match restore(&table.only(&with)) {
            Ok(()) => {
                taken = with;
                continue;
            }
            Err(BackendError::Iptables(refusal)) if refusal.line.is_some() => refusal,
            Err(error) => return failures.push(error),
        };
        left -= 1;
        let second = group.split_off(group.len().div_ceil(2));
        match group.pop() {
            Some(owner) if group.is_empty() && second.is_empty() => {
                failures.push(BackendError::Iptables(Box::new(refusal.of(owner))));
            }
            _ if left == 0 => return failures.push(BackendError::Iptables(refusal)),
            last => {
                group.extend(last);
                groups.extend([group, second]);
            }
        }
    }
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
mod tests;
