//! iptables in memory, for tests without privileges.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipvs::Family;

use super::data_plane::Tables;
use super::kernel::{Refusal, restore_all};
use super::{NodeState, Plan, Rules, Step, Transaction};
use crate::mode::{ApplyReport, NodeError, Sysctl};

/// The iptables of an in-memory node. It interprets the text for iptables-restore and prints what
/// iptables-save prints, and rejects what iptables rejects: a missing chain, one that is in use, a
/// rule that is not there. Clones share the node.
#[derive(Debug, Clone, Default)]
pub struct FakeIptables(Arc<Mutex<State>>);

/// How a run of an iptables program fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgramFault {
    /// iptables-restore ends with an error and without effect.
    Exit,
    /// iptables-restore is killed at its time limit, after it has changed the first table.
    Killed,
    /// iptables-save fails.
    Unreadable,
}

#[derive(Debug, Default)]
struct State {
    v4: Filter,
    v6: Filter,
    sysctls: BTreeMap<Sysctl, String>,
    /// The fault of a future run, and the number of runs until then: 1 is the next one.
    fault: Option<(usize, ProgramFault)>,
}

/// The rules of each chain of a table.
type Chains = BTreeMap<String, Vec<String>>;

/// The tables of one family.
#[derive(Debug, Clone)]
struct Filter(BTreeMap<&'static str, Chains>);

const BUILT_IN: [(&str, &[&str]); 2] = [
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
];

impl Default for Filter {
    fn default() -> Self {
        let tables = BUILT_IN.map(|(table, names)| {
            let chains = names.iter().map(|name| ((*name).to_owned(), Vec::new()));
            (table, chains.collect())
        });
        Self(tables.into())
    }
}

impl FakeIptables {
    /// Reads the node.
    pub fn state(&self) -> NodeState {
        let state = self.lock();
        let rules = |filter: &Filter| Rules::parse(&filter.saved());
        NodeState::new(state.sysctls.clone(), rules(&state.v4), rules(&state.v6))
    }

    /// Makes the `nth` run of a program from now on fail; none withdraws that.
    pub fn fail_run(&self, fault: Option<(usize, ProgramFault)>) {
        self.lock().fault = fault;
    }

    /// Whether a fault has not happened yet.
    pub fn has_pending_fault(&self) -> bool {
        self.lock().fault.is_some()
    }

    /// Removes all chains and rules, as `iptables -F` and `-X` do.
    pub fn flush(&self) {
        let mut state = self.lock();
        (state.v4, state.v6) = (Filter::default(), Filter::default());
    }

    /// Removes the rules in built-in chains, as `iptables -F PREROUTING` does.
    pub fn flush_jumps(&self) {
        let state = &mut *self.lock();
        for filter in [&mut state.v4, &mut state.v6] {
            for (table, names) in BUILT_IN {
                let chains = filter.0.get_mut(table).into_iter().flatten();
                let built_in = chains.filter(|(name, _)| names.contains(&name.as_str()));
                built_in.for_each(|(_, rules)| rules.clear());
            }
        }
    }

    /// Removes all of svcproxy's rules.
    pub fn remove_all(&self) -> ApplyReport {
        let node = self.state();
        self.clone().carry_out(&Plan::removal(&node)).0
    }

    fn restore(&self, transaction: &Transaction) -> Result<(), NodeError> {
        let state = &mut *self.lock();
        let fault = state.next_fault();
        if fault == Some(ProgramFault::Exit) {
            let refusal = Refusal::new("iptables-restore", "out of memory");
            return Err(NodeError::Iptables(Box::new(refusal)));
        }
        let filter = match transaction.family {
            Family::V4 => &mut state.v4,
            Family::V6 => &mut state.v6,
        };
        let most = match fault {
            Some(ProgramFault::Killed) => 1,
            _ => usize::MAX,
        };
        let done = filter.restore(&transaction.to_string(), most);
        match done {
            Err(said) => {
                let refusal = Refusal::new("iptables-restore", &said).located(transaction);
                Err(NodeError::Iptables(Box::new(refusal)))
            }
            Ok(()) if most == 1 => Err(program(io::ErrorKind::TimedOut)),
            Ok(()) => Ok(()),
        }
    }

    /// Ignores poisoning: the test that panicked reports its own failure.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn program(kind: io::ErrorKind) -> NodeError {
    let (program, source) = ("iptables-restore".to_owned(), kind.into());
    NodeError::Program { program, source }
}

impl State {
    fn next_fault(&mut self) -> Option<ProgramFault> {
        let (nth, fault) = self.fault.take()?;
        if nth <= 1 {
            return Some(fault);
        }
        self.fault = Some((nth - 1, fault));
        None
    }
}

impl Tables for FakeIptables {
    fn observe(&mut self) -> Result<NodeState, NodeError> {
        let fault = self.lock().next_fault();
        match fault {
            Some(_) => Err(program(io::ErrorKind::TimedOut)),
            None => Ok(self.state()),
        }
    }

    fn carry_out(&mut self, plan: &Plan) -> (ApplyReport, Option<Plan>) {
        for step in plan.steps() {
            if let Step::SetSysctl(sysctl, value) = step {
                self.lock().sysctls.insert(*sysctl, value.to_string());
            }
        }
        let mut report = ApplyReport::default();
        let done = restore_all(plan, &mut report, &mut |some| self.restore(some));
        (report, done)
    }
}

impl Filter {
    /// The output of iptables-save(8).
    fn saved(&self) -> String {
        let mut text = String::new();
        for (table, chains) in &self.0 {
            text += &format!("*{table}\n");
            for name in chains.keys() {
                text += &format!(":{name} - [0:0]\n");
            }
            for (name, rules) in chains {
                for rule in rules {
                    text += &format!("-A {name} {rule}\n");
                }
            }
            text += "COMMIT\n";
        }
        text
    }

    /// Does what iptables-restore(8) does with `--noflush`, with at most this many tables. A table
    /// with an error stays unchanged, and so do those after it.
    fn restore(&mut self, text: &str, most: usize) -> Result<(), String> {
        let mut done = 0;
        let mut open: Option<(&'static str, Chains)> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let failed = |why: &str| format!("line {number}: {why}");
            if let Some(name) = line.strip_prefix('*') {
                if done == most {
                    return Ok(());
                }
                let there = self.0.iter().find(|(table, _)| **table == name);
                let (table, chains) = there.ok_or_else(|| failed("no such table"))?;
                open = Some((*table, chains.clone()));
            } else if line == "COMMIT" {
                let (table, chains) = open.take().ok_or_else(|| failed("no table"))?;
                check_jumps(&chains).map_err(|why| failed(&why))?;
                self.0.insert(table, chains);
                done += 1;
            } else {
                let (_, chains) = open.as_mut().ok_or_else(|| failed("no table"))?;
                execute(chains, line).map_err(|why| failed(&why))?;
            }
        }
        Ok(())
    }
}

fn execute(chains: &mut Chains, line: &str) -> Result<(), String> {
    if let Some(declared) = line.strip_prefix(':') {
        let name = declared.split(' ').next().unwrap_or_default();
        chains.insert(name.to_owned(), Vec::new());
        return Ok(());
    }
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (name, rule) = rest.split_once(' ').unwrap_or((rest, ""));
    let rules = chains
        .get_mut(name)
        .ok_or_else(|| format!("no chain {name}"))?;
    match command {
        "-A" => rules.push(rule.to_owned()),
        "-I" => rules.insert(0, rule.to_owned()),
        "-D" => {
            let place = rules.iter().position(|there| there == rule);
            rules.remove(place.ok_or("no such rule")?);
        }
        "-X" if rules.is_empty() => _ = chains.remove(name),
        "-X" => return Err(format!("chain {name} is not empty")),
        other => return Err(format!("unknown command {other}")),
    }
    Ok(())
}

/// Every chain that a rule leads to exists.
fn check_jumps(chains: &Chains) -> Result<(), String> {
    const TARGETS: [&str; 6] = ["ACCEPT", "DROP", "RETURN", "REJECT", "MARK", "DNAT"];
    for rule in chains.values().flatten() {
        let mut words = rule
            .split(' ')
            .skip_while(|word| !["-j", "-g"].contains(word));
        let target = words.nth(1).unwrap_or_default();
        let is_known = TARGETS.contains(&target) || target == "MASQUERADE";
        if !is_known && !chains.contains_key(target) {
            return Err(format!("no chain {target}"));
        }
    }
    Ok(())
}
