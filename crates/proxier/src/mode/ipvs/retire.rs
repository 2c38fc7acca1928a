//! Retires IPVS mode after another data plane has replaced it, without cutting connections.

use std::collections::BTreeSet;
use std::iter;
use std::time::{Duration, Instant};

use ipvs::{Protocol, VirtualServerKey};

use super::{Backend, Cleanup, cleanup};
use crate::desired::Config;
use crate::mode::ipvs::plan::{Flows, NodeState, Plan, Step};
use crate::mode::ipvs::rules::Ruleset;
use crate::mode::{ApplyReport, BackendError};

/// The state of IPVS mode on a node where another data plane is in effect.
///
/// New connections bypass it at once: they are translated before IPVS sees them, and the nftables
/// rules let them pass. UDP moves to the other data plane at once. Existing connections stay on
/// IPVS until they end or the drain timeout is reached; then everything is removed.
///
/// ```no_run
/// use std::time::{Duration, Instant};
/// use proxier::mode::ipvs::{IpvsBackend, Retiring};
/// use proxier::desired::Config;
///
/// let config = Config::new("node-a", vec!["192.0.2.1".parse()?]);
/// let mut backend = IpvsBackend::open()?;
/// let (mut retiring, _) = Retiring::begin(&mut backend, &config, Instant::now())?;
/// while retiring.finish(&mut backend, Instant::now())?.is_none() {
///     std::thread::sleep(Duration::from_secs(1));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Retiring {
    busy: Busy,
    began: Instant,
    timeout: Duration,
}

impl Retiring {
    /// Makes new connections bypass IPVS mode, and returns the report of that plan. Existing
    /// connections may last for [`Config::drain_timeout`].
    ///
    /// # Errors
    ///
    /// If the node cannot be read; nothing is changed then.
    pub fn begin<B: Backend + ?Sized>(
        backend: &mut B,
        config: &Config,
        now: Instant,
    ) -> Result<(Self, Cleanup), BackendError> {
        let mut node = backend.outline()?;
        node.retain_recorded_and(iter::empty());
        let plan = retirement(&node, config);
        let applied = if plan.is_empty() {
            ApplyReport::default()
        } else {
            backend.apply(&plan)
        };
        let retiring = Self {
            busy: Busy::of(&node),
            began: now,
            timeout: config.drain_timeout,
        };
        Ok((retiring, Cleanup { plan, applied }))
    }

    /// Removes everything if no connections are left or the drain timeout is reached. `None`
    /// otherwise.
    ///
    /// # Errors
    ///
    /// If connections cannot be read, and as [`cleanup`].
    pub fn finish<B: Backend + ?Sized>(
        &mut self,
        backend: &mut B,
        now: Instant,
    ) -> Result<Option<Cleanup>, BackendError> {
        let has_time = now.saturating_duration_since(self.began) < self.timeout;
        if has_time && self.busy.is_left(backend)? {
            return Ok(None);
        }
        cleanup(backend).map(Some)
    }
}

/// Virtual servers without new connections that may have existing ones.
#[derive(Debug)]
pub(super) struct Busy(Vec<VirtualServerKey>);

impl Busy {
    /// Those of a node, except for UDP: a UDP flow has no end that could be waited for.
    pub(super) fn of(node: &NodeState) -> Self {
        let lasts = |key: &VirtualServerKey| {
            let frontend = node.frontend_of(key);
            // A virtual server without a frontend is draining, so it does not have UDP flows.
            frontend.is_none_or(|frontend| frontend.protocol != Protocol::Udp)
        };
        let servers = node.virtual_servers.keys().copied().filter(lasts);
        let servers: BTreeSet<_> = servers.collect();
        Self(servers.into_iter().collect())
    }

    /// Whether any has connections. No new ones come, so a virtual server without connections is
    /// not checked again.
    ///
    /// # Errors
    ///
    /// If connections cannot be read.
    pub(super) fn is_left<B: Backend + ?Sized>(
        &mut self,
        backend: &mut B,
    ) -> Result<bool, BackendError> {
        while let Some(key) = self.0.last() {
            let connections = backend.connections(key)?;
            if connections.values().any(|count| *count > 0) {
                return Ok(true);
            }
            self.0.pop();
        }
        Ok(false)
    }
}

fn retirement(node: &NodeState, config: &Config) -> Plan {
    let retired = Ruleset::retired(config);
    let is_new = node.ruleset != Some(retired.fingerprint());
    let rules = !node.virtual_servers.is_empty() && is_new;
    let rules = rules.then_some(Step::InstallRuleset(retired));
    let servers = node.virtual_servers.keys();
    let frontends = servers.filter_map(|key| node.frontend_of(key));
    let datagrams = frontends.filter(|frontend| frontend.protocol == Protocol::Udp);
    let flows: BTreeSet<_> = datagrams.map(Flows::to).collect();
    let flows = flows.into_iter().map(Step::DeleteFlows);
    rules.into_iter().chain(flows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Config;
    use crate::mode::ipvs::{FakeNode, Ipvs};
    use crate::reconcile::Proxier;

    #[test]
    fn without_connections_it_is_gone_at_once() {
        let config = Config::new("node-a", vec!["198.51.100.1".parse().unwrap()]);
        let node = FakeNode::default();
        let mut proxier = Proxier::new(config.clone().into(), Ipvs::new(node.backend().unwrap()));
        let lists = [
            crate::store::Change::ServicesReplaced(vec![]),
            crate::store::Change::EndpointSlicesReplaced(vec![]),
        ];
        proxier.handle(lists).unwrap();
        let mut backend = node.backend().unwrap();
        assert!(backend.observe().unwrap().ruleset.is_some());
        let now = Instant::now();
        let (mut retiring, begun) = Retiring::begin(&mut backend, &config, now).unwrap();
        assert!(begun.plan.is_empty());
        let cleanup = retiring.finish(&mut backend, now).unwrap().unwrap();
        assert!(cleanup.applied.failures.is_empty());
        let left = backend.observe().unwrap();
        assert_eq!((left.ruleset, left.routes.len()), (None, 0));
    }
}
