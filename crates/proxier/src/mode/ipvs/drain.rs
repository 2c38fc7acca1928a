//! Draining real servers: they wait until their connections have ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use ipvs::{Change, Protocol, RealServerKey, VirtualServerKey};

use crate::desired::FrontendKey;
use crate::mode::BackendError;
use crate::mode::ipvs::Backend;
use crate::mode::ipvs::plan::{Flows, NodeState, Plan, Step, VirtualServerState};

/// The real servers of weight 0, which is what a plan gives a removed endpoint's.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    /// When each began to drain, once it is known.
    since: BTreeMap<(VirtualServerKey, RealServerKey), Option<Instant>>,
}

impl Draining {
    pub(crate) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// Adds those of an earlier run of svcproxy.
    pub(crate) fn note_node(&mut self, node: &NodeState) {
        for (virtual_server, state) in &node.virtual_servers {
            self.note_state(*virtual_server, state);
        }
    }

    /// Adds those of one virtual server.
    pub(crate) fn note_state(
        &mut self,
        virtual_server: VirtualServerKey,
        state: &VirtualServerState,
    ) {
        for real_server in state.real_servers.iter().filter(|r| r.weight == 0) {
            let drains = (virtual_server, real_server.key);
            self.since.entry(drains).or_default();
        }
    }

    /// Adds those that a plan begins to drain.
    pub(crate) fn note_plan(&mut self, plan: &Plan) {
        for step in plan {
            if let Step::Ipvs(Change::UpdateRealServer {
                virtual_server,
                real_server,
            }) = step
                && real_server.weight == 0
            {
                self.since.insert((*virtual_server, real_server.key), None);
            }
        }
    }

    /// A plan that removes those whose connections have ended or that have reached the drain
    /// timeout, and the frontends whose virtual servers have no real servers then.
    pub(crate) fn ended<B: Backend>(
        &mut self,
        node: &NodeState,
        backend: &mut B,
        timeout: Duration,
        now: Instant,
    ) -> Result<Option<(Plan, Vec<FrontendKey>)>, BackendError> {
        // Forget those that came back, or were deleted with their virtual servers.
        self.since.retain(|(virtual_server, key), _| {
            let state = node.virtual_servers.get(virtual_server);
            let real_server = state.and_then(|state| state.real_server(key));
            real_server.is_some_and(|real_server| real_server.weight == 0)
        });
        let mut ended = BTreeMap::<_, Vec<_>>::new();
        let mut connections: Option<(VirtualServerKey, HashMap<RealServerKey, u64>)> = None;
        for ((virtual_server, real_server), since) in &mut self.since {
            // Sorted, so one request per virtual server.
            let counts = match connections.take_if(|(key, _)| key == virtual_server) {
                Some((_, counts)) => counts,
                None => backend.connections(virtual_server)?,
            };
            let waited = now.saturating_duration_since(*since.get_or_insert(now));
            if waited >= timeout || counts.get(real_server).is_none_or(|count| *count == 0) {
                ended.entry(*virtual_server).or_default().push(*real_server);
            }
            connections = Some((*virtual_server, counts));
        }
        let (mut removals, mut emptied) = (Vec::new(), Vec::new());
        for (virtual_server, ended) in ended {
            let state = node.virtual_servers.get(&virtual_server);
            let are_all = state.is_some_and(|state| state.real_servers.len() == ended.len());
            match node.frontend_of(&virtual_server) {
                // A virtual server without a frontend is deleted with its last real server.
                None if are_all => {
                    removals.push(Change::DeleteVirtualServer(virtual_server));
                    continue;
                }
                frontend => emptied.extend(frontend.filter(|_| are_all)),
            }
            removals.extend(
                ended
                    .into_iter()
                    .map(|real_server| Change::DeleteRealServer {
                        virtual_server,
                        real_server,
                    }),
            );
        }
        let flows: BTreeSet<_> = removals
            .iter()
            .filter_map(|change| flows_cut(node, change))
            .collect();
        let flows = flows.into_iter().map(Step::DeleteFlows);
        let steps = removals.into_iter().map(Step::Ipvs).chain(flows);
        let plan: Plan = steps.collect();
        Ok((!plan.is_empty()).then_some((plan, emptied)))
    }
}

/// The flows to delete if a real server is removed before its connections have ended. TCP
/// connections end by themselves.
fn flows_cut(node: &NodeState, change: &Change) -> Option<Flows> {
    let Change::DeleteRealServer {
        virtual_server,
        real_server,
    } = change
    else {
        return None;
    };
    let to = node.frontend_of(virtual_server)?;
    let flows = Flows::to(to).answered_by(real_server.address);
    (to.protocol != Protocol::Tcp).then_some(flows)
}
