//! Restart: 10,000 Services of 3 endpoints are in effect already, and svcproxy reads the node and
//! compares. Compared with a minimal loop that requests the same lists and ignores them.
//!
//! Needs root and a kernel with IPVS; `cargo xtask bench` runs it in the VM.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipvs::{Client, Socket, Transport};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;
use proxier::desired::DesiredState;
use proxier::mode::ipvs::plan::{NodeState, Plan, Scope};
use proxier::mode::ipvs::rules::{Set, TABLE};
use proxier::mode::ipvs::{IpvsKernel, Kernel};
use svcproxy_benches::{Cluster, config};
use testbed::Namespace;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 3;
const ROUNDS: usize = 5;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const DUMP: u16 = 0x301;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM`
const GET_SET_ELEMENTS: u16 = 0x0a0d;
/// `struct nfgenmsg` of `NFPROTO_INET`
const INET: [u8; 4] = [1, 0, 0, 0];

fn main() -> Result<()> {
    if let Err(error) = Client::open() {
        println!("skipped: {error}");
        return Ok(());
    }
    let namespace = Namespace::new("restart")?;
    namespace.run(["ip", "address", "add", "192.0.2.1/32", "dev", "lo"])?;
    namespace.enter(compare)
}

/// The name of a row, and its time in a round.
type Row = (&'static str, fn(&Round) -> Duration);

/// The parts of a round.
#[derive(Clone, Copy)]
struct Round {
    raw_ipvs: Duration,
    raw_filter: Duration,
    outline: Duration,
    real_servers: Duration,
    plan: Duration,
}

impl Round {
    fn raw(&self) -> Duration {
        self.raw_ipvs + self.raw_filter
    }

    fn svcproxy(&self) -> Duration {
        self.outline + self.real_servers + self.plan
    }
}

fn compare() -> Result<()> {
    let store = Cluster::new(SERVICES, ENDPOINTS)?.store();
    let desired = DesiredState::from_store(config(), &store);
    let plan = Plan::new(&desired, &IpvsKernel::open()?.observe()?, Scope::Full);
    let report = IpvsKernel::open()?.apply(&plan);
    if let Some(failure) = report.failures.first() {
        return Err(format!("{failure:?}").into());
    }
    let rounds = (0..ROUNDS).map(|_| round(&desired));
    let rounds = rounds.collect::<Result<Vec<_>>>()?;
    // Other load on the machine makes a run longer, never shorter.
    let least = |time: fn(&Round) -> Duration| rounds.iter().map(time).min().unwrap_or_default();
    let raw = least(Round::raw);
    println!(
        "{SERVICES} Services of {ENDPOINTS} endpoints in force, the shortest of {ROUNDS} rounds"
    );
    println!("| what | ratio | time here |");
    println!("| --- | --- | --- |");
    let rows: [Row; 7] = [
        ("the same lists, asked for and not looked at", Round::raw),
        ("- of IPVS", |round| round.raw_ipvs),
        ("- of the packet filter's sets", |round| round.raw_filter),
        (
            "svcproxy, until it knows that there is nothing to do",
            Round::svcproxy,
        ),
        ("- all but real servers", |round| round.outline),
        ("- real servers", |round| round.real_servers),
        ("- plan", |round| round.plan),
    ];
    for (what, time) in rows {
        let time = least(time);
        let ratio = time.as_secs_f64() / raw.as_secs_f64();
        println!("| {what} | {ratio:.2} | {time:.2?} |");
    }
    Ok(())
}

fn round(desired: &DesiredState) -> Result<Round> {
    let requests = ipvs_requests()?;
    let mut start = Instant::now();
    let mut lap = || std::mem::replace(&mut start, Instant::now()).elapsed();
    let mut socket = Socket::open()?;
    let mut buffer = vec![0; 64 * 1024];
    lap();
    for request in &requests {
        socket.send(request)?;
        loop {
            let length = socket.receive(&mut buffer)?;
            if is_end(&buffer, length) {
                break;
            }
        }
    }
    let raw_ipvs = lap();
    list_sets()?;
    let raw_filter = lap();
    let mut kernel = IpvsKernel::open()?;
    lap();
    let mut node: NodeState = kernel.outline()?;
    node.retain_owned(desired);
    let outline = lap();
    let keys: Vec<_> = node.virtual_servers.keys().copied().collect();
    kernel.read_real_servers(&mut node, &keys)?;
    let real_servers = lap();
    let plan = Plan::new(desired, &node, Scope::Full);
    let round = Round {
        raw_ipvs,
        raw_filter,
        outline,
        real_servers,
        plan: lap(),
    };
    if !plan.is_empty() {
        return Err(format!("there is something to do: {:?}", plan.steps().first()).into());
    }
    Ok(round)
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

/// Lists the elements of every set of svcproxy's table.
fn list_sets() -> Result<()> {
    let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut buffer = Vec::with_capacity(64 * 1024);
    for set in Set::ALL {
        socket.send(&list_request(set.name()), 0)?;
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
fn list_request(set: &str) -> Vec<u8> {
    let mut body = INET.to_vec();
    for (kind, name) in (1_u16..).zip([TABLE, set]) {
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
