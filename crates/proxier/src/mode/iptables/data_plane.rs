//! The data plane over iptables.

use std::mem;

use crate::mode::iptables::IptablesBackend;
use crate::mode::iptables::{Node, Plan, Refusals, Step, limits, limits_of};
use crate::mode::{ApplyReport, BackendError, DataPlane, DesiredState, Problem, Scope};
use crate::mode::{Failure, Failures};
use crate::model::ObjectName;
use crate::notice::Notice;

/// What is known of a node with iptables beyond what was observed.
#[derive(Debug, Default)]
pub struct IptablesMemory {
    refusals: Refusals,
    /// Whether the last plan rests on what was read just then.
    is_fresh: bool,
    /// What was carried out of the last plan, if somebody was left out.
    done: Option<Plan>,
    /// The steps of the last plan that failed for nobody in particular.
    failed: Vec<usize>,
}

impl IptablesMemory {
    pub(crate) fn plan(&mut self, desired: &DesiredState, node: &Node, scope: Scope<'_>) -> Plan {
        self.is_fresh = matches!(scope, Scope::Full);
        match scope {
            Scope::Full => {
                self.refusals.retry_all();
                Plan::new(desired, node, scope)
            }
            Scope::Touched(touched) => match self.refusals.retry(desired, touched) {
                Some(more) => Plan::new(desired, node, Scope::Touched(&more)),
                None => Plan::new(desired, node, scope),
            },
        }
    }

    /// Takes note of who was refused. Where others may have changed the node since it was read, that
    /// is a failure, and so a reason to read it anew, unless it was so before.
    pub(crate) fn take_in(&mut self, mut report: ApplyReport, done: Option<Plan>) -> ApplyReport {
        let refused = mem::take(&mut report.refused).into_iter();
        let (refused, new): (Vec<_>, Vec<_>) =
            refused.partition(|refused| self.is_fresh || self.refusals.is_retried(&refused.owner));
        self.failed = report.failed_steps();
        let new = new.into_iter();
        report.failures.extend(new.map(|refused| Failure {
            step: refused.step,
            error: refused.error,
        }));
        self.refusals.settle(&refused, report.failures.is_empty());
        report.refused = refused;
        self.done = done;
        report
    }

    /// Records what was carried out. Where iptables-restore failed for nobody in particular, it may
    /// have changed some tables and not others.
    pub(crate) fn record(
        &mut self,
        node: &mut Node,
        plan: &Plan,
        applied: &ApplyReport,
    ) -> Failures {
        let (failed, done) = (mem::take(&mut self.failed), self.done.take());
        let is_restore = |place: &usize| matches!(plan.steps().get(*place), Some(Step::Restore(_)));
        let is_unknown = failed.iter().any(is_restore);
        match done {
            _ if is_unknown => {}
            Some(done) => node.record(&done, &[]),
            None => node.record(plan, &failed),
        }
        Failures {
            needs_audit: !applied.failures.is_empty(),
            is_unknown,
            ..Failures::default()
        }
    }
}

/// Connections drain by themselves: connection tracking leads them where they went.
impl DataPlane for IptablesBackend {
    type Node = Node;
    type Plan = Plan;
    type Memory = IptablesMemory;

    fn read(
        &mut self,
        _: &DesiredState,
        _: Option<&Node>,
        _: &mut IptablesMemory,
    ) -> Result<Node, BackendError> {
        self.observe()
    }

    fn plan(
        desired: &DesiredState,
        node: &Node,
        scope: Scope<'_>,
        memory: &mut IptablesMemory,
    ) -> Plan {
        memory.plan(desired, node, scope)
    }

    fn carry_out(&mut self, plan: &Plan, memory: &mut IptablesMemory) -> ApplyReport {
        let (report, done) = self.carry_out(plan);
        memory.take_in(report, done)
    }

    fn record(
        node: &mut Node,
        plan: &Plan,
        applied: &ApplyReport,
        memory: &mut IptablesMemory,
    ) -> Failures {
        memory.record(node, plan, applied)
    }

    fn limits(desired: &DesiredState, memory: &IptablesMemory) -> Vec<Problem> {
        let mut problems = limits(desired);
        problems.extend(memory.refusals.problems());
        problems
    }

    fn limits_of(
        service: &ObjectName,
        desired: &DesiredState,
        memory: &IptablesMemory,
    ) -> Vec<Problem> {
        let refused = memory.refusals.problem_of(service);
        limits_of(service, desired)
            .into_iter()
            .chain(refused)
            .collect()
    }

    fn found(desired: &DesiredState, memory: &mut IptablesMemory) -> Vec<Notice> {
        memory.refusals.take_accepted(desired)
    }
}
