//! An in-memory node, for tests without privileges.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use ipvs::{FakeClient, FakeKernel, RealServer, RealServerKey, Statistics, VirtualServerKey};

use super::Kernel;
use super::glance::{Glance, Shown, ShownRealServer, ShownServer};
use super::shared::{self, carry_out};
use crate::errno::{EEXIST, ENOENT, ESRCH};
use crate::mode::ipvs::plan::{
    Element, Elements, NodeState, Obstacle, Plan, Step, VirtualServerState,
};
use crate::mode::{ApplyReport, NodeError, Sysctl};

/// The kernel of an in-memory node: IPVS, nftables sets, routes and sysctls. It rejects what Linux
/// rejects. Clones share the node.
///
/// ```
/// use proxier::mode::ipvs::{FakeNode, Kernel};
/// use proxier::desired::Config;
/// use proxier::mode::ipvs::rules::Ruleset;
/// use proxier::mode::ipvs::plan::{Plan, Step};
///
/// let node = FakeNode::default();
/// let mut kernel = node.kernel()?;
/// let ruleset = Ruleset::new(&Config::new("node-a", vec![]));
/// let plan = Plan::from_iter([Step::InstallRuleset(ruleset.clone())]);
/// node.fail_step(1, 12); // ENOMEM
/// assert_eq!(kernel.apply(&plan).failures[0].error.errno(), Some(12));
/// assert_eq!(kernel.apply(&plan).failures.len(), 0);
/// assert_eq!(kernel.observe()?.ruleset, Some(ruleset.fingerprint()));
/// # Ok::<(), proxier::mode::NodeError>(())
/// ```
#[derive(Debug, Clone)]
pub struct FakeNode {
    kernel: FakeKernel,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Everything except IPVS.
    node: NodeState,
    /// The errno of future steps, counted from the next one.
    faults: HashMap<usize, i32>,
    /// The errno of all steps for these virtual servers.
    broken: HashMap<VirtualServerKey, i32>,
    observe_fault: Option<i32>,
}

impl Default for FakeNode {
    fn default() -> Self {
        let off = |sysctl| (sysctl, "0".to_owned());
        let sysctls: BTreeMap<_, _> = Sysctl::ALL.into_iter().map(off).collect();
        let node = NodeState {
            sysctls,
            ..NodeState::default()
        };
        let state = State {
            node,
            ..State::default()
        };
        Self {
            kernel: FakeKernel::new(),
            state: Arc::new(Mutex::new(state)),
        }
    }
}

impl FakeNode {
    /// The kernel of this node.
    ///
    /// # Errors
    ///
    /// If the node's kernel has no IPVS.
    pub fn kernel(&self) -> Result<FakeIpvs, NodeError> {
        Ok(FakeIpvs {
            node: self.clone(),
            ipvs: self.kernel.client()?,
        })
    }

    /// The node's IPVS, to read it, or to change it as another program would.
    pub fn ipvs(&self) -> &FakeKernel {
        &self.kernel
    }

    /// Makes a step fail with this errno and without effect: 1 is the next step of any user of
    /// this node, 2 the one after it.
    pub fn fail_step(&self, nth: usize, errno: i32) {
        self.state().faults.insert(nth, errno);
    }

    /// Makes every step for a virtual server fail with this errno and without effect, until it is
    /// called with none.
    pub fn fail_virtual_server(&self, key: VirtualServerKey, errno: Option<i32>) {
        let broken = &mut self.state().broken;
        match errno {
            Some(errno) => _ = broken.insert(key, errno),
            None => _ = broken.remove(&key),
        }
    }

    /// Makes the next reading of the node fail with this errno.
    pub fn fail_observe(&self, errno: i32) {
        self.state().observe_fault = Some(errno);
    }

    /// The node's state, without a request.
    pub fn snapshot(&self) -> NodeState {
        let mut node = self.state().node.clone();
        let states = self.kernel.table().into_iter().map(|(entry, servers)| {
            let mut real_servers: Vec<_> = servers.into_iter().map(|entry| entry.server).collect();
            real_servers.sort_unstable_by_key(|real_server| real_server.key);
            let server = entry.server;
            let state = VirtualServerState {
                server,
                real_servers,
            };
            (server.key, state)
        });
        node.virtual_servers = states.collect();
        node
    }

    /// The number of faults that have not happened, without lasting ones.
    pub fn pending_faults(&self) -> usize {
        let state = self.state();
        let of_node = state.faults.len() + usize::from(state.observe_fault.is_some());
        of_node + self.kernel.pending_faults()
    }

    /// Withdraws all faults that have not happened, also those of its IPVS.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.broken.clear();
        state.observe_fault = None;
        self.kernel.clear_faults();
    }

    /// Removes all nftables tables, as `nft flush ruleset` does.
    pub fn flush_ruleset(&self) {
        let node = &mut self.state().node;
        node.ruleset = None;
        node.elements.clear();
    }

    /// Removes all routes, also foreign ones, as happens when `lo` goes down.
    pub fn flush_routes(&self) {
        let node = &mut self.state().node;
        node.routes.clear();
        node.obstacles.clear();
        node.policy_routes.clear();
    }

    /// Adds a route of another program before svcproxy's.
    pub fn obstruct(&self, obstacle: Obstacle) {
        self.state().node.obstacles.insert(obstacle);
    }

    /// Sets a sysctl.
    pub fn set_sysctl(&self, sysctl: Sysctl, value: &str) {
        self.state().node.sysctls.insert(sysctl, value.to_owned());
    }

    /// Ignores poisoning: the test that panicked reports its own failure.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel of a [`FakeNode`].
#[derive(Debug)]
pub struct FakeIpvs {
    node: FakeNode,
    ipvs: FakeClient,
}

impl FakeIpvs {
    /// Its node.
    pub fn node(&self) -> &FakeNode {
        &self.node
    }

    fn step(&mut self, step: &Step, report: &mut ApplyReport) -> Result<(), NodeError> {
        let state = &mut *self.node.state();
        let broken = step.virtual_server().and_then(|key| state.broken.get(&key));
        let broken = broken.copied();
        let fault = state.next_fault().or(broken);
        let counts = &mut report.counts;
        let node = &mut state.node;
        match step {
            Step::Ipvs(change) => {
                counts.ipvs_changes += 1;
                if let Some(errno) = fault {
                    self.node.kernel.fail_request(1, errno);
                }
                Ok(self.ipvs.change(*change)?)
            }
            Step::SetSysctl(sysctl, value) => {
                counts.sysctls += 1;
                fail(fault).map_err(|source| NodeError::Sysctl {
                    sysctl: *sysctl,
                    operation: "write it",
                    source,
                })?;
                node.sysctls.insert(*sysctl, value.to_string());
                Ok(())
            }
            Step::AddRoute(route) => {
                counts.routes += 1;
                let same = node.routes_to(&route.prefix).next().copied();
                fail(fault).map_err(route_error("add a route"))?;
                let prefix = route.prefix;
                let taken = |by: String| NodeError::RouteTaken { route: *route, by };
                if same == Some(*route) && !node.is_behind(&prefix) {
                    return Err(taken(route.to_string()));
                }
                let mut obstacles = node.obstacles.iter();
                let to_prefix = |o: &&Obstacle| o.prefix == prefix && !o.can_be_passed;
                if let Some(other) = obstacles.find(to_prefix) {
                    return Err(taken(other.by.clone()));
                }
                same.map(|replaced| node.routes.remove(&replaced));
                node.routes.insert(*route);
                node.obstacles.retain(|there| there.prefix != prefix);
                Ok(())
            }
            Step::DeleteRoute(route) => {
                counts.routes += 1;
                let missing = (!node.routes.contains(route)).then_some(ESRCH);
                fail(fault.or(missing)).map_err(route_error("delete a route"))?;
                node.routes.remove(route);
                Ok(())
            }
            Step::AddPolicyRoute(route) => {
                counts.routes += 1;
                let exists = node.policy_routes.contains(route).then_some(EEXIST);
                fail(fault.or(exists)).map_err(route_error("add a policy route"))?;
                node.policy_routes.insert(*route);
                Ok(())
            }
            Step::DeletePolicyRoute(route) => {
                counts.routes += 1;
                let missing = (!node.policy_routes.contains(route)).then_some(ENOENT);
                fail(fault.or(missing)).map_err(route_error("delete a policy route"))?;
                node.policy_routes.remove(route);
                Ok(())
            }
            Step::InstallRuleset(ruleset) => {
                counts.transactions += 1;
                fail(fault).map_err(filter_error("install the rules"))?;
                node.ruleset = Some(ruleset.fingerprint());
                Ok(())
            }
            Step::AddElement(element, comment) => {
                counts.transactions += 1;
                counts.elements += 1;
                let refused = match node.ruleset {
                    Some(_) => clash(&node.elements, element),
                    None => Some(ENOENT),
                };
                fail(fault.or(refused)).map_err(filter_error("add an element"))?;
                // As without NLM_F_EXCL, an existing element stays unchanged.
                if !node.elements.contains(element) {
                    node.elements.insert(*element, comment.clone());
                }
                Ok(())
            }
            Step::DeleteElement(element) => {
                counts.transactions += 1;
                counts.elements += 1;
                let there = by_key(&node.elements, element);
                let missing = there.is_none().then_some(ENOENT);
                fail(fault.or(missing)).map_err(filter_error("delete an element"))?;
                there.map(|there| node.elements.remove(&there));
                Ok(())
            }
            Step::DeleteFlows(flows) => {
                // The fake node has no flows.
                report.reconciled(flows.to.family(), 0, Duration::ZERO);
                fail(fault).map_err(|source| NodeError::Conntrack {
                    operation: "delete flows",
                    source,
                })
            }
        }
    }
}

/// The element that the kernel deletes for this request: in a map, only the key counts.
fn by_key(elements: &Elements, element: &Element) -> Option<Element> {
    match *element {
        Element::Mark { key, purpose, .. } => {
            let mark = elements.mark(key, purpose)?;
            Some(Element::Mark { key, purpose, mark })
        }
        element => elements.contains(&element).then_some(element),
    }
}

/// Why an element cannot be added: a map has another mark for its key, or networks overlap.
fn clash(elements: &Elements, element: &Element) -> Option<i32> {
    let clashes = match element {
        Element::Mark { key, purpose, mark } => elements
            .mark(*key, *purpose)
            .is_some_and(|there| there != *mark),
        Element::ServiceCidr(network) => network_clashes(elements, network, Element::ServiceCidr),
        Element::NodePortAddresses(network) => {
            network_clashes(elements, network, Element::NodePortAddresses)
        }
        _ => false,
    };
    clashes.then_some(EEXIST)
}

/// Whether a network contains another one of its set, or is contained in one.
fn network_clashes(elements: &Elements, network: &IpNet, of: fn(IpNet) -> Element) -> bool {
    let around = |length| IpNet::new(network.addr(), length).map(|net| net.trunc());
    let is_within = (0..network.prefix_len())
        .filter_map(|length| around(length).ok())
        .any(|net| elements.contains(&of(net)));
    let is_around = |element: &Element| match element {
        Element::ServiceCidr(net) | Element::NodePortAddresses(net) => {
            *element == of(*net) && net != network && network.contains(net)
        }
        _ => false,
    };
    let is_single = network.prefix_len() == network.max_prefix_len();
    is_within || !is_single && elements.keys().any(is_around)
}

impl Default for FakeIpvs {
    /// The kernel of a node of its own.
    fn default() -> Self {
        FakeNode::default()
            .kernel()
            .unwrap_or_else(|_| unreachable!("it has IPVS"))
    }
}

impl Kernel for FakeIpvs {
    fn outline(&mut self) -> Result<NodeState, NodeError> {
        let mut node = {
            let mut state = self.node.state();
            fail(state.observe_fault.take()).map_err(filter_error("list the rules"))?;
            state.node.clone()
        };
        node.timeouts = self.ipvs.timeouts()?.timeouts;
        node.virtual_servers = shared::outline(&mut self.ipvs)?;
        Ok(node)
    }

    fn real_servers(
        &mut self,
        virtual_server: &VirtualServerKey,
    ) -> Result<Option<Vec<RealServer>>, NodeError> {
        Ok(shared::real_servers(&mut self.ipvs, virtual_server)?)
    }

    /// In the order of the keys, so that a fault of the nth request can be repeated.
    fn read_real_servers(
        &mut self,
        node: &mut NodeState,
        keys: &[VirtualServerKey],
    ) -> Result<Vec<VirtualServerKey>, NodeError> {
        let mut sorted = keys.to_vec();
        sorted.sort_unstable();
        let mut changed = Vec::new();
        for key in sorted {
            let there = self.real_servers(&key)?;
            if node.update_real_servers(&key, there) {
                changed.push(key);
            }
        }
        Ok(changed)
    }

    /// As of `/proc/net/ip_vs`: in particular, thresholds are not compared.
    fn glance(&mut self, known: &NodeState, _: bool) -> Option<Glance> {
        let mut right = Vec::new();
        for entry in self.ipvs.virtual_servers().ok()? {
            let key = entry.server.key;
            let real_servers = self.ipvs.real_servers(&key).ok()?.into_iter();
            let mut shown = Shown {
                server: match key {
                    VirtualServerKey::FirewallMark { mark, .. } => ShownServer::Mark(mark),
                    _ => ShownServer::Address(key),
                },
                real_servers: real_servers
                    .map(|entry| ShownRealServer::from(&entry.server))
                    .collect(),
            };
            right.extend(shown.as_known(&known.virtual_servers));
        }
        Some(Glance::new(right, true))
    }

    fn apply(&mut self, plan: &Plan) -> ApplyReport {
        carry_out(plan, |_, steps, first, report| {
            for (step, place) in steps.iter().zip(first..) {
                if let Err(error) = self.step(step, report) {
                    report.fail(place, error);
                }
            }
        })
    }

    fn connections(
        &mut self,
        virtual_server: &VirtualServerKey,
    ) -> Result<HashMap<RealServerKey, u64>, NodeError> {
        Ok(shared::connections(&mut self.ipvs, virtual_server)?)
    }

    fn statistics(&mut self) -> Result<Vec<(VirtualServerKey, Statistics)>, NodeError> {
        Ok(shared::statistics(&mut self.ipvs)?)
    }

    fn remove_ruleset(&mut self) -> Result<(), NodeError> {
        self.node.flush_ruleset();
        Ok(())
    }
}

impl State {
    fn next_fault(&mut self) -> Option<i32> {
        let faults = std::mem::take(&mut self.faults);
        let mut fault = None;
        for (nth, errno) in faults {
            match nth {
                0 | 1 => fault = Some(errno),
                _ => {
                    self.faults.insert(nth - 1, errno);
                }
            }
        }
        fault
    }
}

fn fail(errno: Option<i32>) -> io::Result<()> {
    errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}

fn filter_error(operation: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError::PacketFilter { operation, source }
}

fn route_error(operation: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError::Route { operation, source }
}
