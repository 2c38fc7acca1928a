//! Userspace mode as a [`DataPlane`].

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ipvs::VirtualServerKey;

use super::reach::problems;
use super::unopened::Unopened;
use super::{NodeState, Plan, Step, UserspaceProxy};
use crate::desired::{DesiredState, FrontendKey, Problem};
use crate::mode::ipvs::plan::Scope;
use crate::mode::sealed::Sealed;
use crate::mode::{
    ApplyReport, Carried, DataPlane, DataPlaneStatus, Drain, Drained, Failures, Item, NodeError,
    Reading, Refused, ServerCounts,
};
use crate::model::ObjectName;
use crate::notice::{Notice, Reason};

/// Userspace mode on one node.
#[derive(Debug)]
pub struct Userspace {
    proxy: UserspaceProxy,
    /// The state of the node, if it is known.
    node: Option<NodeState>,
    unopened: Unopened,
    /// Whether pods are told from other clients by their interfaces, which a socket does not know.
    by_interface: bool,
}

impl Userspace {
    /// Userspace mode with this proxy; the node is not read yet.
    pub const fn new(proxy: UserspaceProxy) -> Self {
        Self {
            proxy,
            node: None,
            unopened: Unopened::new(),
            by_interface: false,
        }
    }

    /// Moves listeners that could not be opened from the failures of a report to what is left out:
    /// they are problems of their Services, which are logged once, not at each try. Returns what to try
    /// again.
    fn ingest(&mut self, plan: &Plan, report: &mut ApplyReport) -> Failures {
        let mut failures = Failures::default();
        let served = self.node.as_ref().map(|node| &node.served);
        for failure in std::mem::take(&mut report.failures) {
            let Some(Step::Listen(key, address)) = plan.steps().get(failure.step) else {
                failures.needs_audit = true;
                report.failures.push(failure);
                continue;
            };
            failures.items.insert(Item::Frontend(*key));
            let Some(served) = served.and_then(|served| served.get(key)) else {
                report.failures.push(failure);
                continue;
            };
            self.unopened.record(*key, *address, &failure.error);
            report.in_vain += 1;
            report.refused.push(Refused {
                step: failure.step,
                owner: served.frontend.owner.clone(),
                error: failure.error,
            });
        }
        failures.attribute(plan.steps(), &report.failures, Step::item);
        failures
    }
}

impl Sealed for Userspace {}

/// The key in the statistics: a node port has the unspecified address.
fn virtual_server(key: FrontendKey) -> VirtualServerKey {
    VirtualServerKey::new(key.protocol, (key.address, key.port.get()).into())
}

impl DataPlane for Userspace {
    type Plan = Plan;

    const COUNTS_TRAFFIC: bool = true;

    fn status(&self) -> DataPlaneStatus {
        DataPlaneStatus {
            is_known: self.node.is_some(),
            is_auditing: false,
            is_draining: self.proxy.draining().next().is_some(),
        }
    }

    fn forget(&mut self) {
        self.node = None;
    }

    fn read(&mut self, _: Reading, desired: &DesiredState) -> Result<Vec<FrontendKey>, NodeError> {
        self.node = Some(self.proxy.observe()?);
        self.by_interface = desired.config().pod_interfaces.is_some();
        Ok(Vec::new())
    }

    fn plan(&mut self, desired: &DesiredState, scope: Scope<'_>) -> Plan {
        let Some(node) = &self.node else {
            return Plan::default();
        };
        self.unopened.forget(scope);
        Plan::new(desired, node, scope)
    }

    fn carry_out(&mut self, plan: &Plan) -> (ApplyReport, Failures) {
        let mut report = self.proxy.apply(plan);
        if let Some(node) = &mut self.node {
            node.record(plan, &report.failed_steps());
        }
        let failures = self.ingest(plan, &mut report);
        if let Some(node) = &self.node {
            for (key, reason) in self.unopened.take_changed(node) {
                self.proxy.set_not_served(key, reason);
            }
        }
        (report, failures)
    }

    fn drain(
        &mut self,
        timeout: Duration,
        now: Instant,
    ) -> Result<Option<Drained<Plan>>, NodeError> {
        let ended = self.proxy.draining().filter(|(_, _, since, active)| {
            *active == 0 || now.saturating_duration_since(*since) >= timeout
        });
        let ended: BTreeSet<_> = ended.map(|(key, endpoint, ..)| (key, endpoint)).collect();
        let steps = ended.into_iter();
        let plan: Plan = steps
            .map(|(key, endpoint)| Step::EndConnections(key, endpoint))
            .collect();
        Ok((!plan.is_empty()).then(|| (plan, Vec::new())))
    }

    fn problems(&self, desired: &DesiredState, of: Option<&ObjectName>) -> Vec<Problem> {
        let mut problems = problems(desired, self.node.as_ref(), of);
        problems.extend(self.unopened.problems(desired, of));
        problems
    }

    fn take_notices(&mut self, _: &DesiredState) -> Vec<Notice> {
        Vec::new()
    }

    fn conditions(&self) -> Vec<Notice> {
        let mut conditions = Vec::new();
        if self.node.as_ref().is_some_and(|node| !node.may_route) {
            let message = "cluster IPs, load-balancer IPs and external IPs are served only if they are \
                           addresses of this node or in --listen: svcproxy may not add routes \
                           (needs CAP_NET_ADMIN); node ports are served";
            conditions.push(Notice::of_node(Reason::RoutesForbidden, message));
        }
        if self.by_interface {
            let message = "mode userspace cannot tell pods by their interfaces: with external traffic \
                           policy Local, pods are treated as clients outside the cluster; use \
                           --cluster-cidr instead";
            conditions.push(Notice::of_node(Reason::HostSetting, message));
        }
        let obstacles = self.node.iter().flat_map(|node| &node.obstacles);
        let standing = obstacles.filter(|obstacle| !obstacle.can_be_passed);
        conditions.extend(standing.map(crate::mode::ipvs::obstacle_notice));
        conditions
    }

    fn servers(&self) -> Option<ServerCounts> {
        None
    }

    fn drains(&self, desired: &DesiredState, most: usize, now: Instant) -> Vec<Drain> {
        let drain = |(vip, endpoint, since, _)| Drain {
            vip,
            service: desired
                .frontend(&vip)
                .map(|frontend| frontend.owner.service.clone()),
            endpoint,
            lasts: Some(now.saturating_duration_since(since)),
        };
        self.proxy.draining().take(most).map(drain).collect()
    }

    fn has_virtual_server(&self, key: &VirtualServerKey) -> bool {
        let node = self.node.as_ref();
        let served = node.map(|node| &node.served);
        FrontendKey::of(key).is_some_and(|key| served.is_some_and(|s| s.contains_key(&key)))
    }

    fn carried(&mut self, desired: &DesiredState) -> Result<Option<Vec<Carried>>, NodeError> {
        if self.node.is_none() {
            return Ok(None);
        }
        let carried = desired.frontends().filter_map(|frontend| {
            Some(Carried {
                key: virtual_server(frontend.key),
                service: frontend.owner.service.clone(),
                statistics: self.proxy.traffic(&frontend.key)?,
            })
        });
        Ok(Some(carried.collect()))
    }
}
