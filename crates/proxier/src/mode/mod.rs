//! The modes, which turn the desired state into kernel state.

#[cfg(any(feature = "ipvs", feature = "iptables"))]
pub(crate) mod conntrack;
mod error;
pub(crate) mod flows;
pub mod iptables;
pub mod ipvs;
mod limits;
pub mod nftables;
pub mod probe;
#[cfg(any(feature = "ipvs", feature = "iptables"))]
pub(crate) mod proc_sys;
mod report;
mod sysctl;
pub mod trace;
pub mod userspace;

use std::fmt::{Debug, Display};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ::ipvs::{Statistics, VirtualServerKey};

use crate::desired::{DesiredState, FrontendKey, Problem};
use crate::mode::ipvs::plan::{Plan, Scope};
use crate::model::ObjectName;
use crate::notice::Notice;

pub use error::NodeError;
pub use flows::Flows;
pub use limits::{limits, limits_of};
pub(crate) use report::Part;
pub use report::{ApplyReport, Counts, Failure, Failures, Item, Reconciled, Refused};
pub use sysctl::Sysctl;

/// The plan that removes what has drained, and the frontends without real servers after it.
pub type Drained<P> = (P, Vec<FrontendKey>);

/// A mode on one node: the known state of the node, further knowledge, and the kernel to change
/// it.
///
/// [`Ipvs`](ipvs::Ipvs) and [`Iptables`](iptables::Iptables) are the modes. A
/// [`Proxier`](crate::Proxier) reads, plans and executes, in this order; both node and plan are
/// opaque to it.
pub trait DataPlane: sealed::Sealed {
    /// The plan type of the mode.
    type Plan: PlanSteps;

    /// Whether the mode counts the Services' traffic. Metrics of one that does not would be zeros
    /// that look like no traffic.
    const COUNTS_TRAFFIC: bool;

    /// What is under way, and whether the state of the node is known.
    fn status(&self) -> DataPlaneStatus;

    /// Forgets the state of the node, so that it is read in full before the next plan.
    fn forget(&mut self);

    /// Reads the node. Returns the frontends whose state differs from the known one in a slice.
    ///
    /// # Errors
    ///
    /// If some part cannot be read. The known state is kept, and the current audit ends.
    fn read(
        &mut self,
        what: Reading,
        desired: &DesiredState,
    ) -> Result<Vec<FrontendKey>, NodeError>;

    /// Compares the desired state with the node. Empty if the state of the node is unknown.
    fn plan(&mut self, desired: &DesiredState, scope: Scope<'_>) -> Self::Plan;

    /// Executes a plan and records its results. After a failed step, only steps that depend on it
    /// are skipped.
    fn carry_out(&mut self, plan: &Self::Plan) -> (ApplyReport, Failures);

    /// Plans the removal of what has drained or reached the drain timeout. `None` if there is
    /// nothing to remove.
    ///
    /// # Errors
    ///
    /// If the connections cannot be read.
    fn drain(
        &mut self,
        timeout: Duration,
        now: Instant,
    ) -> Result<Option<Drained<Self::Plan>>, NodeError>;

    /// Problems of this mode: what Services request and do not get. With a name, those of one
    /// Service.
    fn problems(&self, desired: &DesiredState, of: Option<&ObjectName>) -> Vec<Problem>;

    /// Notices about the last reading of the node and the last plan.
    fn take_notices(&mut self, desired: &DesiredState) -> Vec<Notice>;

    /// What the last reading found wrong with the node that svcproxy cannot repair.
    fn conditions(&self) -> Vec<Notice> {
        Vec::new()
    }

    /// The numbers of servers. `None` if they are unknown, or the mode has none.
    fn servers(&self) -> Option<ServerCounts>;

    /// The first of the real servers that drain. Empty in a mode that leaves draining to connection
    /// tracking.
    fn drains(&self, _desired: &DesiredState, _most: usize, _now: Instant) -> Vec<Drain> {
        Vec::new()
    }

    /// Whether the node has this virtual server and svcproxy owns it.
    fn has_virtual_server(&self, key: &VirtualServerKey) -> bool;

    /// The traffic of the Services' virtual servers; empty in a mode that does not
    /// [count it](Self::COUNTS_TRAFFIC). `None` if the state of the node is unknown.
    ///
    /// # Errors
    ///
    /// If the counters cannot be read.
    fn carried(&mut self, desired: &DesiredState) -> Result<Option<Vec<Carried>>, NodeError>;
}

mod sealed {
    /// Sealed: besides a [`DataPlane`](super::DataPlane), a mode needs a take-over, a probe and a
    /// clean-up, so it cannot be added from outside.
    pub trait Sealed {}
}

/// The part of a node to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Everything at once.
    Full,
    /// The beginning of an audit. Parts that take long to read are left to the slices.
    Audit,
    /// The next slice of the current audit.
    Slice,
}

/// The state of a [`DataPlane`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPlaneStatus {
    /// Whether the state of the node is known.
    pub(crate) is_known: bool,
    /// Whether an audit has slices left.
    pub is_auditing: bool,
    /// Whether something drains.
    pub is_draining: bool,
}

/// Numbers of servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// Virtual servers.
    pub virtual_servers: usize,
    /// Real servers that accept new connections.
    pub active: usize,
    /// Draining real servers.
    pub draining: usize,
}

/// A real server that drains.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drain {
    /// The virtual IP, protocol and port.
    pub vip: FrontendKey,
    /// The Service that has it; `None` if none has it any more.
    pub service: Option<ObjectName>,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// For how long; `None` until the first check.
    pub lasts: Option<Duration>,
}

/// The traffic of a virtual server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The virtual server.
    pub key: VirtualServerKey,
    /// The Service.
    pub service: ObjectName,
    /// The counters since it was created.
    pub statistics: Statistics,
}

/// Ordered steps.
pub trait PlanSteps: Debug + sealed::Sealed {
    /// A step of the mode.
    type Step: Display;

    /// The steps, in the order of execution.
    fn steps(&self) -> &[Self::Step];

    /// Appends the steps of another plan.
    fn append(&mut self, then: Self);

    /// The number of steps.
    fn count(&self) -> usize {
        self.steps().len()
    }

    /// What a step changes.
    fn kind(step: &Self::Step) -> StepKind;

    /// Whether a step only removes what svcproxy itself left for the next audit. Such a step repairs
    /// nothing that another program did.
    fn tidies(_: &Self::Step) -> bool {
        false
    }

    /// A summary of the step at an index.
    fn step(&self, place: usize) -> Option<String> {
        self.steps().get(place).map(ToString::to_string)
    }
}

/// What a step changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StepKind {
    /// An element of an nftables set.
    Element,
    /// Flows of connection tracking; in mode userspace connections.
    Flows,
    /// The timeouts of IPVS.
    IpvsTimeouts,
    /// A listener of mode userspace, or what it serves.
    Listener,
    /// A real server.
    RealServer,
    /// A route or a routing rule.
    Route,
    /// Rules of nftables or iptables.
    Rules,
    /// A sysctl.
    Sysctl,
    /// A virtual server.
    VirtualServer,
}

impl StepKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Element,
        Self::Flows,
        Self::IpvsTimeouts,
        Self::Listener,
        Self::RealServer,
        Self::Route,
        Self::Rules,
        Self::Sysctl,
        Self::VirtualServer,
    ];

    /// The name, as in metrics: `real_server`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Element => "element",
            Self::Flows => "flows",
            Self::IpvsTimeouts => "ipvs_timeouts",
            Self::Listener => "listener",
            Self::RealServer => "real_server",
            Self::Route => "route",
            Self::Rules => "rules",
            Self::Sysctl => "sysctl",
            Self::VirtualServer => "virtual_server",
        }
    }
}

macro_rules! plan {
    ($plan:ty, $step:ty $(, $tidies:item)?) => {
        impl sealed::Sealed for $plan {}

        impl PlanSteps for $plan {
            type Step = $step;

            fn kind(step: &$step) -> StepKind {
                step.kind()
            }

            $($tidies)?

            fn steps(&self) -> &[$step] {
                self.steps()
            }

            fn append(&mut self, then: Self) {
                self.append(then);
            }
        }
    };
}

plan!(Plan, ipvs::plan::Step);
plan!(iptables::Plan, iptables::Step);
plan!(
    nftables::Plan,
    nftables::Step,
    fn tidies(step: &nftables::Step) -> bool {
        matches!(step, nftables::Step::DeleteChooser(_))
    }
);
plan!(userspace::Plan, userspace::Step);
