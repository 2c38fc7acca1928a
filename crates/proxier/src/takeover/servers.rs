//! Removes kube-proxy's virtual servers that are no longer needed.

use std::collections::BTreeSet;
use std::time::Instant;

use ipvs::{Change, Client, ErrorKind, Family, Protocol, VirtualServerKey};

use super::NewProxy;
use crate::desired::FrontendKey;
use crate::mode::conntrack::ConntrackSocket;
use crate::mode::flows::OwedFlows;
use crate::mode::ipvs::drain::Draining;
use crate::mode::ipvs::plan::drains;
use crate::mode::ipvs::shared;
use crate::mode::{ApplyReport, Flows, NodeError};
use crate::takeover::leftovers::Record;

/// The result of the removal.
#[derive(Debug, Default)]
pub(super) struct Deletion {
    /// Number of deleted virtual servers.
    pub(super) deleted: usize,
    /// Virtual servers that still have connections.
    pub(super) draining: Vec<VirtualServerKey>,
}

/// Deletes the virtual servers of the record that the new proxy does not have and that have
/// drained, and the flows to them; `owed` keeps flows that cannot be deleted now.
pub(super) fn delete(
    record: &Record,
    new_proxy: &NewProxy<'_>,
    draining: &mut Draining,
    owed: &mut OwedFlows,
    now: Instant,
) -> Result<Deletion, NodeError> {
    let deletion = delete_servers(record, new_proxy, draining, owed, now);
    // Also if a virtual server could not be deleted: others may have been.
    let settled = owed.settle(|flows| {
        let mut report = ApplyReport::default();
        let flows = flows.iter().copied().enumerate();
        ConntrackSocket::open()?.delete_flows(flows, &mut report);
        Ok(report)
    });
    let deletion = deletion?;
    settled?;
    Ok(deletion)
}

fn delete_servers(
    record: &Record,
    new_proxy: &NewProxy<'_>,
    draining: &mut Draining,
    owed: &mut OwedFlows,
    now: Instant,
) -> Result<Deletion, NodeError> {
    let Some(mut client) = open()? else {
        return Ok(Deletion::default());
    };
    let mut stale = BTreeSet::new();
    for entry in client.virtual_servers()? {
        let key = entry.server.key;
        if is_its(record, new_proxy, &key) && !new_proxy.keeps(&key) {
            stale.insert(key);
        }
    }
    draining.retain(|(key, _)| stale.contains(key));
    let waited_for = stale.iter().filter(|key| lasts(key));
    waited_for.for_each(|key| draining.note((*key, None)));
    let count = |key: &_| shared::connections(&mut client, key);
    let ended = draining.ended(new_proxy.drain_timeout, now, count)?;
    let ended: BTreeSet<_> = ended.into_iter().map(|(key, _)| key).collect();
    let mut outcome = Deletion::default();
    for key in stale {
        if lasts(&key) && !ended.contains(&key) {
            outcome.draining.push(key);
            continue;
        }
        let deleted = client.apply([&Change::DeleteVirtualServer(key)]);
        for result in deleted {
            match result {
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
        }
        outcome.deleted += 1;
        owed.owe(flows_to(key));
    }
    Ok(outcome)
}

/// The existing virtual servers of the record.
pub(super) fn list(record: &Record) -> Result<Vec<VirtualServerKey>, NodeError> {
    let Some(mut client) = open()? else {
        return Ok(Vec::new());
    };
    let keys = client.virtual_servers()?.into_iter();
    let keys = keys.map(|entry| entry.server.key);
    Ok(keys.filter(|key| record.has(key)).collect())
}

/// `None` if the kernel has no IPVS.
fn open() -> Result<Option<Client>, NodeError> {
    match Client::open() {
        Err(error) if *error.kind() == ErrorKind::Unsupported => Ok(None),
        client => Ok(Some(client?)),
    }
}

/// Whether a virtual server is kube-proxy's. Its sets may be incomplete, so node ports that the new
/// data plane serves also count.
fn is_its(record: &Record, new_proxy: &NewProxy<'_>, key: &VirtualServerKey) -> bool {
    let is_node_port = || {
        let VirtualServerKey::Address {
            protocol,
            address,
            port,
        } = *key
        else {
            return false;
        };
        let port = port.try_into().ok();
        let key = port.map(|port| FrontendKey::node_port(protocol, Family::of(&address), port));
        record.node_addresses.contains(&address)
            && key.is_some_and(|key| (new_proxy.has_node_port)(&key))
    };
    record.has(key) || is_node_port()
}

/// Whether its connections drain.
fn lasts(key: &VirtualServerKey) -> bool {
    match key {
        VirtualServerKey::Address { protocol, .. } => drains(*protocol),
        _ => true,
    }
}

/// The flows that connection tracking would still send to the old endpoints.
fn flows_to(key: VirtualServerKey) -> Option<Flows> {
    let to = FrontendKey::of(&key)?;
    (to.protocol != Protocol::Tcp).then(|| Flows::to(to))
}
