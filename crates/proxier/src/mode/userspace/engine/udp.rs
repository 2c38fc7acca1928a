//! Proxies UDP flows: the datagrams of one client address and port.
//!
//! A flow has a socket of its own towards its endpoint, so that the kernel separates the answers, and
//! reports that nobody listens there. It ends when nothing came for a time.
//!
//! The first datagrams of a flow are kept until the endpoint answers. If the kernel reports that no
//! program listens there, they go to the next endpoint: clients of DNS, for instance, would wait for seconds
//! before they ask again.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use super::super::admission::Verdict;
use super::Shared;
use super::counters::count;
use super::live::{Chosen, Live, Traffic};
use super::tcp::is_exhaustion;

/// How long a flow lasts without datagrams, before and after the first answer: as connection
/// tracking has it (`nf_conntrack_udp_timeout`, `…_stream`).
const IDLE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(120));
/// How long a listener waits for descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);
/// Longer than any datagram.
const LONGEST: usize = 64 * 1024;
/// Datagrams that are handled before others get their turn.
const BURST: usize = 64;
/// Datagrams of a flow that are kept until its endpoint answers: a resolver sends two at once, for A and
/// AAAA.
const KEPT_OF_FLOW: usize = 4;
/// Datagrams of all flows that are kept, and the length of one: 8 MiB.
pub(super) const KEPT: usize = 4096;
const LONGEST_KEPT: usize = 2048;

thread_local! {
    static DATAGRAM: RefCell<Box<[u8]>> = RefCell::new(vec![0; LONGEST].into());
}

/// The flows of a listener, by client.
#[derive(Debug, Default)]
struct Flows(Mutex<HashMap<SocketAddr, Arc<Flow>>>);

#[derive(Debug)]
struct Flow {
    endpoint: UdpSocket,
    chosen: Chosen,
    /// The time of the last datagram, in milliseconds.
    last: AtomicU64,
    is_answered: AtomicBool,
    /// Wakes the task if a datagram could not be sent.
    is_refused: Notify,
    kept: Mutex<Vec<Kept>>,
    _open: Open,
}

/// Counts a flow as long as it lives.
#[derive(Debug)]
struct Open {
    live: Arc<Live>,
    shared: Arc<Shared>,
}

impl Open {
    /// `None` if there are too many flows, or too many of this frontend.
    fn new(live: &Arc<Live>, shared: &Arc<Shared>) -> Option<Self> {
        let open = Self {
            live: Arc::clone(live),
            shared: Arc::clone(shared),
        };
        let all = shared.counters.open_flows.fetch_add(1, Ordering::Relaxed);
        let of_live = live.active.fetch_add(1, Ordering::Relaxed);
        let most = shared.limits.flows;
        // One Service must not take everything.
        (all < most && of_live < most / 2).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared
            .counters
            .open_flows
            .fetch_sub(1, Ordering::Relaxed);
        self.live.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A datagram for the next endpoint, if this one refuses it.
#[derive(Debug)]
struct Kept {
    datagram: Box<[u8]>,
    _place: OwnedSemaphorePermit,
}

impl Flow {
    /// Sends a datagram to the endpoint. tokio does not know yet that a new socket takes something, so
    /// this goes around it. What does not fit into the socket is lost, as on a network.
    fn send(&self, datagram: &[u8], places: &Arc<Semaphore>) {
        self.keep(datagram, places);
        match SockRef::from(&self.endpoint).send(datagram) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                // The answer to an earlier datagram. The kernel reports it once: either here, or to the
                // flow's task, which waits for it.
                self.is_refused.notify_one();
            }
            _ => {}
        }
    }

    fn keep(&self, datagram: &[u8], places: &Arc<Semaphore>) {
        if self.is_answered.load(Ordering::Relaxed) || datagram.len() > LONGEST_KEPT {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_OF_FLOW
            && let Ok(place) = Arc::clone(places).try_acquire_owned()
        {
            kept.push(Kept {
                datagram: datagram.into(),
                _place: place,
            });
        }
    }

    /// The datagrams that the endpoint has not answered.
    fn take_kept(&self) -> Vec<Kept> {
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Flows {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Flow>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the flow of a client, unless it has one. Returns the client's flow, and whether it is this.
    fn insert(&self, client: SocketAddr, flow: Arc<Flow>) -> (Arc<Flow>, bool) {
        match self.lock().entry(client) {
            Entry::Occupied(entry) => (Arc::clone(entry.get()), false),
            Entry::Vacant(entry) => (Arc::clone(entry.insert(flow)), true),
        }
    }

    fn remove(&self, client: SocketAddr, flow: &Arc<Flow>) {
        if let Entry::Occupied(entry) = self.lock().entry(client)
            && Arc::ptr_eq(entry.get(), flow)
        {
            entry.remove();
        }
    }
}

/// Passes datagrams of a frontend's clients on until it is cancelled; then all flows end.
pub(super) async fn serve(listener: Arc<UdpSocket>, live: Arc<Live>, shared: Arc<Shared>) {
    let flows = Arc::<Flows>::default();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        if listener.readable().await.is_err() {
            sleep(PAUSE).await;
        }
        for _ in 0..BURST {
            match receive(&listener, &flows, &live, &shared) {
                Received::Nothing => break,
                Received::Datagram => {}
                Received::First(client, flow) => {
                    let (listener, flows) = (Arc::clone(&listener), Arc::clone(&flows));
                    let (live, shared) = (Arc::clone(&live), Arc::clone(&shared));
                    tasks.spawn(async move {
                        run(&listener, &flows, client, flow, &live, &shared).await;
                    });
                }
                Received::Exhausted => {
                    count(&shared.counters.pauses);
                    sleep(PAUSE).await;
                }
            }
        }
        while tasks.try_join_next().is_some() {}
        tokio::task::yield_now().await;
    }
}

enum Received {
    Nothing,
    Datagram,
    /// The first one of a flow.
    First(SocketAddr, Arc<Flow>),
    Exhausted,
}

/// Receives one datagram, and passes it on.
fn receive(
    listener: &UdpSocket,
    flows: &Flows,
    live: &Arc<Live>,
    shared: &Arc<Shared>,
) -> Received {
    DATAGRAM.with_borrow_mut(|buffer| {
        let (length, client) = match listener.try_recv_from(buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Received::Nothing,
            // An error of an earlier answer, whose client is gone.
            Err(_) => return Received::Datagram,
        };
        let datagram = buffer.get(..length).unwrap_or_default();
        Traffic::count(&live.traffic.bytes_in, length);
        Traffic::count(&shared.counters.bytes_in, length);
        count(&live.traffic.packets_in);
        let known = flows.lock().get(&client).map(Arc::clone);
        let (flow, is_first) = match known {
            Some(flow) => (flow, false),
            None => match begin(client, live, shared, &mut Vec::new()) {
                Ok(Some(flow)) => {
                    flows.lock().insert(client, Arc::clone(&flow));
                    (flow, true)
                }
                Ok(None) => return Received::Datagram,
                Err(_) => return Received::Exhausted,
            },
        };
        flow.last.store(shared.millis(), Ordering::Relaxed);
        flow.send(datagram, &shared.kept);
        match is_first {
            true => Received::First(client, flow),
            false => Received::Datagram,
        }
    })
}

/// A new flow, to an endpoint that was not tried yet; `None` if the client gets none.
///
/// # Errors
///
/// If the process has no descriptor left.
fn begin(
    client: SocketAddr,
    live: &Arc<Live>,
    shared: &Arc<Shared>,
    tried: &mut Vec<SocketAddr>,
) -> io::Result<Option<Arc<Flow>>> {
    let counters = &shared.counters;
    let audience = match live.verdict(&shared.own(), client.ip()) {
        Verdict::Serve(audience) => audience,
        Verdict::Refuse => {
            count(&counters.without_endpoint);
            return Ok(None);
        }
        Verdict::Drop => {
            count(&counters.denied);
            return Ok(None);
        }
    };
    let Some(open) = Open::new(live, shared) else {
        count(&counters.over_limit);
        return Ok(None);
    };
    while let Some(chosen) = live.choose(client.ip(), audience, tried, shared) {
        let target = chosen.held.0.address;
        match connect(target) {
            Ok(endpoint) => {
                live.remember(client.ip(), &chosen, shared);
                count(&counters.flows);
                count(&live.traffic.connections);
                count(&chosen.held.0.connections);
                return Ok(Some(Arc::new(Flow {
                    endpoint,
                    chosen,
                    last: AtomicU64::new(shared.millis()),
                    is_answered: AtomicBool::new(false),
                    is_refused: Notify::new(),
                    kept: Mutex::default(),
                    _open: open,
                })));
            }
            Err(error) if is_exhaustion(&error) => return Err(error),
            Err(_) => {
                chosen.held.0.fail(shared);
                count(&counters.retries);
                tried.push(target);
            }
        }
    }
    count(&counters.unreachable);
    Ok(None)
}

fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(to)?;
    UdpSocket::from_std(socket)
}

/// Passes the answers of a client's flow on until it ends. If its endpoint refuses the first datagrams,
/// they go to each of the others, until one answers.
async fn run(
    listener: &UdpSocket,
    flows: &Flows,
    client: SocketAddr,
    mut flow: Arc<Flow>,
    live: &Arc<Live>,
    shared: &Arc<Shared>,
) {
    let mut tried = Vec::new();
    loop {
        let end = answer(listener, client, &flow, live, shared).await;
        flows.remove(client, &flow);
        let kept = flow.take_kept();
        if matches!(end, End::Over) || kept.is_empty() {
            return;
        }
        tried.push(flow.chosen.held.0.address);
        // Its place is free for the next one.
        drop(flow);
        let Ok(Some(next)) = begin(client, live, shared, &mut tried) else {
            return;
        };
        let (current, is_own) = flows.insert(client, next);
        // Their places are free for the same datagrams.
        let datagrams: Vec<_> = kept.into_iter().map(|kept| kept.datagram).collect();
        for datagram in datagrams {
            current.send(&datagram, &shared.kept);
        }
        // The client has sent more meanwhile, and so has another flow.
        if !is_own {
            return;
        }
        flow = current;
    }
}

/// Why a flow ended.
enum End {
    /// Nothing came for a time, or the endpoint is gone.
    Over,
    /// No program listens at the endpoint.
    Refused,
}

/// Passes the answers of a flow on until it ends.
async fn answer(
    listener: &UdpSocket,
    client: SocketAddr,
    flow: &Flow,
    live: &Live,
    shared: &Shared,
) -> End {
    let target = &flow.chosen.held.0;
    loop {
        let limit = match flow.is_answered.load(Ordering::Relaxed) {
            true => IDLE.1,
            false => IDLE.0,
        };
        let idle = shared
            .millis()
            .saturating_sub(flow.last.load(Ordering::Relaxed));
        let left = limit.saturating_sub(Duration::from_millis(idle));
        if left.is_zero() {
            return End::Over;
        }
        let is_refused = tokio::select! {
            biased;
            () = target.is_to_end() => return End::Over,
            () = flow.is_refused.notified() => true,
            ready = flow.endpoint.ready(Interest::READABLE | Interest::ERROR) => {
                ready.map_or(true, |ready| ready.is_error())
            }
            () = sleep(left) => continue,
        };
        if is_refused {
            // The next datagrams of the client go elsewhere, too.
            target.fail(shared);
            count(&shared.counters.retries);
            return End::Refused;
        }
        for _ in 0..BURST {
            match pass_back(listener, client, flow, live, shared) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The socket reports it as an error, too.
                Err(_) => break,
            }
        }
        tokio::task::yield_now().await;
    }
}

fn pass_back(
    listener: &UdpSocket,
    client: SocketAddr,
    flow: &Flow,
    live: &Live,
    shared: &Shared,
) -> io::Result<()> {
    DATAGRAM.with_borrow_mut(|buffer| {
        let length = flow.endpoint.try_recv(buffer)?;
        if !flow.is_answered.swap(true, Ordering::Relaxed) {
            drop(flow.take_kept());
        }
        flow.last.store(shared.millis(), Ordering::Relaxed);
        Traffic::count(&live.traffic.bytes_out, length);
        Traffic::count(&shared.counters.bytes_out, length);
        count(&live.traffic.packets_out);
        let answer = buffer.get(..length).unwrap_or_default();
        let _ = SockRef::from(listener).send_to(answer, &client.into());
        Ok(())
    })
}
