//! iptables mode as a [`DataPlane`].

use std::time::{Duration, Instant};

use ipvs::VirtualServerKey;

use crate::desired::FrontendKey;
use crate::mode::flows::OwedFlows;
use crate::mode::iptables::{IptablesKernel, NodeState, Plan, Refusals, Step};
use crate::mode::limits::{limits, limits_of};
use crate::mode::sealed::Sealed;
use crate::mode::{
    ApplyReport, Carried, DataPlane, DataPlaneStatus, DesiredState, Failure, Failures, Item,
    NodeError, Problem, Reading, Scope, ServerCounts,
};
use crate::model::ObjectName;
use crate::notice::Notice;

/// The iptables tables of a node.
pub(crate) trait Tables {
    /// Reads the tables.
    fn observe(&mut self) -> Result<NodeState, NodeError>;

    /// Executes a plan without the parts that iptables rejects. Returns the executed part if some
    /// was left out.
    fn carry_out(&mut self, plan: &Plan) -> (ApplyReport, Option<Plan>);
}

impl Tables for IptablesKernel {
    fn observe(&mut self) -> Result<NodeState, NodeError> {
        self.observe()
    }

    fn carry_out(&mut self, plan: &Plan) -> (ApplyReport, Option<Plan>) {
        self.carry_out(plan)
    }
}

/// iptables mode on one node. Connections drain by themselves, because connection tracking keeps
/// translating them.
#[derive(Debug)]
pub struct Iptables<T = IptablesKernel> {
    tables: T,
    /// The state of the node, if it is known.
    node: Option<NodeState>,
    refusals: Refusals,
    /// Whether the last plan was based on a fresh reading.
    is_fresh: bool,
    owed: OwedFlows,
}

/// The name of the mode.
const NAME: &str = "iptables";

impl<T> Iptables<T> {
    /// iptables mode with these tables, which are not read yet.
    pub fn new(tables: T) -> Self {
        Self {
            tables,
            node: None,
            refusals: Refusals::default(),
            is_fresh: false,
            owed: OwedFlows::new(),
        }
    }

    #[cfg(test)]
    pub(crate) const fn tables_mut(&mut self) -> &mut T {
        &mut self.tables
    }

    /// Records rejections, and returns the steps that failed for no single Service. If the plan was
    /// not based on a fresh reading, another program may have changed the node. Then a new
    /// rejection counts as a failure, so that the node is read again.
    fn ingest(&mut self, report: &mut ApplyReport) -> Vec<usize> {
        let refused = std::mem::take(&mut report.refused).into_iter();
        let (refused, new): (Vec<_>, Vec<_>) =
            refused.partition(|refused| self.is_fresh || self.refusals.is_retried(&refused.owner));
        let failed = report.failed_steps();
        let new = new.into_iter();
        report.failures.extend(new.map(|refused| Failure {
            step: refused.step,
            error: refused.error,
        }));
        self.refusals.settle(&refused, report.failures.is_empty());
        report.refused = refused;
        failed
    }
}

impl<T: Tables> Sealed for Iptables<T> {}

impl<T: Tables> DataPlane for Iptables<T> {
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
        self.is_fresh = matches!(scope, Scope::Full);
        let mut plan = match scope {
            Scope::Full => {
                self.refusals.retry_all();
                Plan::new(desired, node, scope)
            }
            Scope::Touched(touched) => match self.refusals.retry(desired, touched) {
                Some(more) => Plan::new(desired, node, Scope::Touched(&more)),
                None => Plan::new(desired, node, scope),
            },
        };
        plan.append(
            self.owed
                .within(scope.touched())
                .map(Step::DeleteFlows)
                .collect(),
        );
        plan
    }

    fn carry_out(&mut self, plan: &Plan) -> (ApplyReport, Failures) {
        let (mut report, done) = self.tables.carry_out(plan);
        let failed_flows = report.failures.iter();
        let failed_flows = failed_flows.filter_map(|failure| plan.steps().get(failure.step));
        let tried = done.as_ref().unwrap_or(plan).steps();
        self.owed.record(
            tried.iter().filter_map(Step::flows),
            failed_flows.filter_map(Step::flows),
        );
        let mut failures = Failures::default();
        // Before new rejections join them: they belong to single Services, and the audit that they
        // start reports them as such.
        failures.attribute(plan.steps(), &report.failures, |step| {
            step.flows().map(|flows| Item::Frontend(flows.to))
        });
        let failed = self.ingest(&mut report);
        // If iptables-restore failed for no single Service, it may have changed only some of the
        // tables.
        let is_restore = |place: &usize| matches!(plan.steps().get(*place), Some(Step::Restore(_)));
        let is_unknown = failed.iter().any(is_restore);
        match (&mut self.node, done) {
            (_, _) if is_unknown => self.node = None,
            (Some(node), Some(done)) => node.record(&done, &[]),
            (Some(node), None) => node.record(plan, &failed),
            (None, _) => {}
        }
        failures.needs_audit = !report.failures.is_empty();
        failures.is_unknown = is_unknown;
        (report, failures)
    }

    fn drain(
        &mut self,
        _: Duration,
        _: Instant,
    ) -> Result<Option<(Plan, Vec<FrontendKey>)>, NodeError> {
        Ok(None)
    }

    fn problems(&self, desired: &DesiredState, of: Option<&ObjectName>) -> Vec<Problem> {
        match of {
            None => {
                let mut problems = limits(desired, NAME);
                problems.extend(self.refusals.problems());
                problems
            }
            Some(service) => {
                let refused = self.refusals.problem_of(service);
                let limits = limits_of(service, desired, NAME);
                limits.chain(refused).collect()
            }
        }
    }

    fn take_notices(&mut self, desired: &DesiredState) -> Vec<Notice> {
        self.refusals.take_accepted(desired)
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
