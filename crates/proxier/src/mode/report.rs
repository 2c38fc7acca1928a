//! The results of a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Add;
use std::time::Duration;

use ipvs::Family;

use super::NodeError;
use crate::desired::{FrontendKey, Need, ServicePortName};
use crate::escaped::Chain;

/// The results of the steps of a plan.
#[derive(Debug, Default)]
#[non_exhaustive]
#[must_use = "a step may have failed"]
pub struct ApplyReport {
    /// The failed steps, in the order of the plan.
    pub failures: Vec<Failure>,
    /// The Service ports that were left out, and are problems of their Services: those whose rules
    /// iptables rejects permanently, which keep their previous rules, and those at whose address mode
    /// userspace cannot listen.
    pub refused: Vec<Refused>,
    /// The number of steps that had no effect because they belong only to such Service ports.
    pub(crate) in_vain: usize,
    /// The amount of work that was sent.
    pub counts: Counts,
    /// The deletions of flows from connection tracking, if there was a reason for any.
    pub conntrack: BTreeMap<Family, Reconciled>,
}

/// The deletion of one family's flows from connection tracking.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconciled {
    /// Number of deleted flows.
    pub deleted: u64,
    /// Duration.
    pub took: Duration,
}

/// A step that failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Its index in the plan.
    pub step: usize,
    /// Why.
    pub error: NodeError,
}

/// A part of the node that can fail and be retried separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Item {
    /// A frontend.
    Frontend(FrontendKey),
    /// Something that frontends share.
    Need(Need),
}

/// The retries that the failed steps of a plan need.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failures {
    /// Items that the kernel rejected without effect, to retry.
    pub items: BTreeSet<Item>,
    /// Whether an audit is due: because of drift, or because a failure belongs to no single item.
    pub(crate) needs_audit: bool,
    /// Whether the state of the node is unknown: it must be read before anything else.
    pub(crate) is_unknown: bool,
    /// What failed, and why.
    pub(crate) causes: BTreeMap<Part, String>,
    /// Whether something failed that all Services share, such as the rules.
    pub(crate) is_general: bool,
}

/// What a failed step belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// A single item.
    Item(Item),
    /// No single item: the step, as text.
    Step(String),
}

impl Failures {
    /// Records what the failed steps of a plan belong to. A step of no single item is general.
    ///
    /// The first failure of an item counts: those of later steps follow from it.
    pub(crate) fn attribute<S: Display>(
        &mut self,
        steps: &[S],
        failures: &[Failure],
        item: impl Fn(&S) -> Option<Item>,
    ) {
        for failure in failures {
            if matches!(failure.error, NodeError::NotTried) {
                continue;
            }
            let Some(step) = steps.get(failure.step) else {
                continue;
            };
            let item = item(step);
            self.is_general |= item.is_none() || failure.error.is_outcome_unknown();
            let part = item.map_or_else(|| Part::Step(step.to_string()), Part::Item);
            let cause = || Chain(&failure.error).to_string();
            self.causes.entry(part).or_insert_with(cause);
        }
    }
}

/// A Service port that was left out of a step.
#[derive(Debug)]
#[non_exhaustive]
pub struct Refused {
    /// The index of the step in the plan.
    pub step: usize,
    /// The Service port.
    pub owner: ServicePortName,
    /// Why.
    pub error: NodeError,
}

/// The amount of work that was sent to the kernel, successful or not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Changes of IPVS.
    pub ipvs_changes: u64,
    /// nftables or iptables transactions.
    pub transactions: u64,
    /// Set elements added and deleted in them.
    pub elements: u64,
    /// Routes added and deleted.
    pub routes: u64,
    /// Sysctls written.
    pub sysctls: u64,
    /// Flows deleted from connection tracking.
    pub flows: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            ipvs_changes: self.ipvs_changes + other.ipvs_changes,
            transactions: self.transactions + other.transactions,
            elements: self.elements + other.elements,
            routes: self.routes + other.routes,
            sysctls: self.sysctls + other.sysctls,
            flows: self.flows + other.flows,
        }
    }
}

impl ApplyReport {
    /// The ascending indices of the failed steps, for
    /// [`NodeState::record`](crate::mode::ipvs::plan::NodeState::record).
    pub fn failed_steps(&self) -> Vec<usize> {
        self.failures.iter().map(|failure| failure.step).collect()
    }

    /// Merges the results of a plan that was executed after this one; `steps` is the number of this
    /// one's steps.
    pub(crate) fn append(&mut self, then: Self, steps: usize) {
        let failures = then.failures.into_iter();
        self.failures.extend(failures.map(|failure| Failure {
            step: failure.step + steps,
            ..failure
        }));
        let refused = then.refused.into_iter();
        self.refused.extend(refused.map(|refused| Refused {
            step: refused.step + steps,
            ..refused
        }));
        self.in_vain += then.in_vain;
        self.counts = self.counts + then.counts;
        for (family, Reconciled { deleted, took }) in then.conntrack {
            self.reconciled(family, deleted, took);
        }
    }

    /// Adds a deletion of a family's flows.
    pub(crate) fn reconciled(&mut self, family: Family, deleted: u64, took: Duration) {
        let reconciled = self.conntrack.entry(family).or_default();
        reconciled.deleted += deleted;
        reconciled.took += took;
    }

    #[cfg(any(feature = "ipvs", feature = "iptables", feature = "testing", test))]
    pub(crate) fn fail(&mut self, step: usize, error: impl Into<NodeError>) {
        let error = error.into();
        self.failures.push(Failure { step, error });
    }
}
