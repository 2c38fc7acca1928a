//! What became of a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Add;
use std::time::Duration;

use ipvs::Family;

use super::BackendError;
use crate::desired::{FrontendKey, Need, ServicePortName};

/// What became of the steps of a [`Plan`](crate::mode::ipvs::plan::Plan).
#[derive(Debug, Default)]
#[non_exhaustive]
#[must_use = "a step may have failed"]
pub struct ApplyReport {
    /// The steps that failed, in the order of the plan.
    pub failures: Vec<Failure>,
    /// Who was left out of steps that are taken but for them, since what is theirs is refused for
    /// what it is. They keep what they have.
    pub refused: Vec<Refused>,
    /// How many steps are not taken at all, since they are for such alone.
    pub in_vain: usize,
    /// How much was sent.
    pub counts: Counts,
    /// How connection tracking was brought in line, where there was a reason to.
    pub conntrack: BTreeMap<Family, Reconciled>,
}

/// What it took to make connection tracking forget flows of one family.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconciled {
    /// Flows deleted.
    pub deleted: u64,
    /// How long it took.
    pub took: Duration,
}

/// A step that failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Its place in the plan.
    pub step: usize,
    /// Why.
    pub error: BackendError,
}

/// A part of the node that can fail by itself and be tried again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Item {
    /// What serves a frontend.
    Frontend(FrontendKey),
    /// What frontends share.
    Need(Need),
}

/// What the failed steps of a plan call for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failures {
    /// Refused without effect: to be tried again.
    pub items: BTreeSet<Item>,
    /// Whether an audit is due: others have changed the node, or what failed is no single item's.
    pub needs_audit: bool,
    /// Whether nobody knows what the node has now: it must be read before anything else.
    pub is_unknown: bool,
}

/// A Service port that was left out of a step.
#[derive(Debug)]
#[non_exhaustive]
pub struct Refused {
    /// The step's place in the plan.
    pub step: usize,
    /// Whose part of it was refused.
    pub owner: ServicePortName,
    /// Why.
    pub error: BackendError,
}

/// How much was sent to the kernel, whatever became of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Changes of IPVS.
    pub ipvs_changes: u64,
    /// Packet-filter transactions.
    pub transactions: u64,
    /// Set elements added and deleted in them.
    pub elements: u64,
    /// Routes added and deleted.
    pub routes: u64,
    /// Sysctls written.
    pub sysctls: u64,
    /// Flows that connection tracking was told to forget.
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
    /// The places of the steps that failed, rising: what
    /// [`NodeState::record`](crate::mode::ipvs::plan::NodeState::record) takes.
    pub fn failed_steps(&self) -> Vec<usize> {
        self.failures.iter().map(|failure| failure.step).collect()
    }

    /// Takes in what became of a plan that was carried out behind this one, which had so many
    /// steps.
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

    /// Adds to what was done about flows of a family.
    pub(crate) fn reconciled(&mut self, family: Family, deleted: u64, took: Duration) {
        let reconciled = self.conntrack.entry(family).or_default();
        reconciled.deleted += deleted;
        reconciled.took += took;
    }

    #[cfg(any(feature = "ipvs", feature = "iptables", feature = "testing", test))]
    pub(crate) fn fail(&mut self, step: usize, error: impl Into<BackendError>) {
        let error = error.into();
        self.failures.push(Failure { step, error });
    }
}
