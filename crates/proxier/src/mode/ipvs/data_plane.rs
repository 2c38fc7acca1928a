//! IPVS mode as a [`DataPlane`].

use std::collections::BTreeSet;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashSet;
use ipvs::{Change, VirtualServerKey};

use crate::desired::{DesiredState, Frontend, FrontendKey, Problem};
use crate::mode::ipvs::Kernel;
use crate::mode::ipvs::drain::{Draining, Target};
use crate::mode::ipvs::glance::Turns;
use crate::mode::ipvs::owed::{self, Owed};
use crate::mode::ipvs::plan::{Comment, Element, NodeState, Obstacle, Plan, Scope, Step};
use crate::mode::limits::headers;
use crate::mode::sealed::Sealed;
use crate::mode::{
    ApplyReport, Carried, DataPlane, DataPlaneStatus, Drain, Failures, NodeError, Reading,
    ServerCounts,
};
use crate::model::ObjectName;
use crate::notice::{Notice, Reason};

/// IPVS mode on one node.
#[derive(Debug)]
pub struct Ipvs<K> {
    kernel: K,
    /// The state of the node; `None` before it is read, and after the kernel's answer to a change
    /// was lost.
    node: Option<NodeState>,
    /// The last known state.
    before: Option<NodeState>,
    /// The virtual servers that the current audit has not seen to be right, while it looks at all.
    unseen: Option<Unseen>,
    /// The virtual servers whose real servers the current audit has not read yet.
    unread: Vec<VirtualServerKey>,
    turns: Turns,
    draining: Draining,
    /// Ownership records that another program has flushed from nftables, and that are still valid.
    lost: Vec<(Element, Comment)>,
    /// Frontends without a free mark.
    unmarked: BTreeSet<FrontendKey>,
    /// Foreign virtual servers that were taken over.
    foreign: BTreeSet<VirtualServerKey>,
    /// Virtual servers of an earlier proxy, which are not reported as foreign.
    inherited: BTreeSet<VirtualServerKey>,
    /// Foreign routes that preceded svcproxy's.
    passed: BTreeSet<Obstacle>,
    /// Failed work to do again.
    owed: Owed,
}

const NAME: &str = "ipvs";

/// Up to this number, foreign virtual servers are reported one by one. More at once belong to
/// another service proxy, which svcproxy replaces.
const REPORTED_EACH: usize = 3;

fn many_foreign(foreign: &BTreeSet<VirtualServerKey>) -> Notice {
    let first = foreign.iter().take(REPORTED_EACH);
    let first: Vec<_> = first.map(ToString::to_string).collect();
    let message = format!(
        "took over {} virtual servers at Services' addresses that svcproxy did not create (such as \
         {}), and replaced their real servers",
        foreign.len(),
        first.join(", "),
    );
    Notice::of_node(Reason::ForeignVirtualServer, message)
}

fn foreign_notice(key: &VirtualServerKey, desired: &DesiredState) -> Notice {
    let message = format!(
        "{key}: took over a virtual server that svcproxy did not create, and replaced its real \
         servers. To leave an address to other programs, use --exclude-cidrs"
    );
    match FrontendKey::of(key).and_then(|key| desired.frontend(&key)) {
        Some(frontend) => {
            let service = frontend.owner.service.clone();
            Notice::of_service(service, Reason::ForeignVirtualServer, message)
        }
        None => Notice::of_node(Reason::ForeignVirtualServer, message),
    }
}

fn passed_notice(obstacle: &Obstacle) -> Notice {
    let Obstacle { prefix, by, .. } = obstacle;
    let message = format!(
        "a route of another program was before svcproxy's to {prefix}: {by}; svcproxy puts its own \
         before it again"
    );
    Notice::of_node(Reason::RouteInTheWay, message)
}

pub(crate) fn obstacle_notice(obstacle: &Obstacle) -> Notice {
    let Obstacle { prefix, by, .. } = obstacle;
    let message = format!(
        "some addresses in {prefix} do not reach svcproxy; in the way is {by}. Delete it, or exclude \
         its addresses (--exclude-cidrs)"
    );
    Notice::of_node(Reason::RouteInTheWay, message)
}

fn no_mark_left(frontend: &Frontend) -> Problem {
    let key = frontend.key;
    Problem {
        service: frontend.owner.service.clone(),
        field: frontend.kind.field().to_owned(),
        reason: Reason::NoMarkLeft,
        message: format!("{key} is not served: no free firewall mark in --mark-mask"),
    }
}

impl<K> Ipvs<K> {
    /// Number of virtual servers whose real servers one slice of an audit reads, and of those that
    /// each audit reads although they look right.
    pub const AUDIT_SLICE: usize = 64;

    /// IPVS mode over this kernel. The node is not read yet.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            node: None,
            before: None,
            unseen: None,
            unread: Vec::new(),
            turns: Turns::default(),
            draining: Draining::default(),
            lost: Vec::new(),
            unmarked: BTreeSet::new(),
            foreign: BTreeSet::new(),
            inherited: BTreeSet::new(),
            passed: BTreeSet::new(),
            owed: Owed::default(),
        }
    }

    /// Sets the virtual servers of an earlier proxy, which this one replaces. Their take-over is
    /// not reported as [`Reason::ForeignVirtualServer`].
    #[must_use]
    pub fn inheriting(self, keys: impl IntoIterator<Item = VirtualServerKey>) -> Self {
        Self {
            inherited: keys.into_iter().collect(),
            ..self
        }
    }

    /// The kernel.
    pub const fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }
}

/// The virtual servers of an audit that looks at them.
#[derive(Debug)]
struct Unseen {
    all: HashSet<VirtualServerKey>,
    /// Those that do not look right, or have not been looked at.
    left: HashSet<VirtualServerKey>,
    has_begun: bool,
}

impl<K> Ipvs<K> {
    fn end_audit(&mut self) {
        self.unseen = None;
        self.unread.clear();
    }
}

impl<K: Kernel> Ipvs<K> {
    /// svcproxy's state on the node, without real servers.
    fn outline(&mut self, desired: &DesiredState) -> Result<NodeState, NodeError> {
        let mut node = self.kernel.outline()?;
        let before = self.node.as_ref().or(self.before.as_ref());
        let lost = before.map(|before| before.lost_marks(&node));
        self.lost = lost.unwrap_or_default();
        node.elements.extend(self.lost.iter().cloned());
        let known = |key: &VirtualServerKey| {
            before.is_some_and(|before| before.virtual_servers.contains_key(key))
        };
        // Another program may have flushed the records of those whose Service is gone meanwhile.
        let desired = desired.frontends().filter_map(|f| f.key.virtual_server());
        let before_keys = before.into_iter().flat_map(|b| b.virtual_servers.keys());
        node.retain_recorded_and(desired.chain(before_keys.copied()));
        let foreign = node.unrecorded().filter(|key| !known(key));
        self.foreign.extend(foreign);
        let passed = node.obstacles.iter().filter(|there| there.can_be_passed);
        self.passed.extend(passed.cloned());
        Ok(node)
    }

    fn know(&mut self, node: NodeState) {
        self.owed.have_been_read();
        self.draining.note_node(&node);
        self.node = Some(node);
        self.before = None;
    }

    fn read_full(&mut self, desired: &DesiredState) -> Result<(), NodeError> {
        let mut node = self.outline(desired)?;
        let keys: Vec<_> = node.virtual_servers.keys().copied().collect();
        self.kernel.read_real_servers(&mut node, &keys)?;
        self.know(node);
        Ok(())
    }

    /// Reads the node, except for the real servers of virtual servers that have not changed.
    fn begin_audit(&mut self, desired: &DesiredState) -> Result<(), NodeError> {
        let mut now = self.outline(desired)?;
        let Some(mut before) = self.node.take() else {
            return self.read_full(desired);
        };
        let keys: Vec<_> = now.virtual_servers.keys().copied().collect();
        let (known, new): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| {
            before.virtual_servers.contains_key(key) && !self.owed.is_drifted(key)
        });
        if let Err(error) = self.kernel.read_real_servers(&mut now, &new) {
            self.node = Some(before);
            return Err(error);
        }
        for key in &known {
            let before = before.virtual_servers.remove(key);
            if let Some((now, before)) = now.virtual_servers.get_mut(key).zip(before) {
                now.real_servers = before.real_servers;
            }
        }
        self.unseen = (!known.is_empty()).then(|| Unseen {
            all: known.iter().copied().collect(),
            left: known.into_iter().collect(),
            has_begun: false,
        });
        self.know(now);
        Ok(())
    }

    /// Looks at the next part of the virtual servers. At the end, those that do not look right
    /// remain to be read, and those whose turn it is.
    fn look(&mut self) {
        let (Some(unseen), Some(node)) = (&mut self.unseen, &self.node) else {
            return;
        };
        let begins = !std::mem::replace(&mut unseen.has_begun, true);
        match self.kernel.glance(node, begins) {
            Some(glance) => {
                for key in &glance.right {
                    unseen.left.remove(key);
                }
                if !glance.is_last {
                    return;
                }
                let mut unread = self.turns.take(&unseen.all, Self::AUDIT_SLICE);
                unread.retain(|key| !unseen.left.contains(key));
                unread.extend(&unseen.left);
                self.unread = unread;
            }
            None => self.unread = unseen.all.iter().copied().collect(),
        }
        self.unseen = None;
    }

    fn audit_slice(&mut self) -> Result<Vec<FrontendKey>, NodeError> {
        self.look();
        if self.unseen.is_some() {
            return Ok(Vec::new());
        }
        let rest = self.unread.len().saturating_sub(Self::AUDIT_SLICE);
        let slice = self.unread.split_off(rest);
        let Some(node) = &mut self.node else {
            return Ok(Vec::new());
        };
        let changed = match self.kernel.read_real_servers(node, &slice) {
            Ok(changed) => changed,
            Err(error) => {
                self.end_audit();
                return Err(error);
            }
        };
        for key in &changed {
            if let Some(state) = node.virtual_servers.get(key) {
                self.draining.note_state(*key, state);
            }
        }
        let changed = changed.iter();
        Ok(changed.filter_map(|key| node.frontend_of(key)).collect())
    }
}

impl<K: Kernel> Sealed for Ipvs<K> {}

impl<K: Kernel> DataPlane for Ipvs<K> {
    type Plan = Plan;

    const COUNTS_TRAFFIC: bool = true;

    fn status(&self) -> DataPlaneStatus {
        DataPlaneStatus {
            is_known: self.node.is_some(),
            is_auditing: self.unseen.is_some() || !self.unread.is_empty(),
            is_draining: !self.draining.is_empty(),
        }
    }

    fn forget(&mut self) {
        self.before = self.node.take().or(self.before.take());
        self.end_audit();
    }

    fn read(
        &mut self,
        what: Reading,
        desired: &DesiredState,
    ) -> Result<Vec<FrontendKey>, NodeError> {
        match what {
            Reading::Full => self.read_full(desired).map(|()| Vec::new()),
            Reading::Audit => {
                self.end_audit();
                self.begin_audit(desired).map(|()| Vec::new())
            }
            Reading::Slice => self.audit_slice(),
        }
    }

    fn plan(&mut self, desired: &DesiredState, scope: Scope<'_>) -> Plan {
        let Some(node) = &self.node else {
            return Plan::default();
        };
        let mut plan = Plan::new(desired, node, scope);
        plan.restore(mem::take(&mut self.lost));
        plan.append(self.owed.flows(scope));
        match scope {
            Scope::Full => self.unmarked.clear(),
            Scope::Touched(touched) => {
                self.unmarked.retain(|key| !touched.frontends.contains(key));
            }
        }
        self.unmarked.extend(plan.unmarked());
        plan
    }

    fn carry_out(&mut self, plan: &Plan) -> (ApplyReport, Failures) {
        let report = self.kernel.apply(plan);
        self.draining.note_plan(plan);
        let in_the_way = report.failures.iter().filter(
            |failure| matches!(&failure.error, NodeError::Ipvs(error) if error.is_already_exists()),
        );
        let added = in_the_way.filter_map(|failure| match plan.steps().get(failure.step) {
            Some(Step::Ipvs(Change::AddVirtualServer(server))) => Some(server.key),
            _ => None,
        });
        self.foreign.extend(added);
        self.owed.record(plan, &report);
        let mut failures = Failures::default();
        if let Some(node) = &mut self.node {
            node.record(plan, &report.failed_steps());
            failures = owed::failures(node, plan, &report);
        }
        if failures.is_unknown {
            self.forget();
        }
        (report, failures)
    }

    fn drain(
        &mut self,
        timeout: Duration,
        now: Instant,
    ) -> Result<Option<(Plan, Vec<FrontendKey>)>, NodeError> {
        let Some(node) = &self.node else {
            return Ok(None);
        };
        let count = |key: &_| self.kernel.connections(key);
        self.draining.removal(node, timeout, now, count)
    }

    fn problems(&self, desired: &DesiredState, of: Option<&ObjectName>) -> Vec<Problem> {
        let Some(service) = of else {
            let frontends = self.unmarked.iter();
            let frontends = frontends.filter_map(|key| desired.frontend(key));
            let unmarked = frontends.map(|frontend| no_mark_left(frontend));
            return unmarked.chain(headers(desired, None, NAME)).collect();
        };
        let unmarked = |frontend: &&Arc<Frontend>| {
            self.unmarked.contains(&frontend.key)
                && desired.frontend(&frontend.key) == Some(*frontend)
        };
        let frontends = desired.frontends_of(service).filter(unmarked);
        let unmarked = frontends.map(|frontend| no_mark_left(frontend));
        unmarked.chain(headers(desired, of, NAME)).collect()
    }

    fn take_notices(&mut self, desired: &DesiredState) -> Vec<Notice> {
        let passed = mem::take(&mut self.passed);
        let mut notices: Vec<_> = passed.iter().map(passed_notice).collect();
        let mut foreign = mem::take(&mut self.foreign);
        // One of the same key that appears later is foreign.
        foreign.retain(|key| !self.inherited.remove(key));
        if foreign.len() > REPORTED_EACH {
            notices.push(many_foreign(&foreign));
        } else {
            notices.extend(foreign.iter().map(|key| foreign_notice(key, desired)));
        }
        notices
    }

    fn conditions(&self) -> Vec<Notice> {
        let obstacles = self.node.iter().flat_map(|node| &node.obstacles);
        let lasting = obstacles.filter(|obstacle| !obstacle.can_be_passed);
        lasting.map(obstacle_notice).collect()
    }

    fn servers(&self) -> Option<ServerCounts> {
        let node = self.node.as_ref()?;
        let mut servers = ServerCounts {
            virtual_servers: node.virtual_servers.len(),
            ..ServerCounts::default()
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

    fn drains(&self, desired: &DesiredState, most: usize, now: Instant) -> Vec<Drain> {
        let Some(node) = &self.node else {
            return Vec::new();
        };
        let drains = self.draining.targets(now);
        let drain = |((virtual_server, real_server), lasts): (&Target, _)| {
            let vip = node.frontend_of(virtual_server)?;
            let endpoint = (*real_server)?;
            Some(Drain {
                vip,
                service: desired
                    .frontend(&vip)
                    .map(|frontend| frontend.owner.service.clone()),
                endpoint: SocketAddr::new(endpoint.address, endpoint.port),
                lasts,
            })
        };
        drains.filter_map(drain).take(most).collect()
    }

    fn has_virtual_server(&self, key: &VirtualServerKey) -> bool {
        let node = self.node.as_ref();
        node.is_some_and(|node| node.virtual_servers.contains_key(key))
    }

    fn carried(&mut self, desired: &DesiredState) -> Result<Option<Vec<Carried>>, NodeError> {
        let Some(node) = &self.node else {
            return Ok(None);
        };
        let statistics = self.kernel.statistics()?.into_iter();
        let own = statistics.filter(|(key, _)| node.virtual_servers.contains_key(key));
        let carried = own.filter_map(|(key, statistics)| {
            let frontend = desired.frontend(&node.frontend_of(&key)?)?;
            Some(Carried {
                key,
                service: frontend.owner.service.clone(),
                statistics,
            })
        });
        Ok(Some(carried.collect()))
    }
}
