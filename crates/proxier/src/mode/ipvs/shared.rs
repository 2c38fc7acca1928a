//! What the kernel and its fake share: reading IPVS, and executing a plan.

use std::collections::{HashMap, HashSet};

use ipvs::{
    Client, RealServer, RealServerEntry, RealServerKey, Statistics, Transport, VirtualServerKey,
};

use crate::mode::ipvs::plan::{Part, Plan, Step, VirtualServerState};
use crate::mode::{ApplyReport, NodeError};

/// All virtual servers, without their real servers.
pub(crate) fn outline<T: Transport>(
    client: &mut Client<T>,
) -> ipvs::Result<foldhash::HashMap<VirtualServerKey, VirtualServerState>> {
    let entries = client.virtual_servers()?.into_iter();
    let states = entries.map(|entry| {
        let state = VirtualServerState {
            server: entry.server,
            real_servers: Vec::new(),
        };
        (entry.server.key, state)
    });
    Ok(states.collect())
}

/// The real servers of a virtual server, sorted by key; `None` if it does not exist.
pub(crate) fn real_servers<T: Transport>(
    client: &mut Client<T>,
    virtual_server: &VirtualServerKey,
) -> ipvs::Result<Option<Vec<RealServer>>> {
    let entries = match client.real_servers(virtual_server) {
        Err(error) if error.is_not_found() => return Ok(None),
        entries => entries?,
    };
    let mut real_servers: Vec<_> = entries.into_iter().map(|entry| entry.server).collect();
    real_servers.sort_unstable_by_key(|real_server| real_server.key);
    Ok(Some(real_servers))
}

/// The number of connections of each real server.
pub(crate) fn connections<T: Transport>(
    client: &mut Client<T>,
    virtual_server: &VirtualServerKey,
) -> ipvs::Result<HashMap<RealServerKey, u64>> {
    let entries = match client.real_servers(virtual_server) {
        Err(error) if error.is_not_found() => Vec::new(),
        entries => entries?,
    };
    let count = |entry: &RealServerEntry| {
        let connections = entry.connections.unwrap_or_default();
        (
            entry.server.key,
            u64::from(connections.active) + u64::from(connections.inactive),
        )
    };
    Ok(entries.iter().map(count).collect())
}

/// The counters of each virtual server.
pub(crate) fn statistics<T: Transport>(
    client: &mut Client<T>,
) -> ipvs::Result<Vec<(VirtualServerKey, Statistics)>> {
    let entries = client.virtual_servers()?.into_iter();
    let stats = entries.filter_map(|entry| Some((entry.server.key, entry.stats?)));
    Ok(stats.collect())
}

/// Calls `take` for each run of consecutive steps for one part of the node, with the index of the
/// first step.
///
/// After a failed step, steps for the same virtual server in later runs are skipped: a virtual
/// server that could not be recorded must not be created, and one that could not be deleted stays
/// recorded.
pub(super) fn carry_out(
    plan: &Plan,
    mut take: impl FnMut(Part, &[Step], usize, &mut ApplyReport),
) -> ApplyReport {
    let mut report = ApplyReport::default();
    let mut broken = HashSet::new();
    let mut place = 0;
    for run in plan.steps().chunk_by(|a, b| a.part() == b.part()) {
        let known = report.failures.len();
        let blocked = |step: &Step| {
            !broken.is_empty()
                && step
                    .virtual_server()
                    .is_some_and(|key| broken.contains(&key))
        };
        for steps in run.chunk_by(|a, b| blocked(a) == blocked(b)) {
            if let Some(step) = steps.first().filter(|step| !blocked(step)) {
                take(step.part(), steps, place, &mut report);
            } else {
                (place..)
                    .take(steps.len())
                    .for_each(|at| report.fail(at, NodeError::NotTried));
            }
            place += steps.len();
        }
        let failed = report.failures.iter().skip(known);
        let keys = failed.filter_map(|failure| plan.steps().get(failure.step)?.virtual_server());
        broken.extend(keys);
    }
    report.failures.sort_by_key(|failure| failure.step);
    report
}
