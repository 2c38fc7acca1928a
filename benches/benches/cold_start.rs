//! Cold start: 10,000 Services of 3 endpoints programmed into an empty network namespace, compared
//! with a minimal loop that sends the same IPVS messages pre-encoded, and against `ipvsadm -R`.
//!
//! Needs root and a kernel with IPVS; `cargo xtask bench` runs it in the VM. Each run has a fresh
//! namespace: deleted real servers linger in a namespace and slow down later runs.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipvs::{Change, Client, Socket, Transport, VirtualServer};
use proxier::desired::{Config, DesiredState};
use proxier::mode::ipvs::plan::{NodeState, Plan, Scope, Step};
use proxier::mode::ipvs::{IpvsKernel, Kernel};
use proxier::store::Store;
use svcproxy_benches::Cluster;
use testbed::Namespace;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 3;
/// ipvsadm is too slow for all Services.
const IPVSADM_SERVICES: u32 = SERVICES / 10;
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    if let Err(error) = Client::open() {
        println!("skipped: {error}");
        return Ok(());
    }
    let cluster = Cluster::new(SERVICES, ENDPOINTS)?;
    let changes = ipvs_changes(&cluster)?;
    let datagrams = in_fresh_namespace(|| record(&changes))?;
    let (mut svcproxy, mut minimal) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        minimal.push(in_fresh_namespace(|| replay(&datagrams))?);
        svcproxy.push(in_fresh_namespace(|| cold_start(&cluster))?);
    }
    let ipvsadm = ipvsadm(&Cluster::new(IPVSADM_SERVICES, ENDPOINTS)?)?;
    // Other load on the machine makes a run longer, never shorter.
    let minimal = minimal.into_iter().min().unwrap_or_default();
    let svcproxy = svcproxy.into_iter().min_by_key(Times::on_the_wire);
    let svcproxy = svcproxy.unwrap_or_default();
    println!(
        "{SERVICES} Services of {ENDPOINTS} endpoints, {} IPVS messages",
        changes.len()
    );
    println!("| what, in the shortest of {ROUNDS} runs | ratio | time here |");
    println!("| --- | --- | --- |");
    let row = |what: &str, time: Duration| {
        println!(
            "| {what} | {:.2} | {time:.2?} |",
            time.as_secs_f64() / minimal.as_secs_f64()
        );
    };
    row("the same IPVS messages, pre-encoded and batched", minimal);
    row(
        "svcproxy, from the first netlink message to the last reply",
        svcproxy.on_the_wire(),
    );
    row("- observe the empty node", svcproxy.observe);
    row("- plan", svcproxy.plan);
    row("- packet filter elements", svcproxy.packet_filter);
    row("- IPVS", svcproxy.ipvs);
    row("- rules, routes, sysctls", svcproxy.rest);
    row("- bookkeeping", svcproxy.record);
    row(
        "store and desired state, before that",
        svcproxy.store_and_desired,
    );
    let tenth = SERVICES / IPVSADM_SERVICES;
    row(
        &format!("ipvsadm -R of a {tenth}th, times {tenth}"),
        ipvsadm * tenth,
    );
    Ok(())
}

fn config() -> Result<Arc<Config>> {
    Ok(Arc::new(Config::new("node-1", vec!["192.0.2.1".parse()?])))
}

/// The changes of IPVS that an empty node needs, in svcproxy's order.
fn ipvs_changes(cluster: &Cluster) -> Result<Vec<Change>> {
    let mut store = Store::default();
    cluster
        .changes()
        .into_iter()
        .for_each(|change| store.apply(change));
    let desired = DesiredState::from_store(config()?, &store);
    let plan = Plan::new(&desired, &NodeState::default(), Scope::Full);
    let changes = plan.into_iter().filter_map(|step| match step {
        Step::Ipvs(change) => Some(*change),
        _ => None,
    });
    Ok(changes.collect())
}

/// Runs an action in a fresh namespace.
fn in_fresh_namespace<T: Send>(action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = Namespace::new("cold-start")?;
    namespace.run(["ip", "address", "add", "192.0.2.1/32", "dev", "lo"])?;
    namespace.enter(action)
}

/// A socket that records what it sends.
struct Recorder {
    socket: Socket,
    sent: Arc<std::sync::Mutex<Vec<Vec<u8>>>>,
}

impl Transport for Recorder {
    fn send(&mut self, packets: &[u8]) -> io::Result<()> {
        self.sent
            .lock()
            .map_err(|_| io::ErrorKind::Other)?
            .push(packets.to_vec());
        self.socket.send(packets)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(buffer)
    }

    fn capacity(&self) -> usize {
        self.socket.capacity()
    }
}

/// The datagrams that carry these changes.
fn record(changes: &[Change]) -> Result<Vec<Vec<u8>>> {
    let sent = Arc::default();
    let recorder = Recorder {
        socket: Socket::open()?,
        sent: Arc::clone(&sent),
    };
    let mut client = Client::with_transport(recorder)?;
    sent.lock().map_err(|_| "poisoned")?.clear();
    client.apply(changes).into_result()?;
    let sent = sent.lock().map_err(|_| "poisoned")?.clone();
    Ok(sent)
}

/// The minimal loop: send, and wait for the one acknowledgement of each datagram.
fn replay(datagrams: &[Vec<u8>]) -> Result<Duration> {
    // Loads the module and the scheduler, which svcproxy has loaded at this point, too.
    let mut client = Client::open()?;
    let probe = VirtualServer::new("tcp 192.0.2.1:1".parse()?);
    client.add_virtual_server(&probe)?;
    client.delete_virtual_server(&probe.key)?;
    let mut socket = Socket::open()?;
    let mut buffer = vec![0; 64 * 1024];
    let start = Instant::now();
    for datagram in datagrams {
        socket.send(datagram)?;
        let length = socket.receive(&mut buffer)?;
        // An acknowledgement: nlmsghdr of 16 bytes, then the errno, 0.
        let errno = buffer.get(16..20).filter(|_| length >= 20);
        if errno != Some(&[0; 4]) {
            return Err(format!("refused: errno {errno:?}").into());
        }
    }
    Ok(start.elapsed())
}

/// The parts of a cold start's time.
#[derive(Default, Clone, Copy)]
struct Times {
    store_and_desired: Duration,
    observe: Duration,
    plan: Duration,
    packet_filter: Duration,
    ipvs: Duration,
    rest: Duration,
    record: Duration,
}

impl Times {
    /// From the first netlink message to the last reply.
    fn on_the_wire(&self) -> Duration {
        self.observe + self.plan + self.packet_filter + self.ipvs + self.rest + self.record
    }
}

/// A cold start of everything except the source, on an empty node.
fn cold_start(cluster: &Cluster) -> Result<Times> {
    let mut times = Times::default();
    let mut kernel = IpvsKernel::open()?;
    let changes = cluster.changes();
    let mut start = Instant::now();
    let mut lap = |of: &mut Duration| *of += mem::replace(&mut start, Instant::now()).elapsed();
    let mut store = Store::default();
    changes.into_iter().for_each(|change| store.apply(change));
    let desired = DesiredState::from_store(config()?, &store);
    lap(&mut times.store_and_desired);
    let mut node = kernel.observe()?;
    lap(&mut times.observe);
    let plan = Plan::new(&desired, &node, Scope::Full);
    lap(&mut times.plan);
    for part in plan
        .steps()
        .chunk_by(|a, b| mem::discriminant(a) == mem::discriminant(b))
    {
        let part: Plan = part.iter().cloned().collect();
        let of = match part.steps().first() {
            Some(Step::Ipvs(_)) => &mut times.ipvs,
            Some(Step::AddElement(..)) => &mut times.packet_filter,
            _ => &mut times.rest,
        };
        // The copy of a part of the plan does not count as svcproxy's time.
        let before = Instant::now();
        let report = kernel.apply(&part);
        *of += before.elapsed();
        if let Some(failure) = report.failures.first() {
            return Err(format!("{failure:?}").into());
        }
    }
    let before = Instant::now();
    node.record(&plan, &[]);
    times.record = before.elapsed();
    Ok(times)
}

/// `ipvsadm -R` of a cluster, from the start of the process to its end.
fn ipvsadm(cluster: &Cluster) -> Result<Duration> {
    let mut rules = String::new();
    for change in ipvs_changes(cluster)? {
        match change {
            Change::AddVirtualServer(server) => {
                writeln!(rules, "{}", ipvs::ipvsadm::virtual_server(&server))?;
            }
            Change::AddRealServer {
                virtual_server,
                real_server,
            } => {
                writeln!(
                    rules,
                    "{}",
                    ipvs::ipvsadm::real_server(&virtual_server, &real_server)
                )?;
            }
            _ => {}
        }
    }
    let namespace = Namespace::new("cold-start")?;
    let start = Instant::now();
    namespace.run_with_input(["ipvsadm", "-R"], &rules)?;
    Ok(start.elapsed())
}
