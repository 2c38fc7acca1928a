//! The work that failed steps leave.

use std::collections::BTreeSet;

use ipvs::VirtualServerKey;

use crate::desired::Need;
use crate::mode::flows::OwedFlows;
use crate::mode::ipvs::plan::{Element, NodeState, Plan, Scope, Step};
use crate::mode::{ApplyReport, Failures, Flows, Item, NodeError};

/// Failed work that a comparison of the desired state with the node would not find.
#[derive(Debug, Default)]
pub(super) struct Owed {
    flows: OwedFlows,
    /// Virtual servers whose known state is wrong.
    drifted: BTreeSet<VirtualServerKey>,
}

impl Owed {
    /// Records the results of a plan.
    pub(super) fn record(&mut self, plan: &Plan, applied: &ApplyReport) {
        let failed = applied.failures.iter();
        let failed = failed.filter_map(|failure| plan.steps().get(failure.step));
        self.flows.record(
            plan.into_iter().filter_map(flows_of),
            failed.filter_map(flows_of),
        );
        for failure in &applied.failures {
            match plan.steps().get(failure.step) {
                Some(Step::DeleteFlows(_)) => {}
                Some(step) if failure.error.is_drift() => {
                    self.drifted.extend(step.virtual_server())
                }
                _ => {}
            }
        }
    }

    /// The deletions of flows that failed before, in the scope of a plan.
    pub(super) fn flows(&self, scope: Scope<'_>) -> Plan {
        self.flows
            .within(scope.touched())
            .map(Step::DeleteFlows)
            .collect()
    }

    /// Whether a virtual server's real servers must be read before it can be compared.
    pub(super) fn is_drifted(&self, key: &VirtualServerKey) -> bool {
        self.drifted.contains(key)
    }

    /// Records that all drifted virtual servers have been read.
    pub(super) fn have_been_read(&mut self) {
        self.drifted.clear();
    }
}

fn flows_of(step: &Step) -> Option<&Flows> {
    match step {
        Step::DeleteFlows(flows) => Some(flows),
        _ => None,
    }
}

/// The retries that the failures of a recorded plan need.
pub(super) fn failures(node: &NodeState, plan: &Plan, applied: &ApplyReport) -> Failures {
    let mut failures = Failures::default();
    for failure in &applied.failures {
        let step = plan.steps().get(failure.step);
        match (&failure.error, step.and_then(|step| item(node, step))) {
            // The first failure of its virtual server counts.
            (NodeError::NotTried, _) => {}
            (error, _) if error.is_outcome_unknown() => failures.is_unknown = true,
            (error, Some(item)) if !error.is_drift() => _ = failures.items.insert(item),
            _ => failures.needs_audit = true,
        }
    }
    failures.attribute(plan.steps(), &applied.failures, |step| item(node, step));
    failures
}

/// The item of a step, if it belongs to a single one.
fn item(node: &NodeState, step: &Step) -> Option<Item> {
    match step {
        Step::AddElement(element, _) | Step::DeleteElement(element) => match *element {
            Element::Hairpin(address) => Some(Item::Need(Need::Hairpin(address))),
            Element::CapturedAddress(address) => Some(Item::Need(Need::Capture(address))),
            Element::HealthCheck(family, port) => Some(Item::Need(Need::HealthCheck(family, port))),
            Element::ServiceCidr(prefix) => single(prefix),
            _ => element.frontend().map(Item::Frontend),
        },
        Step::AddRoute(route) | Step::DeleteRoute(route) => single(route.prefix),
        Step::AddPolicyRoute(route) | Step::DeletePolicyRoute(route) => {
            Some(Item::Need(Need::Delivery(route.family)))
        }
        Step::Ipvs(change) => {
            let key = change.virtual_server()?;
            node.frontend_of(&key).map(Item::Frontend)
        }
        Step::DeleteFlows(flows) => Some(Item::Frontend(flows.to)),
        Step::SetSysctl(..) | Step::InstallRuleset(_) => None,
    }
}

/// A route of a single address belongs to a virtual IP; all others are Service CIDRs.
fn single(prefix: ipnet::IpNet) -> Option<Item> {
    let is_single = prefix.prefix_len() == prefix.max_prefix_len();
    is_single.then(|| Item::Need(Need::Route(prefix.addr())))
}
