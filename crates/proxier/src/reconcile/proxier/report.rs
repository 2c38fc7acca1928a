//! What a sync did.

use std::collections::BTreeSet;

use crate::mode::ApplyReport;
use crate::mode::PlanSteps;
use crate::mode::ipvs::plan::Plan;
use crate::model::ObjectName;
use crate::notice::Notice;
use crate::store::Trigger;

/// What a sync did.
#[derive(Debug)]
#[non_exhaustive]
pub struct SyncReport<P = Plan> {
    /// Why it was done.
    pub kind: SyncKind,
    /// The steps that were to be taken.
    pub plan: P,
    /// What became of them.
    pub applied: ApplyReport,
    /// What led to the changes of endpoint slices that it took in.
    pub triggers: Vec<Trigger>,
    /// What it came across that an operator must know.
    pub notices: Vec<Notice>,
    /// Whose [problems](crate::Proxier::problems_of) may have come or gone.
    pub concerned: Concerned,
}

/// Services, some or all.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Concerned {
    /// All.
    All,
    /// These.
    Services(BTreeSet<ObjectName>),
}

/// Why a sync was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncKind {
    /// The node was observed, and everything compared.
    Full,
    /// A part of the node was observed and compared, in an audit that goes on.
    Slice,
    /// Something had changed; only that was looked at.
    Changes,
    /// Real servers had drained.
    Drained,
}

impl<P: PlanSteps> SyncReport<P> {
    /// Whether every step was taken, but for what is refused for single Services. Such a refusal
    /// stands, as one of their [problems](crate::Proxier::problems_of).
    pub fn is_success(&self) -> bool {
        self.applied.failures.is_empty()
    }

    /// Whether every step was taken, and nobody left out.
    pub fn is_complete(&self) -> bool {
        self.is_success() && self.applied.refused.is_empty()
    }

    /// Takes in what was done right after it.
    pub(super) fn append(&mut self, then: Self) {
        self.applied.append(then.applied, self.plan.count());
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
