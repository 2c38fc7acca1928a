//! The seam between what a node should have and the ways to give it that.

#[cfg(any(feature = "ipvs", feature = "iptables"))]
pub(crate) mod conntrack;
mod error;
pub mod iptables;
pub mod ipvs;
pub mod probe;
mod report;
#[cfg(any(feature = "ipvs", feature = "iptables"))]
pub(crate) mod sysctl;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use ::ipvs::{Statistics, VirtualServerKey};

use crate::desired::{DesiredState, FrontendKey, Problem};
use crate::mode::ipvs::plan::{Plan, Scope};
use crate::model::ObjectName;
use crate::notice::Notice;

pub use error::BackendError;
pub use report::{ApplyReport, Counts, Failure, Failures, Item, Reconciled, Refused};

/// The removal of what has drained, and the frontends that it leaves without real servers.
pub type Drained<P> = (P, Vec<FrontendKey>);

/// A mode at work on one node: what the node has, what is known beyond that, and the way to change it.
///
/// [`Ipvs`](ipvs::Ipvs) and [`Iptables`](iptables::Iptables) are the modes. A
/// [`Proxier`](crate::Proxier) reads, plans and carries out, in this order, and looks into neither the
/// node nor the plan.
pub trait DataPlane: sealed::Sealed {
    /// What is to be done with the node.
    type Plan: PlanSteps;

    /// What is under way, and whether it is known what the node has.
    fn status(&self) -> Status;

    /// Has the node read in full before the next plan.
    fn forget(&mut self);

    /// Reads what the node has; the frontends that a slice has found not to be as they were known.
    ///
    /// # Errors
    ///
    /// If some part cannot be read. What was known stays, and an audit under way has ended.
    fn read(
        &mut self,
        what: Reading,
        desired: &DesiredState,
    ) -> Result<Vec<FrontendKey>, BackendError>;

    /// Compares what the node should have with what it has. Empty if that is not known.
    fn plan(&mut self, desired: &DesiredState, scope: Scope<'_>) -> Self::Plan;

    /// Carries a plan out and takes note of what it did. A step that fails does not keep the others
    /// from being taken unless they rest on it.
    fn carry_out(&mut self, plan: &Self::Plan) -> (ApplyReport, Failures);

    /// The removal of what has waited for the end of its connections, or long enough, and the
    /// frontends that it leaves without real servers. `None` if there is nothing.
    ///
    /// # Errors
    ///
    /// If the connections cannot be read.
    fn drain(
        &mut self,
        timeout: Duration,
        now: Instant,
    ) -> Result<Option<Drained<Self::Plan>>, BackendError>;

    /// What Services ask for that they do not get in this mode; with a name, those of one Service.
    fn problems(&self, desired: &DesiredState, of: Option<&ObjectName>) -> Vec<Problem>;

    /// What an operator must know of the last reading of the node and the last plan.
    fn take_notices(&mut self, desired: &DesiredState) -> Vec<Notice>;

    /// How many servers the node has. `None` if that is not known, or has no meaning.
    fn servers(&self) -> Option<Servers>;

    /// Whether the node has a virtual server of svcproxy's.
    fn has_virtual_server(&self, key: &VirtualServerKey) -> bool;

    /// What the Services' virtual servers have carried; empty where nothing counts. `None` if it is
    /// not known what the node has.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn carried(&mut self, desired: &DesiredState) -> Result<Option<Vec<Carried>>, BackendError>;
}

mod sealed {
    /// A mode needs a take-over, a probe and a clean-up beside a [`DataPlane`](super::DataPlane), so
    /// others cannot add one from outside.
    pub trait Sealed {}
}

/// What to read of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// All of it, at once.
    Full,
    /// What an audit begins with. What takes long to read stays as it is known until its slice.
    Audit,
    /// The next slice of the audit under way.
    Slice,
}

/// The state of a [`DataPlane`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Whether it is known what the node has.
    pub is_known: bool,
    /// Whether an audit has slices left.
    pub is_auditing: bool,
    /// Whether something waits for the end of its connections.
    pub is_draining: bool,
}

/// Numbers of servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Servers {
    /// Virtual servers.
    pub virtual_servers: usize,
    /// Their real servers that take new connections.
    pub active: usize,
    /// Those that wait for the end of their connections.
    pub draining: usize,
}

/// What a virtual server has carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The virtual server.
    pub key: VirtualServerKey,
    /// For whom.
    pub service: ObjectName,
    /// How much, since it was made.
    pub statistics: Statistics,
}

/// Steps in an order.
pub trait PlanSteps: Debug + sealed::Sealed {
    /// How many there are.
    fn count(&self) -> usize;

    /// A summary of the one at a place.
    fn step(&self, place: usize) -> Option<String>;

    /// Takes the steps of another plan behind its own.
    fn append(&mut self, then: Self);
}

impl sealed::Sealed for Plan {}

impl PlanSteps for Plan {
    fn count(&self) -> usize {
        self.steps().len()
    }

    fn step(&self, place: usize) -> Option<String> {
        self.steps().get(place).map(ToString::to_string)
    }

    fn append(&mut self, then: Self) {
        self.append(then);
    }
}

impl sealed::Sealed for iptables::Plan {}

impl PlanSteps for iptables::Plan {
    fn count(&self) -> usize {
        self.steps().len()
    }

    fn step(&self, place: usize) -> Option<String> {
        self.steps().get(place).map(ToString::to_string)
    }

    fn append(&mut self, then: Self) {
        self.append(then);
    }
}
