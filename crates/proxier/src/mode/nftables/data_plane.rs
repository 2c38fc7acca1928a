//! nftables mode as a [`DataPlane`].

use std::time::{Duration, Instant};

use ipvs::VirtualServerKey;

use super::{NftablesKernel, NodeState, Plan, Step, problems};
use crate::desired::{DesiredState, FrontendKey, Problem};
use crate::mode::flows::OwedFlows;
use crate::mode::ipvs::plan::Scope;
use crate::mode::sealed::Sealed;
use crate::mode::{
    ApplyReport, Carried, DataPlane, DataPlaneStatus, Drained, Failures, NodeError, Reading,
    ServerCounts,
};
use crate::model::ObjectName;
use crate::notice::Notice;

/// The nftables tables of a node.
pub(crate) trait Tables {
    /// Reads the tables.
    fn observe(&mut self) -> Result<NodeState, NodeError>;

    /// Executes a plan in order. A rejected step does not stop the others.
    fn apply(&mut self, plan: &Plan) -> ApplyReport;
}

impl Tables for NftablesKernel {
    fn observe(&mut self) -> Result<NodeState, NodeError> {
        self.observe()
    }

    fn apply(&mut self, plan: &Plan) -> ApplyReport {
        self.apply(plan)
    }
}

/// nftables mode on one node. Connections drain by themselves, because connection tracking keeps
/// translating them.
#[derive(Debug)]
pub struct Nftables<T = NftablesKernel> {
    tables: T,
    /// The state of the node, if it is known.
    node: Option<NodeState>,
    owed: OwedFlows,
}

impl<T> Nftables<T> {
    /// nftables mode with these tables, which are not read yet.
    pub const fn new(tables: T) -> Self {
        Self {
            tables,
            node: None,
            owed: OwedFlows::new(),
        }
    }
}

impl<T: Tables> Sealed for Nftables<T> {}

impl<T: Tables> DataPlane for Nftables<T> {
    type Plan = Plan;

    const COUNTS_TRAFFIC: bool = false;

    fn status(&self) -> DataPlaneStatus {
        DataPlaneStatus {
            is_known: self.node.is_some(),
            is_auditing: false,
            is_draining: false,
        }
    }

    fn forget(&mut self) {
        self.node = None;
    }

    fn read(&mut self, _: Reading, _: &DesiredState) -> Result<Vec<FrontendKey>, NodeError> {
        self.node = Some(self.tables.observe()?);
        Ok(Vec::new())
    }

    fn plan(&mut self, desired: &DesiredState, scope: Scope<'_>) -> Plan {
        let Some(node) = &self.node else {
            return Plan::default();
        };
        let mut plan = Plan::new(desired, node, scope);
        plan.append(
            self.owed
                .within(scope.touched())
                .map(Step::DeleteFlows)
                .collect(),
        );
        plan
    }

    fn carry_out(&mut self, plan: &Plan) -> (ApplyReport, Failures) {
        let report = self.tables.apply(plan);
        let failed = report.failures.iter();
        let failed = failed.filter_map(|failure| plan.steps().get(failure.step));
        let tried = plan.steps().iter().filter_map(Step::flows);
        self.owed.record(tried, failed.filter_map(Step::flows));
        // A transaction whose answer was lost may be in effect.
        let mut errors = report.failures.iter().map(|failure| &failure.error);
        let is_unknown = errors.any(NodeError::is_outcome_unknown);
        match &mut self.node {
            _ if is_unknown => self.node = None,
            Some(node) => node.record(plan, &report.failed_steps()),
            None => {}
        }
        let mut failures = Failures {
            needs_audit: !report.failures.is_empty(),
            is_unknown,
            ..Failures::default()
        };
        failures.attribute(plan.steps(), &report.failures, Step::item);
        (report, failures)
    }

    fn drain(&mut self, _: Duration, _: Instant) -> Result<Option<Drained<Plan>>, NodeError> {
        Ok(None)
    }

    fn problems(&self, desired: &DesiredState, of: Option<&ObjectName>) -> Vec<Problem> {
        problems(desired, of)
    }

    fn take_notices(&mut self, _: &DesiredState) -> Vec<Notice> {
        Vec::new()
    }

    fn servers(&self) -> Option<ServerCounts> {
        None
    }

    fn has_virtual_server(&self, _: &VirtualServerKey) -> bool {
        false
    }

    fn carried(&mut self, _: &DesiredState) -> Result<Option<Vec<Carried>>, NodeError> {
        Ok(self.node.is_some().then(Vec::new))
    }
}
