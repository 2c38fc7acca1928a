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

/// A way to bring a node in line with a [`DesiredState`]: IPVS, or iptables.
///
/// Each has its own idea of what a node has and of the steps that change it, and a
/// [`Proxier`](crate::Proxier) does not look into either.
pub trait DataPlane {
    /// What a node has.
    type Node: Debug;
    /// What is to be done with it.
    type Plan: PlanSteps;
    /// What is known beyond a failure and an audit.
    type Memory: Debug + Default;

    /// Reads what the node has of ours; `before` is what it had when that was known last.
    ///
    /// # Errors
    ///
    /// If some part cannot be read. Nothing is changed by then.
    fn read(
        &mut self,
        desired: &DesiredState,
        before: Option<&Self::Node>,
        memory: &mut Self::Memory,
    ) -> Result<Self::Node, BackendError>;

    /// Begins to look whether a node is still as it is known to be: reads it, but for what is long
    /// to read. That stays as it is known, and [`audit`](Self::audit) is to look at it: at these
    /// virtual servers. None if all was read.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read). What is known stays then.
    fn begin_audit(
        &mut self,
        desired: &DesiredState,
        node: &mut Self::Node,
        memory: &mut Self::Memory,
    ) -> Result<Vec<VirtualServerKey>, BackendError> {
        *node = self.read(desired, Some(node), memory)?;
        Ok(Vec::new())
    }

    /// Takes in what a node has now for some of the virtual servers that
    /// [`begin_audit`](Self::begin_audit) left; the frontends of those that are not as they were
    /// known to be.
    ///
    /// # Errors
    ///
    /// If some cannot be read.
    fn audit(
        &mut self,
        _node: &mut Self::Node,
        _virtual_servers: &[VirtualServerKey],
        _memory: &mut Self::Memory,
    ) -> Result<Vec<FrontendKey>, BackendError> {
        Ok(Vec::new())
    }

    /// Compares what the node should have with what it has.
    fn plan(
        desired: &DesiredState,
        node: &Self::Node,
        scope: Scope<'_>,
        memory: &mut Self::Memory,
    ) -> Self::Plan;

    /// Carries a plan out. A step that fails does not keep the others from being taken unless
    /// they rest on it.
    fn carry_out(&mut self, plan: &Self::Plan, memory: &mut Self::Memory) -> ApplyReport;

    /// Records what the last plan did, and says what of it failed.
    fn record(
        node: &mut Self::Node,
        plan: &Self::Plan,
        applied: &ApplyReport,
        memory: &mut Self::Memory,
    ) -> Failures;

    /// What Services ask for that they do not get this way.
    fn limits(_desired: &DesiredState, _memory: &Self::Memory) -> Vec<Problem> {
        Vec::new()
    }

    /// Those of one Service.
    fn limits_of(
        _service: &ObjectName,
        _desired: &DesiredState,
        _memory: &Self::Memory,
    ) -> Vec<Problem> {
        Vec::new()
    }

    /// What an operator must know of the last reading of the node and the last plan, once.
    fn found(_desired: &DesiredState, _memory: &mut Self::Memory) -> Vec<Notice> {
        Vec::new()
    }

    /// Whether something waits for the end of connections.
    fn is_draining(_memory: &Self::Memory) -> bool {
        false
    }

    /// Removes what has waited for the end of its connections, or long enough. `None` if there is
    /// nothing.
    ///
    /// # Errors
    ///
    /// If the connections cannot be read.
    fn drain(
        &mut self,
        _node: &Self::Node,
        _memory: &mut Self::Memory,
        _timeout: Duration,
        _now: Instant,
    ) -> Result<Option<Self::Plan>, BackendError> {
        Ok(None)
    }

    /// How many servers a node has, if it is by them that it is served.
    fn servers(_node: &Self::Node) -> Option<Servers> {
        None
    }

    /// Whether a node has a virtual server of ours.
    fn has_virtual_server(_node: &Self::Node, _key: &VirtualServerKey) -> bool {
        false
    }

    /// What the Services' virtual servers have carried. Empty where nothing counts.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn carried(
        &mut self,
        _node: &Self::Node,
        _desired: &DesiredState,
    ) -> Result<Vec<Carried>, BackendError> {
        Ok(Vec::new())
    }

    /// The frontends that must be looked at after such a plan.
    fn drained(_node: &Self::Node, _plan: &Self::Plan) -> Vec<FrontendKey> {
        Vec::new()
    }
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
pub trait PlanSteps: Debug {
    /// How many there are.
    fn count(&self) -> usize;

    /// A summary of the one at a place.
    fn step(&self, place: usize) -> Option<String>;

    /// Takes the steps of another plan behind its own.
    fn append(&mut self, then: Self);
}

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
