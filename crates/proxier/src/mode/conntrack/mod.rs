//! Deletes flows from connection tracking, over ctnetlink.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Instant;

use ipvs::{Family, Protocol};

use crate::desired::FrontendKey;
use crate::errno::ENOENT;
use crate::mode::{ApplyReport, Flows, NodeError};
use netlink::conntrack::{self, Entry, EntryName, Extent};
use netlink::uapi::NLM_F_ACK;
use netlink::{Refusal, Socket, Writer, again};

/// Number of deletions in one send. A socket's default receive buffer holds 237 error replies.
const BATCH: usize = 128;

/// The connection tracking of one network namespace.
#[derive(Debug)]
pub(crate) struct ConntrackSocket {
    socket: Socket,
}

impl ConntrackSocket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NodeError> {
        let socket = Socket::open().map_err(error("open ctnetlink"))?;
        Ok(Self { socket })
    }

    /// Checks that the kernel answers requests about connection tracking.
    pub(crate) fn check() -> Result<(), NodeError> {
        let mut socket = Self::open()?.socket;
        let first = socket.reserve(2);
        let mut writer = Writer::default();
        conntrack::write_statistics(&mut writer, first.wrapping_add(1));
        let answered = socket.commit(&writer, first, 1);
        answered.map_err(|refusal| error(STATISTICS)(refusal.into_error().into()))
    }

    /// Deletes flows, each with the index of its step in the plan. Lists the table once for each
    /// family and protocol, however many steps there are.
    pub(crate) fn delete_flows(
        &mut self,
        flows: impl IntoIterator<Item = (usize, Flows)>,
        report: &mut ApplyReport,
    ) {
        let mut unwanted = BTreeMap::<_, Unwanted>::new();
        for (place, flows) in flows {
            let table = (flows.to.family(), flows.to.protocol);
            let unwanted = unwanted.entry(table).or_default();
            unwanted.0.entry(flows).or_insert(place);
        }
        let mut failures = BTreeMap::new();
        let node = node_addresses(&unwanted, &mut failures);
        for ((family, protocol), unwanted) in unwanted {
            let extent = extent(family, protocol, unwanted.only_port());
            let began = Instant::now();
            let mut deleted = 0;
            let found = extent
                .and_then(|extent| self.list(extent, |entry| unwanted.step_for(entry, &node)));
            match found {
                Ok(found) => deleted = self.delete(&found, &mut failures),
                Err(source) => unwanted
                    .0
                    .values()
                    .for_each(|place| fail(&mut failures, *place, LIST, &source)),
            }
            report.counts.flows += deleted;
            report.reconciled(family, deleted, began.elapsed());
        }
        for (place, (operation, source)) in failures {
            report.fail(place, error(operation)(source));
        }
    }

    /// The entries for which `choose` returns the index of a step.
    fn list(
        &mut self,
        extent: Extent,
        choose: impl Fn(&Entry<'_>) -> Option<usize>,
    ) -> io::Result<Vec<Found>> {
        let mut list = |filtered| {
            self.socket.list_with(
                |writer, sequence| extent.write_list(writer, sequence, filtered),
                |found: &mut Vec<_>, attributes| {
                    found.extend(Entry::parse(attributes)?.and_then(|entry| {
                        let step = choose(&entry)?;
                        let name = entry.name();
                        Some(Found { name, step })
                    }));
                    Ok(())
                },
            )
        };
        let mut list = |filtered| list(filtered).map_err(io::Error::from);
        use io::ErrorKind::{InvalidInput, Unsupported};
        match list(true) {
            Err(error) if matches!(error.kind(), InvalidInput | Unsupported) => list(false),
            listed => listed,
        }
    }

    /// Returns the number of deleted entries. An entry that has expired in the meantime does not
    /// count and is no failure.
    fn delete(&mut self, found: &[Found], failures: &mut Failures) -> u64 {
        let mut deleted = 0;
        for batch in found.chunks(BATCH) {
            // The first sequence number is that of a transaction's begin message, which is not sent
            // here.
            let first = self.socket.reserve(batch.len() + 1);
            let mut writer = Writer::default();
            for (number, found) in (1..).zip(batch) {
                let is_last = usize::try_from(number).is_ok_and(|number| number == batch.len());
                let flags = if is_last { NLM_F_ACK } else { 0 };
                found
                    .name
                    .write_delete(&mut writer, flags, first.wrapping_add(number));
            }
            let refused = match self.socket.commit(&writer, first, batch.len()) {
                Ok(()) => Vec::new(),
                Err(Refusal::Messages(refused)) => refused,
                Err(Refusal::Whole(source) | Refusal::Lost(source)) => {
                    let source = source.into();
                    batch
                        .iter()
                        .for_each(|found| fail(failures, found.step, DELETE, &source));
                    continue;
                }
            };
            deleted += batch.len().saturating_sub(refused.len());
            for (index, errno) in refused {
                if let Some(found) = batch.get(index).filter(|_| errno != ENOENT) {
                    let source = io::Error::from_raw_os_error(errno);
                    fail(failures, found.step, DELETE, &source);
                }
            }
        }
        u64::try_from(deleted).unwrap_or(u64::MAX)
    }
}

/// The part of the table to list for flows of a family and protocol.
fn extent(family: Family, protocol: Protocol, port: Option<u16>) -> io::Result<Extent> {
    let protocol = u8::try_from(protocol.number());
    let protocol = protocol.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(Extent {
        family: netlink_family(family),
        protocol,
        port,
    })
}

pub(crate) const fn netlink_family(family: Family) -> netlink::Family {
    match family {
        Family::V4 => netlink::Family::V4,
        Family::V6 => netlink::Family::V6,
    }
}

/// An entry to delete.
#[derive(Debug)]
struct Found {
    name: EntryName,
    /// The index of its step.
    step: usize,
}

/// The flows to delete of one family and protocol, with the index of the step.
#[derive(Debug, Default)]
struct Unwanted(HashMap<Flows, usize>);

impl Unwanted {
    /// The index of the step that deletes this entry, if any.
    fn step_for(&self, entry: &Entry<'_>, node: &HashSet<IpAddr>) -> Option<usize> {
        let protocol = Protocol::from_number(u16::from(entry.protocol));
        let address = entry.to.ip();
        let port = NonZeroU16::new(entry.to.port())?;
        let virtual_ip = Flows::to(FrontendKey {
            protocol,
            address,
            port,
        });
        let node_port = FrontendKey::node_port(protocol, Family::of(&address), port);
        let node_port = Flows::to(node_port);
        let backend = entry.answered_from.ip();
        let is_of_node = |flows: &Flows| match flows.answered_by {
            // A direct connection to the backend's own port is not a flow to the node port.
            Some(_) => entry.answered_from != entry.to,
            // A flow that this node only forwards to another host is not svcproxy's.
            None => node.contains(&address),
        };
        let of_node = [node_port, node_port.answered_by(backend)].into_iter();
        [virtual_ip, virtual_ip.answered_by(backend)]
            .into_iter()
            .chain(of_node.filter(is_of_node))
            .find_map(|flows| self.0.get(&flows).copied())
    }

    fn only_port(&self) -> Option<u16> {
        let mut ports = self.0.keys().map(|flows| flows.to.port);
        let first = ports.next()?;
        ports.all(|port| port == first).then_some(first.get())
    }
}

/// The addresses on which node ports may be served, if a step needs them.
fn node_addresses(
    unwanted: &BTreeMap<(Family, Protocol), Unwanted>,
    failures: &mut Failures,
) -> HashSet<IpAddr> {
    let is_in_need = |flows: &Flows| flows.to.is_node_port() && flows.answered_by.is_none();
    let all = unwanted.values().flat_map(|unwanted| &unwanted.0);
    let in_need: Vec<_> = all
        .filter_map(|(flows, place)| is_in_need(flows).then_some(*place))
        .collect();
    if in_need.is_empty() {
        return HashSet::new();
    }
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => {
            let addresses = interfaces.iter().map(if_addrs::Interface::ip);
            addresses.filter(|address| !address.is_loopback()).collect()
        }
        Err(source) => {
            in_need
                .into_iter()
                .for_each(|place| fail(failures, place, ADDRESSES, &source));
            HashSet::new()
        }
    }
}

const STATISTICS: &str = "read its statistics";
const LIST: &str = "list flows";
const DELETE: &str = "delete a flow";
const ADDRESSES: &str = "list the node's addresses, to find flows to a node port";

/// The failed steps by index, each with its first error.
type Failures = BTreeMap<usize, (&'static str, io::Error)>;

fn fail(failures: &mut Failures, place: usize, operation: &'static str, source: &io::Error) {
    failures
        .entry(place)
        .or_insert_with(|| (operation, again(source)));
}

fn error(operation: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError::Conntrack { operation, source }
}

#[cfg(test)]
mod tests;
