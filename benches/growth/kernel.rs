//! Rows of whole syncs with the kernel, beside the same messages alone. Each run has a network namespace of
//! its own: deleted real servers linger in one, and slow down what comes after.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex};

use ipvs::{Change, Client, Socket, Transport, VirtualServer};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;
use proxier::Proxier;
use proxier::desired::DesiredState;
use proxier::mode::ipvs::plan::{self, Scope, Step};
use proxier::mode::ipvs::{Ipvs, IpvsKernel, Kernel, rules};
use proxier::mode::nftables::{self, NftablesKernel};
use proxier::store::Store;
use svcproxy_benches::{Cluster, config};
use testbed::Namespace;

use crate::measure::{Of, measure_of};
use crate::row::{COMPARED, Goal, Needs, Row, Sample, Size};
use crate::{Result, some};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "cold-ipvs",
        about: "from objects to the last acknowledgement, mode ipvs, beside the same IPVS messages alone",
        sizes_of: "Services × 3",
        sizes: COMPARED,
        goal: Goal::Ratio(1.2),
        needs: Needs::Ipvs,
        run: cold_ipvs,
    },
    Row {
        name: "cold-nftables",
        about: "from objects to the last acknowledgement, mode nftables, beside the same transactions alone",
        sizes_of: "Services × 3",
        sizes: COMPARED,
        goal: Goal::Ratio(1.3),
        needs: Needs::Ipvs,
        run: cold_nftables,
    },
    Row {
        name: "restart-ipvs",
        about: "read a node that is right, and find nothing to do, mode ipvs, beside the same lists unread",
        sizes_of: "Services × 3",
        sizes: COMPARED,
        goal: Goal::Ratio(1.1),
        needs: Needs::Ipvs,
        run: restart_ipvs,
    },
    Row {
        name: "restart-nftables",
        about: "read a node that is right, and find nothing to do, mode nftables, beside the same sets unread",
        sizes_of: "Services × 3",
        sizes: COMPARED,
        goal: Goal::Ratio(1.1),
        needs: Needs::Ipvs,
        run: restart_nftables,
    },
    Row {
        name: "audit-ipvs",
        about: "an audit of a node that is right, mode ipvs, beside reading /proc/net/ip_vs",
        sizes_of: "Services × 3",
        sizes: COMPARED,
        goal: Goal::Ratio(2.0),
        needs: Needs::Ipvs,
        run: audit_ipvs,
    },
];

/// Why these rows cannot be measured on this machine.
pub(crate) fn missing() -> Option<String> {
    let ipvs = Client::open().err().map(|error| error.to_string());
    ipvs.or_else(|| {
        let namespace = Namespace::new("probe");
        namespace.err().map(|error| error.to_string())
    })
}

fn fresh<T: Send>(action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = Namespace::new("growth")?;
    namespace.run(["ip", "address", "add", "192.0.2.1/32", "dev", "lo"])?;
    namespace.enter(action)
}

fn cluster(size: Size) -> Result<Cluster> {
    Ok(Cluster::new(size.count, size.endpoints)?)
}

fn desired(cluster: &Cluster) -> DesiredState {
    DesiredState::from_store(config(), &cluster.store())
}

fn succeeded(failure: Option<&proxier::mode::Failure>) -> Result<()> {
    match failure {
        Some(failure) => Err(format!("{failure:?}").into()),
        None => Ok(()),
    }
}

/// The store and the desired state of objects that a source has just yielded.
fn state(objects: [proxier::store::Change; 2]) -> DesiredState {
    let mut store = Store::default();
    objects.into_iter().for_each(|change| store.apply(change));
    DesiredState::from_store(config(), &store)
}

fn cold_ipvs(size: Size) -> Result<Sample> {
    let cluster = cluster(size)?;
    let plan = plan::Plan::new(&desired(&cluster), &plan::NodeState::default(), Scope::Full);
    let messages = plan.into_iter().filter_map(|step| match step {
        Step::Ipvs(change) => Some(*change),
        _ => None,
    });
    let raw = raw_changes(&[], &messages.collect::<Vec<_>>())?;
    let objects = cluster.changes();
    let cost = fresh(|| {
        let (result, cost) = measure_of(Of::Process, || -> Result<_> {
            let mut kernel = IpvsKernel::open()?;
            let desired = state(objects);
            let mut node = kernel.observe()?;
            let plan = plan::Plan::new(&desired, &node, Scope::Full);
            succeeded(kernel.apply(&plan).failures.first())?;
            node.record(&plan, &[]);
            Ok((desired, node))
        });
        result?;
        Ok(cost)
    })?;
    Ok(Sample::beside(cost, raw))
}

/// The work of sending these changes after those, encoded before: each datagram after the last one's
/// acknowledgement.
pub(crate) fn raw_changes(before: &[Change], changes: &[Change]) -> Result<u64> {
    let datagrams = fresh(|| {
        let sent = Arc::<Mutex<Vec<_>>>::default();
        let recorder = Recorder {
            socket: Socket::open()?,
            sent: Arc::clone(&sent),
        };
        Client::open()?.apply(before).into_result()?;
        let mut client = Client::with_transport(recorder)?;
        sent.lock().map_err(|_| "poisoned")?.clear();
        client.apply(changes).into_result()?;
        let sent = std::mem::take(&mut *sent.lock().map_err(|_| "poisoned")?);
        Ok(sent)
    })?;
    some(datagrams.len())?;
    fresh(|| {
        let mut client = Client::open()?;
        // Loads the scheduler.
        let probe = VirtualServer::new("tcp 192.0.2.1:1".parse()?);
        client.add_virtual_server(&probe)?;
        client.delete_virtual_server(&probe.key)?;
        client.apply(before).into_result()?;
        let mut socket = Socket::open()?;
        let mut buffer = vec![0; 64 * 1024];
        let (result, cost) = measure_of(Of::Process, || -> Result<()> {
            for datagram in &datagrams {
                socket.send(datagram)?;
                let length = socket.receive(&mut buffer)?;
                acknowledged(&buffer, length)?;
            }
            Ok(())
        });
        result?;
        Ok(cost.work)
    })
}

/// Fails unless a message is an acknowledgement: the errno is behind the header of 16 bytes.
fn acknowledged(buffer: &[u8], length: usize) -> Result<()> {
    let errno = buffer.get(16..20).filter(|_| length >= 20);
    match errno {
        Some(&[0, 0, 0, 0]) => Ok(()),
        _ => Err(format!("the kernel rejects a message: {errno:?}").into()),
    }
}

/// A socket that records what it sends.
struct Recorder {
    socket: Socket,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Transport for Recorder {
    fn send(&mut self, packets: &[u8]) -> io::Result<()> {
        let mut sent = self.sent.lock().map_err(|_| io::ErrorKind::Other)?;
        sent.push(packets.to_vec());
        self.socket.send(packets)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(buffer)
    }

    fn capacity(&self) -> usize {
        self.socket.capacity()
    }
}

fn netfilter() -> Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn cold_nftables(size: Size) -> Result<Sample> {
    let cluster = cluster(size)?;
    let raw = fresh(|| {
        let mut kernel = NftablesKernel::open()?;
        let plan = nftables::Plan::new(&desired(&cluster), &kernel.observe()?, Scope::Full);
        let datagrams = kernel.datagrams(&plan);
        let socket = netfilter()?;
        let mut buffer = Vec::with_capacity(64 * 1024);
        let (result, cost) = measure_of(Of::Process, || -> Result<()> {
            for datagram in &datagrams {
                socket.send(datagram, 0)?;
                buffer.clear();
                let length = socket.recv(&mut buffer, 0)?;
                acknowledged(&buffer, length)?;
            }
            Ok(())
        });
        result?;
        Ok(cost.work)
    })?;
    let objects = cluster.changes();
    let cost = fresh(|| {
        let (result, cost) = measure_of(Of::Process, || -> Result<_> {
            let mut kernel = NftablesKernel::open()?;
            let desired = state(objects);
            let mut node = kernel.observe()?;
            let plan = nftables::Plan::new(&desired, &node, Scope::Full);
            succeeded(kernel.apply(&plan).failures.first())?;
            node.record(&plan, &[]);
            Ok((desired, node))
        });
        result?;
        Ok(cost)
    })?;
    Ok(Sample::beside(cost, raw))
}

fn restart_ipvs(size: Size) -> Result<Sample> {
    let desired = desired(&cluster(size)?);
    fresh(|| {
        let mut kernel = IpvsKernel::open()?;
        let plan = plan::Plan::new(&desired, &kernel.observe()?, Scope::Full);
        succeeded(kernel.apply(&plan).failures.first())?;
        let requests = ipvs_requests()?;
        let sets = rules::Set::ALL.iter();
        let sets: Vec<_> = sets
            .map(|set| set_request(INET, rules::TABLE, set.name()))
            .collect();
        let (result, raw) = measure_of(Of::Process, || -> Result<()> {
            let mut socket = Socket::open()?;
            let mut buffer = vec![0; 64 * 1024];
            for request in &requests {
                socket.send(request)?;
                loop {
                    let length = socket.receive(&mut buffer)?;
                    if is_end(&buffer, length) {
                        break;
                    }
                }
            }
            list_sets(&sets)
        });
        result?;
        let (result, cost) = measure_of(Of::Process, || -> Result<_> {
            let mut kernel = IpvsKernel::open()?;
            let mut node = kernel.outline()?;
            node.retain_owned(&desired);
            let keys: Vec<_> = node.virtual_servers.keys().copied().collect();
            kernel.read_real_servers(&mut node, &keys)?;
            Ok((plan::Plan::new(&desired, &node, Scope::Full), node))
        });
        right(result?.0.steps().len())?;
        Ok(Sample::beside(cost, raw.work))
    })
}

fn right(steps: usize) -> Result<()> {
    match steps {
        0 => Ok(()),
        _ => Err(format!("{steps} steps on a node that is right").into()),
    }
}

fn restart_nftables(size: Size) -> Result<Sample> {
    let desired = desired(&cluster(size)?);
    fresh(|| {
        let mut kernel = NftablesKernel::open()?;
        let plan = nftables::Plan::new(&desired, &kernel.observe()?, Scope::Full);
        succeeded(kernel.apply(&plan).failures.first())?;
        let sets = [IPV4, IPV6].map(|family| {
            nftables::Set::ALL.map(|set| set_request(family, nftables::TABLE, set.name()))
        });
        let (result, raw) = measure_of(Of::Process, || list_sets(sets.as_flattened()));
        result?;
        let (result, cost) = measure_of(Of::Process, || -> Result<_> {
            let node = NftablesKernel::open()?.observe()?;
            Ok((nftables::Plan::new(&desired, &node, Scope::Full), node))
        });
        right(result?.0.steps().len())?;
        Ok(Sample::beside(cost, raw.work))
    })
}

/// The requests for all virtual servers and the real servers of each.
fn ipvs_requests() -> Result<Vec<Vec<u8>>> {
    let sent = Arc::<Mutex<Vec<_>>>::default();
    let recorder = Recorder {
        socket: Socket::open()?,
        sent: Arc::clone(&sent),
    };
    let mut client = Client::with_transport(recorder)?;
    sent.lock().map_err(|_| "poisoned")?.clear();
    for entry in client.virtual_servers()? {
        client.real_servers(&entry.server.key)?;
    }
    let requests = std::mem::take(&mut *sent.lock().map_err(|_| "poisoned")?);
    Ok(requests)
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const DUMP: u16 = 0x301;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM`
const GET_SET_ELEMENTS: u16 = 0x0a0d;
/// `struct nfgenmsg` of `NFPROTO_INET`, `NFPROTO_IPV4` and `NFPROTO_IPV6`
const INET: [u8; 4] = [1, 0, 0, 0];
const IPV4: [u8; 4] = [2, 0, 0, 0];
const IPV6: [u8; 4] = [10, 0, 0, 0];

/// Lists the elements of sets.
fn list_sets(requests: &[Vec<u8>]) -> Result<()> {
    let socket = netfilter()?;
    let mut buffer = Vec::with_capacity(64 * 1024);
    for request in requests {
        socket.send(request, 0)?;
        loop {
            buffer.clear();
            let length = socket.recv(&mut buffer, 0)?;
            if is_end(&buffer, length) {
                break;
            }
        }
    }
    Ok(())
}

/// `struct nlmsghdr`, `struct nfgenmsg`, and names as attributes: `NFTA_SET_ELEM_LIST_TABLE`,
/// `NFTA_SET_ELEM_LIST_SET`.
fn set_request(family: [u8; 4], table: &str, set: &str) -> Vec<u8> {
    let mut body = family.to_vec();
    for (kind, name) in (1_u16..).zip([table, set]) {
        // Includes the header and the terminating NUL.
        let length = u16::try_from(name.len() + 5).unwrap_or(u16::MAX);
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(name.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(body.len() + 16).unwrap_or(u32::MAX);
    let mut packet = length.to_ne_bytes().to_vec();
    packet.extend(GET_SET_ELEMENTS.to_ne_bytes());
    packet.extend(DUMP.to_ne_bytes());
    packet.extend([0; 8]);
    packet.extend(body);
    packet
}

/// Whether a datagram contains the end of a list.
fn is_end(buffer: &[u8], length: usize) -> bool {
    let mut rest = buffer.get(..length).unwrap_or_default();
    while let Some((header, _)) = rest.split_first_chunk::<6>() {
        let [a, b, c, d, kind @ ..] = *header;
        if matches!(u16::from_ne_bytes(kind), NLMSG_ERROR | NLMSG_DONE) {
            return true;
        }
        let length = u32::from_ne_bytes([a, b, c, d]).next_multiple_of(4);
        let length = usize::try_from(length).unwrap_or(usize::MAX).max(16);
        rest = rest.get(length..).unwrap_or_default();
    }
    false
}

fn audit_ipvs(size: Size) -> Result<Sample> {
    let cluster = cluster(size)?;
    fresh(|| {
        let mut proxier = Proxier::new(config(), Ipvs::new(IpvsKernel::open()?));
        let report = proxier.handle(cluster.changes())?;
        let report = report.ok_or("nothing was synced")?;
        succeeded(report.applied.failures.first())?;
        // The first look builds what later ones reuse.
        audit(&mut proxier)?;
        let mut buffer = vec![0; 64 * 1024];
        let (length, raw) = measure_of(Of::Process, || -> Result<usize> {
            let mut file = File::open("/proc/thread-self/net/ip_vs")?;
            let mut total = 0;
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(total),
                    read => total += read,
                }
            }
        });
        some(length?)?;
        let (result, cost) = measure_of(Of::Process, || audit(&mut proxier));
        result?;
        Ok(Sample::beside(cost, raw.work))
    })
}

/// A whole audit, which finds nothing.
fn audit(proxier: &mut Proxier<Ipvs<IpvsKernel>>) -> Result<()> {
    loop {
        if let Some(report) = proxier.audit()? {
            right(report.plan.steps().len())?;
        }
        if !proxier.is_auditing() {
            return Ok(());
        }
    }
}
