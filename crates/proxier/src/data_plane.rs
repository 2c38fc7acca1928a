//! The seam between what a node should have and the ways to give it that.

#[cfg(feature = "iptables")]
mod over_iptables;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipvs::{Change, Statistics, VirtualServerKey};

use crate::backend::{ApplyReport, Backend, BackendError};
use crate::desired::{DesiredState, Frontend, FrontendKey, Problem};
use crate::drain::{Draining, emptied};
use crate::iptables;
use crate::model::ObjectName;
use crate::notice::{Notice, Reason};
use crate::plan::{Comment, Element, NodeState, Plan, Scope, Step};

#[cfg(feature = "iptables")]
pub use over_iptables::IptablesMemory;

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

    /// Takes in what the last plan did, none of whose steps failed.
    fn record(node: &mut Self::Node, plan: &Self::Plan, memory: &mut Self::Memory);

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
        let (known, new): (Vec<_>, Vec<_>) = keys
            .into_iter()
            .partition(|key| node.virtual_servers.contains_key(key));
        self.read_real_servers(&mut now, &new)?;
        for key in &known {
            let before = node.virtual_servers.remove(key);
            if let Some((now, before)) = now.virtual_servers.get_mut(key).zip(before) {
                now.real_servers = before.real_servers;
            }
        }
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

    fn record(node: &mut NodeState, plan: &Plan, _: &mut IpvsMemory) {
        node.record(plan, &[]);
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
