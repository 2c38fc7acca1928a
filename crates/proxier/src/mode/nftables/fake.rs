//! nftables in memory, for tests without privileges.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::data_plane::Tables;
use super::{Chooser, Element, Elements, NodeState, Plan, Step};
use crate::errno::{EEXIST, ENOBUFS, ENOENT};
use crate::mode::{ApplyReport, NodeError};

/// The nftables tables of an in-memory node. It rejects what Linux rejects: an element whose key has
/// another value, one that is not there, anything before the tables exist. Clones share the node.
#[derive(Debug, Clone, Default)]
pub struct FakeNftables(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    node: NodeState,
    /// The errno of future steps, counted from the next one.
    faults: BTreeMap<usize, i32>,
    observe_fault: Option<i32>,
    /// The number of transactions until the one whose answer is lost.
    lost_answer: Option<usize>,
}

impl FakeNftables {
    /// Reads the node.
    pub fn state(&self) -> NodeState {
        self.lock().node.clone()
    }

    /// Makes a step fail with this errno and without effect: 1 is the next one.
    pub fn fail_step(&self, nth: usize, errno: i32) {
        self.lock().faults.insert(nth, errno);
    }

    /// Executes the `nth` plan from now on, but loses the answer: all of its steps seem to fail.
    pub fn lose_answer(&self, nth: usize) {
        self.lock().lost_answer = Some(nth);
    }

    /// Makes the next reading of the node fail with this errno.
    pub fn fail_observe(&self, errno: i32) {
        self.lock().observe_fault = Some(errno);
    }

    /// The number of faults that have not happened.
    pub fn pending_faults(&self) -> usize {
        let state = self.lock();
        let lost = usize::from(state.lost_answer.is_some());
        state.faults.len() + usize::from(state.observe_fault.is_some()) + lost
    }

    /// Withdraws all faults that have not happened.
    pub fn clear_faults(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.observe_fault = None;
        state.lost_answer = None;
    }

    /// Removes all tables, as `nft flush ruleset` does.
    pub fn flush(&self) {
        let node = &mut self.lock().node;
        let sysctls = std::mem::take(&mut node.sysctls);
        *node = NodeState {
            sysctls,
            ..NodeState::default()
        };
    }

    /// Removes an element, as another program may do. Does nothing if there are fewer.
    pub fn remove_element(&self, nth: usize) {
        let elements = &mut self.lock().node.elements;
        let mut keys: Vec<_> = elements.frontends().copied().collect();
        keys.sort_unstable();
        let all = keys.iter().flat_map(|key| elements.of(key));
        let element = all.map(|(element, _)| *element).nth(nth);
        if let Some(element) = element {
            elements.remove(&element);
        }
    }

    /// Ignores poisoning: the test that panicked reports its own failure.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_fault(&mut self) -> Option<i32> {
        let faults = std::mem::take(&mut self.faults).into_iter();
        let faults = faults.map(|(nth, errno)| (nth.saturating_sub(1), errno));
        self.faults = faults.collect();
        self.faults.remove(&0)
    }

    fn execute(&mut self, step: &Step) -> Result<(), i32> {
        if let Some(errno) = self.next_fault() {
            return Err(errno);
        }
        let node = &mut self.node;
        let has_tables = node.ruleset.is_some();
        match step {
            Step::SetSysctl(sysctl, value) => {
                node.sysctls.insert(*sysctl, value.to_string());
            }
            Step::InstallRuleset(_, kept) if !kept.iter().all(|kept| has_chooser(node, kept)) => {
                return Err(ENOENT);
            }
            Step::InstallRuleset(..) => node.record(&[step.clone()].into_iter().collect(), &[]),
            Step::DeleteFlows(_) => {}
            _ if !has_tables => return Err(ENOENT),
            Step::AddChooser(chooser) if has_chooser(node, chooser) => return Err(EEXIST),
            Step::ReplaceChooser(chooser) | Step::DeleteChooser(chooser)
                if !has_chooser(node, chooser) =>
            {
                return Err(ENOENT);
            }
            Step::AddChooser(_) | Step::ReplaceChooser(_) | Step::DeleteChooser(_) => {
                node.record(&[step.clone()].into_iter().collect(), &[]);
            }
            Step::AddElement(element, comment) => {
                if clashes(&node.elements, element) {
                    return Err(EEXIST);
                }
                // As without NLM_F_EXCL, an existing element stays unchanged.
                if !node.elements.contains(element) {
                    node.elements.insert(*element, comment.clone());
                }
            }
            Step::DeleteElement(element) => {
                if !node.elements.contains(element) {
                    return Err(ENOENT);
                }
                node.elements.remove(element);
            }
        }
        Ok(())
    }
}

fn has_chooser(node: &NodeState, chooser: &Chooser) -> bool {
    node.choosers.contains(chooser) || node.outdated.contains(chooser)
}

/// Whether the map of this element has another value for its key.
fn clashes(elements: &Elements, element: &Element) -> bool {
    let Some(of) = element.frontend() else {
        return false;
    };
    let mut there = elements.of(&of).map(|(there, _)| there);
    there.any(|there| there.excludes(element) && there != element)
}

impl Tables for FakeNftables {
    fn observe(&mut self) -> Result<NodeState, NodeError> {
        let fault = self.lock().observe_fault.take();
        match fault {
            Some(errno) => Err(error("list the table", errno)),
            None => Ok(self.state()),
        }
    }

    fn apply(&mut self, plan: &Plan) -> ApplyReport {
        let mut report = ApplyReport::default();
        let mut state = self.lock();
        let is_lost = match state.lost_answer {
            _ if plan.is_empty() => false,
            Some(nth) => {
                state.lost_answer = (nth > 1).then(|| nth - 1);
                nth <= 1
            }
            None => false,
        };
        for (place, step) in plan.steps().iter().enumerate() {
            let executed = state.execute(step);
            let outcome = if is_lost { Err(ENOBUFS) } else { executed };
            if let Err(errno) = outcome {
                report.fail(place, error("change the tables", errno));
            }
        }
        report
    }
}

fn error(operation: &'static str, errno: i32) -> NodeError {
    let source = io::Error::from_raw_os_error(errno);
    NodeError::PacketFilter { operation, source }
}
