//! What became of a plan.

use super::BackendError;

/// What became of the steps of a [`Plan`](crate::plan::Plan).
#[derive(Debug, Default)]
#[non_exhaustive]
#[must_use = "a step may have failed"]
pub struct ApplyReport {
    /// The steps that failed, in the order of the plan.
    pub failures: Vec<Failure>,
    /// How much was sent.
    pub counts: Counts,
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
}

impl ApplyReport {
    /// The places of the steps that failed, rising: what
    /// [`NodeState::record`](crate::plan::NodeState::record) takes.
    pub fn failed_steps(&self) -> Vec<usize> {
        self.failures.iter().map(|failure| failure.step).collect()
    }

    #[cfg(any(feature = "ipvs", feature = "testing", test))]
    pub(super) fn fail(&mut self, step: usize, error: impl Into<BackendError>) {
        let error = error.into();
        self.failures.push(Failure { step, error });
    }
}
