//! The data plane over IPVS.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipvs::{Change, VirtualServerKey};

use crate::desired::{DesiredState, Frontend, FrontendKey, Problem};
use crate::mode::ipvs::Backend;
use crate::mode::ipvs::drain::{Draining, emptied};
use crate::mode::ipvs::owed::{Owed, failures};
use crate::mode::ipvs::plan::{Comment, Element, NodeState, Plan, Scope, Step};
use crate::mode::{ApplyReport, BackendError};
use crate::mode::{Carried, DataPlane, Failures, Servers};
use crate::model::ObjectName;
use crate::notice::{Notice, Reason};

/// What is known of a node with IPVS beyond what was observed.
#[derive(Debug, Default)]
pub struct IpvsMemory {
    draining: Draining,
    /// Records that someone has emptied the packet filter of, and that still hold.
    lost: Vec<(Element, Comment)>,
    /// Frontends for which there was no mark left.
    unmarked: BTreeSet<FrontendKey>,
    /// Virtual servers of others that were found in the way.
    foreign: BTreeSet<VirtualServerKey>,
    /// What failed and is to be read or done again.
    owed: Owed,
}

/// So many foreign virtual servers are told of one by one. More at once are another service proxy's,
/// whose place is taken.
const TOLD_EACH: usize = 3;

fn many_foreign(foreign: &BTreeSet<VirtualServerKey>) -> Notice {
    let first = foreign.iter().take(TOLD_EACH);
    let first: Vec<_> = first.map(ToString::to_string).collect();
    let message = format!(
        "{} virtual servers at Services' addresses that svcproxy has not made, as {}, are taken \
         over, with their real servers replaced",
        foreign.len(),
        first.join(", "),
    );
    Notice::of_node(Reason::ForeignVirtualServer, message)
}

fn no_mark_left(frontend: &Frontend) -> Problem {
    let key = frontend.key;
    Problem {
        service: frontend.owner.service.clone(),
        field: frontend.kind.field().to_owned(),
        reason: Reason::NoMarkLeft,
        message: format!("{key} is not served: no number is left in the mask of marks"),
    }
}

/// What a node has of ours, but for real servers.
fn outline_of_ours<B: Backend>(
    backend: &mut B,
    desired: &DesiredState,
    before: Option<&NodeState>,
    memory: &mut IpvsMemory,
) -> Result<NodeState, BackendError> {
    let mut node = backend.outline()?;
    let lost = before.map(|before| before.lost_marks(&node));
    memory.lost = lost.unwrap_or_default();
    node.elements.extend(memory.lost.iter().cloned());
    node.retain_ours(desired);
    let known = |key: &VirtualServerKey| {
        before.is_some_and(|before| before.virtual_servers.contains_key(key))
    };
    let foreign = node.unrecorded().filter(|key| !known(key));
    memory.foreign.extend(foreign);
    Ok(node)
}

/// IPVS, or what is like it.
impl<B: Backend> DataPlane for B {
    type Node = NodeState;
    type Plan = Plan;
    type Memory = IpvsMemory;

    fn read(
        &mut self,
        desired: &DesiredState,
        before: Option<&NodeState>,
        memory: &mut IpvsMemory,
    ) -> Result<NodeState, BackendError> {
        let mut node = outline_of_ours(self, desired, before, memory)?;
        let keys: Vec<_> = node.virtual_servers.keys().copied().collect();
        self.read_real_servers(&mut node, &keys)?;
        memory.owed.have_been_read();
        memory.draining.note_node(&node);
        Ok(node)
    }

    fn begin_audit(
        &mut self,
        desired: &DesiredState,
        node: &mut NodeState,
        memory: &mut IpvsMemory,
    ) -> Result<Vec<VirtualServerKey>, BackendError> {
        let mut now = outline_of_ours(self, desired, Some(node), memory)?;
        let keys: Vec<_> = now.virtual_servers.keys().copied().collect();
        let (known, new): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| {
            node.virtual_servers.contains_key(key) && !memory.owed.is_drifted(key)
        });
        self.read_real_servers(&mut now, &new)?;
        for key in &known {
            let before = node.virtual_servers.remove(key);
            if let Some((now, before)) = now.virtual_servers.get_mut(key).zip(before) {
                now.real_servers = before.real_servers;
            }
        }
        memory.owed.have_been_read();
        memory.draining.note_node(&now);
        *node = now;
        Ok(known)
    }

    fn audit(
        &mut self,
        node: &mut NodeState,
        virtual_servers: &[VirtualServerKey],
        memory: &mut IpvsMemory,
    ) -> Result<Vec<FrontendKey>, BackendError> {
        let changed = self.read_real_servers(node, virtual_servers)?;
        for key in &changed {
            if let Some(state) = node.virtual_servers.get(key) {
                memory.draining.note_state(*key, state);
            }
        }
        Ok(changed
            .iter()
            .filter_map(|key| node.frontend_of(key))
            .collect())
    }

    fn plan(
        desired: &DesiredState,
        node: &NodeState,
        scope: Scope<'_>,
        memory: &mut IpvsMemory,
    ) -> Plan {
        let mut plan = Plan::new(desired, node, scope);
        plan.restore(mem::take(&mut memory.lost));
        plan.append(memory.owed.flows(scope));
        match scope {
            Scope::Full => memory.unmarked.clear(),
            Scope::Touched(touched) => {
                memory
                    .unmarked
                    .retain(|key| !touched.frontends.contains(key));
            }
        }
        memory.unmarked.extend(plan.unmarked());
        plan
    }

    fn carry_out(&mut self, plan: &Plan, memory: &mut IpvsMemory) -> ApplyReport {
        let report = self.apply(plan);
        memory.draining.note_plan(plan);
        let in_the_way = report.failures.iter().filter(|failure| {
            matches!(&failure.error, BackendError::Ipvs(error) if error.is_already_exists())
        });
        let added = in_the_way.filter_map(|failure| match plan.steps().get(failure.step) {
            Some(Step::Ipvs(Change::AddVirtualServer(server))) => Some(server.key),
            _ => None,
        });
        memory.foreign.extend(added);
        report
    }

    fn record(
        node: &mut NodeState,
        plan: &Plan,
        applied: &ApplyReport,
        memory: &mut IpvsMemory,
    ) -> Failures {
        node.record(plan, &applied.failed_steps());
        memory.owed.record(plan, applied);
        failures(node, plan, applied)
    }

    fn limits(desired: &DesiredState, memory: &IpvsMemory) -> Vec<Problem> {
        let frontends = memory.unmarked.iter();
        let frontends = frontends.filter_map(|key| desired.frontend(key));
        frontends.map(|frontend| no_mark_left(frontend)).collect()
    }

    fn limits_of(
        service: &ObjectName,
        desired: &DesiredState,
        memory: &IpvsMemory,
    ) -> Vec<Problem> {
        let unmarked = |frontend: &&Arc<Frontend>| {
            memory.unmarked.contains(&frontend.key)
                && desired.frontend(&frontend.key) == Some(*frontend)
        };
        let frontends = desired.frontends_of(service).filter(unmarked);
        frontends.map(|frontend| no_mark_left(frontend)).collect()
    }

    fn found(desired: &DesiredState, memory: &mut IpvsMemory) -> Vec<Notice> {
        let foreign = mem::take(&mut memory.foreign);
        if foreign.len() > TOLD_EACH {
            return vec![many_foreign(&foreign)];
        }
        let notices = foreign.iter().map(|key| {
            let message = format!(
                "{key}: there was a virtual server that svcproxy has not made; it is taken over, \
                 with its real servers replaced. To leave an address to others, exclude it"
            );
            let frontend = FrontendKey::of(key).and_then(|key| desired.frontend(&key));
            match frontend {
                Some(frontend) => {
                    let service = frontend.owner.service.clone();
                    Notice::of_service(service, Reason::ForeignVirtualServer, message)
                }
                None => Notice::of_node(Reason::ForeignVirtualServer, message),
            }
        });
        notices.collect()
    }

    fn is_draining(memory: &IpvsMemory) -> bool {
        !memory.draining.is_empty()
    }

    fn drain(
        &mut self,
        node: &NodeState,
        memory: &mut IpvsMemory,
        timeout: Duration,
        now: Instant,
    ) -> Result<Option<Plan>, BackendError> {
        memory.draining.ended(node, self, timeout, now)
    }

    fn servers(node: &NodeState) -> Option<Servers> {
        let mut servers = Servers {
            virtual_servers: node.virtual_servers.len(),
            ..Servers::default()
        };
        let states = node.virtual_servers.values();
        for real_server in states.flat_map(|state| &state.real_servers) {
            match real_server.weight {
                0 => servers.draining += 1,
                _ => servers.active += 1,
            }
        }
        Some(servers)
    }

    fn has_virtual_server(node: &NodeState, key: &VirtualServerKey) -> bool {
        node.virtual_servers.contains_key(key)
    }

    fn carried(
        &mut self,
        node: &NodeState,
        desired: &DesiredState,
    ) -> Result<Vec<Carried>, BackendError> {
        let statistics = self.statistics()?.into_iter();
        let ours = statistics.filter(|(key, _)| node.virtual_servers.contains_key(key));
        let carried = ours.filter_map(|(key, statistics)| {
            let frontend = desired.frontend(&node.frontend_of(&key)?)?;
            Some(Carried {
                key,
                service: frontend.owner.service.clone(),
                statistics,
            })
        });
        Ok(carried.collect())
    }

    fn drained(node: &NodeState, plan: &Plan) -> Vec<FrontendKey> {
        emptied(node, plan)
    }
}
