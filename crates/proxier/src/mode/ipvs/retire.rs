//! Removes IPVS mode: at once, or without cutting connections after another data plane has replaced
//! it.

use std::collections::BTreeSet;
use std::iter;
use std::time::{Duration, Instant};

use ipvs::VirtualServerKey;

use super::Kernel;
use super::drain::Draining;
use crate::desired::Config;
use crate::mode::ipvs::plan::{NodeState, Plan, Step, drains};
use crate::mode::ipvs::rules::Ruleset;
use crate::mode::{ApplyReport, Flows, NodeError};

/// The report of a [`cleanup`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Cleanup {
    /// The planned removal of virtual servers and routes.
    pub plan: Plan,
    /// The results of its steps.
    pub applied: ApplyReport,
}

impl Cleanup {
    fn apply<K: Kernel + ?Sized>(kernel: &mut K, plan: Plan) -> Self {
        let applied = if plan.is_empty() {
            ApplyReport::default()
        } else {
            kernel.apply(&plan)
        };
        Self { plan, applied }
    }

    /// Appends the report of what was done next.
    pub fn append(&mut self, then: Self) {
        self.applied.append(then.applied, self.plan.steps().len());
        self.plan.append(then.plan);
    }
}

/// Removes everything that mode ipvs created: the virtual servers that the nftables sets record,
/// the routes with svcproxy's protocol number, and then the rules with their sets.
///
/// If a step fails, the rules and sets stay, because they record the ownership: call cleanup again.
///
/// # Errors
///
/// If the node cannot be read, or the rules cannot be removed.
pub fn cleanup<K: Kernel + ?Sized>(kernel: &mut K) -> Result<Cleanup, NodeError> {
    let plan = Plan::removal(&owned(kernel)?);
    let applied = kernel.apply(&plan);
    if applied.failures.is_empty() {
        kernel.remove_ruleset()?;
    }
    Ok(Cleanup { plan, applied })
}

/// As [`cleanup`], except for the routes, which mode userspace needs too. IPVS sees packets before
/// the proxy does, so there is no drain: what is left of IPVS's connections is cut.
///
/// # Errors
///
/// As [`cleanup`].
pub fn hand_over<K: Kernel + ?Sized>(kernel: &mut K) -> Result<Cleanup, NodeError> {
    let mut node = owned(kernel)?;
    node.routes.clear();
    let plan = Plan::removal(&node);
    let applied = kernel.apply(&plan);
    if applied.failures.is_empty() {
        kernel.remove_ruleset()?;
    }
    Ok(Cleanup { plan, applied })
}

/// What a [`cleanup`] would remove now. Changes nothing.
///
/// # Errors
///
/// If the node cannot be read.
pub fn removal<K: Kernel + ?Sized>(kernel: &mut K) -> Result<Removal, NodeError> {
    let node = owned(kernel)?;
    Ok(Removal {
        plan: Plan::removal(&node),
        has_rules: node.ruleset.is_some() || !node.elements.is_empty(),
    })
}

/// What a [`cleanup`] would remove.
#[derive(Debug)]
#[non_exhaustive]
pub struct Removal {
    /// The removal of virtual servers and routes.
    pub plan: Plan,
    /// Whether there is an nftables table of svcproxy, which goes last.
    pub has_rules: bool,
}

/// The virtual servers that svcproxy created.
///
/// # Errors
///
/// If the node cannot be read.
pub fn own_virtual_servers<K: Kernel + ?Sized>(
    kernel: &mut K,
) -> Result<Vec<VirtualServerKey>, NodeError> {
    Ok(owned(kernel)?.virtual_servers.into_keys().collect())
}

/// The part of the node's state that svcproxy owns.
fn owned<K: Kernel + ?Sized>(kernel: &mut K) -> Result<NodeState, NodeError> {
    let mut node = kernel.outline()?;
    node.retain_recorded_and(iter::empty());
    Ok(node)
}

/// The data plane that has replaced IPVS mode on a node and gets the new connections.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Replacement<'a> {
    /// svcproxy's mode iptables or nftables with these settings. It translates new connections
    /// before IPVS sees them, and IPVS mode's rules must let them pass.
    Translation(&'a Config),
    /// A proxy whose rules translate addresses before svcproxy sees a packet.
    Rules,
    /// A proxy over IPVS that has taken over these virtual servers, and has made their addresses
    /// local. They stay.
    Ipvs(&'a dyn Fn(&VirtualServerKey) -> bool),
}

/// The state of IPVS mode on a node where another data plane is in effect.
///
/// New connections and UDP bypass it at once. Existing connections stay on IPVS until they end or the
/// drain timeout is reached; then everything is removed.
///
/// ```no_run
/// use std::time::{Duration, Instant};
/// use proxier::mode::ipvs::{IpvsKernel, Replacement, Retiring};
///
/// let mut kernel = IpvsKernel::open()?;
/// let (replacement, timeout) = (Replacement::Rules, Duration::from_secs(60));
/// let (mut retiring, _) = Retiring::begin(&mut kernel, replacement, timeout, Instant::now())?;
/// while retiring.finish(&mut kernel, Instant::now())?.is_none() {
///     std::thread::sleep(Duration::from_secs(1));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Retiring {
    draining: Draining,
    timeout: Duration,
    /// What is left to remove, if the sets that record the ownership are gone.
    rest: Option<NodeState>,
}

impl Retiring {
    /// Makes new connections bypass IPVS mode, and returns the report of that. Existing connections
    /// may last for `timeout`.
    ///
    /// # Errors
    ///
    /// If the node cannot be read; nothing is changed then. If the rules cannot be removed.
    pub fn begin<K: Kernel + ?Sized>(
        kernel: &mut K,
        replacement: Replacement<'_>,
        timeout: Duration,
        now: Instant,
    ) -> Result<(Self, Cleanup), NodeError> {
        let mut node = owned(kernel)?;
        let plan = match replacement {
            Replacement::Translation(config) => retirement(&node, config),
            Replacement::Rules => Plan::default(),
            Replacement::Ipvs(has) => {
                node.virtual_servers.retain(|key, _| !has(key));
                // As long as svcproxy's rules mark packets, kube-proxy's virtual servers do not see
                // them.
                let mut ways = node.clone();
                ways.virtual_servers.clear();
                Plan::removal(&ways)
            }
        };
        let begun = Cleanup::apply(kernel, plan);
        let lasts = |key: &VirtualServerKey| {
            let frontend = node.frontend_of(key);
            // A virtual server without a frontend is draining, so it does not have UDP flows.
            frontend.is_none_or(|frontend| drains(frontend.protocol))
        };
        let lasting = node.virtual_servers.keys().copied().filter(lasts);
        let draining = Draining::all_of(lasting, now);
        let mut rest = None;
        if matches!(replacement, Replacement::Ipvs(_)) {
            kernel.remove_ruleset()?;
            node.routes.clear();
            node.policy_routes.clear();
            rest = Some(node);
        }
        let retiring = Self {
            draining,
            timeout,
            rest,
        };
        Ok((retiring, begun))
    }

    /// Removes everything if no connections are left or the drain timeout is reached. `None`
    /// otherwise.
    ///
    /// # Errors
    ///
    /// If connections cannot be read, and as [`cleanup`].
    pub fn finish<K: Kernel + ?Sized>(
        &mut self,
        kernel: &mut K,
        now: Instant,
    ) -> Result<Option<Cleanup>, NodeError> {
        let count = |key: &_| kernel.connections(key);
        if !self.draining.have_all_ended(self.timeout, now, count)? {
            return Ok(None);
        }
        match &self.rest {
            Some(rest) => Ok(Some(Cleanup::apply(kernel, Plan::removal(rest)))),
            None => cleanup(kernel).map(Some),
        }
    }
}

fn retirement(node: &NodeState, config: &Config) -> Plan {
    let retired = Ruleset::retired(config);
    let is_new = node.ruleset != Some(retired.fingerprint());
    let rules = !node.virtual_servers.is_empty() && is_new;
    let rules = rules.then_some(Step::InstallRuleset(retired));
    let servers = node.virtual_servers.keys();
    let frontends = servers.filter_map(|key| node.frontend_of(key));
    let datagrams = frontends.filter(|frontend| !drains(frontend.protocol));
    let flows: BTreeSet<_> = datagrams.map(Flows::to).collect();
    let flows = flows.into_iter().map(Step::DeleteFlows);
    rules.into_iter().chain(flows).collect()
}

#[cfg(test)]
mod tests {
    use ipvs::{Connections, RealServer, VirtualServer};

    use super::*;
    use crate::mode::ipvs::plan::Element;
    use crate::mode::ipvs::{FakeIpvs, FakeNode};

    const VIP: &str = "10.96.0.1:80";
    const SERVER: &str = "10.244.0.1:80";
    const TIMEOUT: Duration = Duration::from_secs(30);

    fn key() -> VirtualServerKey {
        VirtualServerKey::tcp(VIP.parse().unwrap())
    }

    /// A node with one virtual server, whose real server has a connection.
    fn node() -> (FakeNode, FakeIpvs) {
        let node = FakeNode::default();
        let mut kernel = node.kernel().unwrap();
        let config = Config::new("node-a", vec!["198.51.100.1".parse().unwrap()]);
        let to = crate::desired::FrontendKey::of(&key()).unwrap();
        let steps = [
            Step::InstallRuleset(Ruleset::new(&config)),
            Step::AddElement(Element::VirtualServer(to), None),
            Step::Ipvs(ipvs::Change::AddVirtualServer(VirtualServer::new(key()))),
            Step::Ipvs(ipvs::Change::AddRealServer {
                virtual_server: key(),
                real_server: RealServer::new(SERVER.parse().unwrap()),
            }),
        ];
        let applied = kernel.apply(&steps.into_iter().collect());
        assert!(applied.failures.is_empty(), "{:?}", applied.failures);
        connections(&node, 1);
        (node, kernel)
    }

    fn connections(node: &FakeNode, count: u32) {
        let connections = Connections::new(count, 0, 0);
        node.ipvs()
            .set_connections(&key(), &SERVER.parse().unwrap(), connections);
    }

    #[test]
    fn existing_connections_go_on_until_the_last_has_ended() {
        let (node, mut kernel) = node();
        let now = Instant::now();
        let (mut retiring, begun) =
            Retiring::begin(&mut kernel, Replacement::Rules, TIMEOUT, now).unwrap();
        assert!(begun.plan.is_empty());
        assert!(retiring.finish(&mut kernel, now).unwrap().is_none());
        assert_eq!(kernel.outline().unwrap().virtual_servers.len(), 1);
        connections(&node, 0);
        let cleanup = retiring.finish(&mut kernel, now).unwrap().unwrap();
        assert!(cleanup.applied.failures.is_empty());
        let left = kernel.outline().unwrap();
        assert!(left.virtual_servers.is_empty() && left.ruleset.is_none());
    }

    #[test]
    fn the_timeout_ends_the_drain() {
        let (_node, mut kernel) = node();
        let now = Instant::now();
        let (mut retiring, _) =
            Retiring::begin(&mut kernel, Replacement::Rules, TIMEOUT, now).unwrap();
        let early = now + TIMEOUT - Duration::from_millis(1);
        assert!(retiring.finish(&mut kernel, early).unwrap().is_none());
        let finished = retiring.finish(&mut kernel, now + TIMEOUT).unwrap();
        assert!(finished.is_some());
        assert!(kernel.outline().unwrap().virtual_servers.is_empty());
    }

    /// The rules of the mode must not reject what another proxy over IPVS serves.
    #[test]
    fn rules_go_before_what_drains_where_another_proxy_uses_ipvs() {
        let (_node, mut kernel) = node();
        let now = Instant::now();
        let replacement = Replacement::Ipvs(&|_| false);
        let (mut retiring, _) = Retiring::begin(&mut kernel, replacement, TIMEOUT, now).unwrap();
        let left = kernel.outline().unwrap();
        assert_eq!((left.ruleset, left.virtual_servers.len()), (None, 1));
        assert!(retiring.finish(&mut kernel, now).unwrap().is_none());
        let finished = retiring.finish(&mut kernel, now + TIMEOUT).unwrap();
        assert!(finished.is_some());
        assert!(kernel.outline().unwrap().virtual_servers.is_empty());
    }

    #[test]
    fn what_another_proxy_over_ipvs_has_taken_over_stays() {
        let (_node, mut kernel) = node();
        let now = Instant::now();
        let replacement = Replacement::Ipvs(&|_| true);
        let (mut retiring, _) = Retiring::begin(&mut kernel, replacement, TIMEOUT, now).unwrap();
        assert!(retiring.finish(&mut kernel, now).unwrap().is_some());
        let left = kernel.outline().unwrap();
        assert_eq!((left.ruleset, left.virtual_servers.len()), (None, 1));
    }
}
