//! The report of a sync.

use std::collections::BTreeSet;

use crate::mode::ApplyReport;
use crate::mode::PlanSteps;
use crate::mode::ipvs::plan::Plan;
use crate::model::ObjectName;
use crate::notice::Notice;
use crate::store::Trigger;

/// The report of a sync.
#[derive(Debug)]
#[non_exhaustive]
pub struct SyncReport<P = Plan> {
    /// The kind of sync.
    pub kind: SyncKind,
    /// The planned steps.
    pub plan: P,
    /// Their results.
    pub applied: ApplyReport,
    /// Whether nothing failed that all Services share.
    pub(super) is_timely: bool,
    /// The triggers of the changes of endpoint slices in this sync.
    pub(crate) triggers: Vec<Trigger>,
    /// Notices for the operator.
    pub notices: Vec<Notice>,
    /// The Services whose [problems](crate::Proxier::problems_of) may have changed.
    pub concerned: Concerned,
}

/// Some or all Services.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Concerned {
    /// All.
    All,
    /// These Services.
    Services(BTreeSet<ObjectName>),
}

/// Why a sync was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncKind {
    /// The node was read, and everything was compared.
    Full,
    /// One slice of an audit: a part of the node was read and compared.
    Slice,
    /// Only changes were compared and applied.
    Changes,
    /// Drained real servers were removed.
    Drained,
}

impl<P: PlanSteps> SyncReport<P> {
    /// Whether every step succeeded, except for what the node [refuses](ApplyReport::refused) to single
    /// Services. That is a [problem](crate::Proxier::problems_of) of the Service.
    pub fn is_success(&self) -> bool {
        self.applied.failures.is_empty()
    }

    /// Whether the changes count as applied: every step succeeded, except for those of single
    /// Services. A Service whose steps failed is retried, and has a
    /// [problem](crate::Proxier::problems_of) until they succeed.
    pub const fn is_timely(&self) -> bool {
        self.is_timely
    }

    /// Whether every step succeeded, without exceptions.
    pub fn is_complete(&self) -> bool {
        self.is_success() && self.applied.refused.is_empty()
    }

    /// Merges the report of the next sync into this one.
    pub(super) fn append(&mut self, then: Self) {
        self.applied.append(then.applied, self.plan.count());
        self.is_timely &= then.is_timely;
        self.plan.append(then.plan);
        self.triggers.extend(then.triggers);
        self.notices.extend(then.notices);
        self.concerned.append(then.concerned);
    }
}

impl Concerned {
    fn append(&mut self, then: Self) {
        match (&mut *self, then) {
            (Self::Services(services), Self::Services(more)) => services.extend(more),
            _ => *self = Self::All,
        }
    }
}
