//! Reads IPVS.

use std::collections::HashMap;

use ipvs::{
    Client, RealServer, RealServerEntry, RealServerKey, Statistics, Transport, VirtualServerKey,
};

use crate::mode::ipvs::plan::VirtualServerState;

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
