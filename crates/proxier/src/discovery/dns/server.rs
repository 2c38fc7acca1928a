//! The sockets.

use std::io;
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::available_parallelism;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hickory_proto::op::ResponseCode;
use socket2::{Domain as SocketDomain, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Config;
use super::answer::{self, Draft, Outcome, Rules, Transport};
use super::counts::Counters;
use super::name::reverse_zones;
use super::quota::Quota;
use super::upstream::{ForwardError, Upstream};
use super::zone::Zone;
use super::{tcp, udp};
use crate::errno::listen_hint;

/// How long to wait before an address that cannot be served is tried again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Backlog: how many connections may wait to be accepted.
const BACKLOG: i32 = 128;
/// Sockets for datagrams, at most.
const MOST_RECEIVERS: usize = 4;
/// How long a datagram may wait for room in its socket.
const SENDING: Duration = Duration::from_secs(1);
/// Errors of a socket in a row, after which it is opened again.
pub(super) const MOST_FAILURES: u32 = 10;
/// How long to wait after an error.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// The longest query. Anything longer is cut off, and so malformed.
pub(super) const LONGEST_QUERY: usize = 4096;

/// What all sockets share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) zone: RwLock<Zone>,
    pub(super) rules: Rules,
    pub(super) upstream: Upstream,
    pub(super) counters: Counters,
    /// Open connections.
    pub(super) connections: Arc<Quota>,
}

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since_1970.map(|time| time.as_secs()).unwrap_or_default();
        // Grows from one start to the next, unless more than one record a second changes. Only its
        // difference counts, modulo 2^32 (RFC 1982), and nobody transfers the zone.
        let serial = u32::try_from(seconds & u64::from(u32::MAX)).unwrap_or_default();
        Self {
            zone: RwLock::default(),
            rules: Rules {
                domain: config.domain,
                nameservers: config.addresses.iter().map(SocketAddr::ip).collect(),
                reverse: reverse_zones(&config.service_cidrs),
                forwards: !config.upstreams.is_empty(),
                serial,
            },
            upstream: Upstream::new(config.upstreams),
            counters: Counters::default(),
            connections: Quota::new(tcp::CONNECTIONS, tcp::CONNECTIONS_OF_ONE),
        }
    }

    /// Decides about a query. The zone is locked for some microseconds.
    pub(super) fn decide(&self, query: &[u8], transport: Transport) -> Outcome {
        let decide = || {
            let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
            answer::answer(&zone, &self.rules, query, transport)
        };
        // A query comes from anyone, and its decoder is not ours: a fault must cost this query alone.
        catch_unwind(AssertUnwindSafe(decide)).unwrap_or_else(|_| {
            tracing::error!("a DNS query caused a panic, and has no answer");
            Outcome::Ignore
        })
    }

    /// The answer to a query that an upstream server must answer.
    pub(super) async fn forward(&self, query: &[u8], transport: Transport, to: Forward) -> Vec<u8> {
        let failed = |draft: Draft, error: &ForwardError| {
            self.counters.forward_failed();
            tracing::debug!("DNS: a name of another domain has no answer: {error}");
            draft.fail()
        };
        let (bytes, code) = match to {
            Forward::Relay(draft) => match self.upstream.relay(query, transport).await {
                Ok(answer) if answer.len() <= usize::from(draft.limit) => {
                    let code = answer.get(3).map_or(0, |flags| flags & 0x0f);
                    (answer, ResponseCode::from(0, code))
                }
                Ok(_) => draft.truncated(),
                Err(error) => failed(draft, &error),
            },
            Forward::Follow(draft, query) => match self.upstream.ask(query).await {
                Ok(answer) => draft.follow(answer),
                Err(error) => failed(draft, &error),
            },
        };
        self.counters.answered(code);
        bytes
    }

    /// The answer if no more questions may wait for upstream servers.
    pub(super) fn busy(&self, to: Forward) -> Vec<u8> {
        self.counters.forward_failed();
        let draft = match to {
            Forward::Relay(draft) | Forward::Follow(draft, _) => draft,
        };
        let (bytes, code) = draft.fail();
        self.counters.answered(code);
        bytes
    }
}

/// What upstream servers must do.
pub(super) enum Forward {
    Relay(Draft),
    Follow(Draft, hickory_proto::op::Query),
}

/// The sockets of an address.
pub(super) struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: std::net::TcpListener,
}

impl Sockets {
    /// One socket for connections, and for datagrams one for each CPU, among which the kernel spreads
    /// the clients.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = |of| -> io::Result<Socket> {
            let socket = Socket::new(SocketDomain::for_address(address), of, None)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            Ok(socket)
        };
        // This one cannot be shared, so it fails if another svcproxy serves the address. The others
        // could be.
        let tcp = socket(Type::STREAM)?;
        // Connections of the previous process may be in TIME_WAIT.
        tcp.set_reuse_address(true)?;
        tcp.set_nonblocking(true)?;
        tcp.bind(&address.into())?;
        tcp.listen(BACKLOG)?;
        let cpus = available_parallelism().map_or(1, NonZeroUsize::get);
        let receiver = |_| {
            let udp = socket(Type::DGRAM)?;
            udp.set_reuse_port(true)?;
            udp.set_write_timeout(Some(SENDING))?;
            udp.bind(&address.into())?;
            Ok(udp.into())
        };
        let udp = (0..cpus.min(MOST_RECEIVERS)).map(receiver);
        Ok(Self {
            udp: udp.collect::<io::Result<_>>()?,
            tcp: tcp.into(),
        })
    }
}

/// A socket for datagrams, from which a thread receives until it is closed.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) socket: UdpSocket,
    is_closed: AtomicBool,
}

impl Receiver {
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }
}

/// Closes sockets when it is dropped.
struct Open(Vec<Arc<Receiver>>);

impl Drop for Open {
    fn drop(&mut self) {
        for receiver in &self.0 {
            receiver.is_closed.store(true, Ordering::SeqCst);
            // Wakes the thread that waits for a datagram, although it is an error for a socket without
            // peer (inet_shutdown of net/ipv4/af_inet.c).
            let _ = SockRef::from(&receiver.socket).shutdown(Shutdown::Both);
        }
    }
}

/// Serves an address until the task is aborted: as soon as it can be bound, and again if a socket or
/// a task fails.
pub(super) async fn serve(shared: Arc<Shared>, address: SocketAddr, first: io::Result<Sockets>) {
    let (mut sockets, mut pause) = (first, RETRY.0);
    // What is known and logged.
    let mut standing = String::new();
    loop {
        let error = match sockets {
            Ok(sockets) => {
                tracing::info!("DNS: serving at {address}");
                shared.counters.listening(address, None);
                standing.clear();
                let began = Instant::now();
                let error = run(&shared, sockets).await;
                shared.counters.restarted();
                if began.elapsed() > RETRY.1 {
                    pause = RETRY.0;
                }
                error
            }
            Err(error) => error,
        };
        let reason = format!("{error}{}", listen_hint(&error));
        shared.counters.listening(address, Some(reason.clone()));
        match reason == standing {
            true => tracing::debug!("DNS: {address}: {reason}"),
            false => tracing::warn!("DNS: cannot serve at {address}: {reason}; trying again"),
        }
        standing = reason;
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
        sockets = Sockets::bind(address);
    }
}

/// Serves until a socket or a task fails, and returns why. Then all sockets are closed.
async fn run(shared: &Arc<Shared>, sockets: Sockets) -> io::Error {
    let tcp = match TcpListener::from_std(sockets.tcp) {
        Ok(tcp) => tcp,
        Err(error) => return error,
    };
    let receiver = |socket| {
        Arc::new(Receiver {
            socket,
            is_closed: AtomicBool::new(false),
        })
    };
    let open = Open(sockets.udp.into_iter().map(receiver).collect());
    // Dropped, and so aborted, with this task.
    let mut tasks = JoinSet::new();
    for receiver in &open.0 {
        let (shared, receiver) = (Arc::clone(shared), Arc::clone(receiver));
        let runtime = Handle::current();
        // A thread of its own wakes up faster, and waits for none of the runtime's tasks.
        tasks.spawn_blocking(move || udp::receive(&shared, &receiver, &runtime));
    }
    tasks.spawn(tcp::accept(Arc::clone(shared), tcp));
    let ended = tasks.join_next().await;
    drop(open);
    tasks.shutdown().await;
    match ended {
        Some(Ok(error)) => error,
        Some(Err(fault)) => io::Error::other(format!("a task of the server failed: {fault}")),
        None => io::Error::other("no task of the server runs"),
    }
}

#[cfg(test)]
mod tests {
    use testbed::eventually;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A query for the root's name servers, which is refused.
    fn ask(address: SocketAddr) -> io::Result<usize> {
        let client = UdpSocket::bind("127.0.0.1:0")?;
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        let query = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
        client.send_to(&query, address)?;
        client.recv(&mut [0; 512])
    }

    /// Whatever socket fails, the state says so, and the address is served again.
    #[test]
    fn an_address_whose_socket_fails_is_served_again() {
        let runtime = crate::Runtime::start().unwrap();
        let handle = runtime.handle().unwrap();
        for of_tcp in [true, false] {
            let address = ([127, 0, 0, 1], testbed::reserve_port().unwrap()).into();
            let sockets = Sockets::bind(address).unwrap();
            let other = match of_tcp {
                true => Socket::from(sockets.tcp.try_clone().unwrap()),
                false => Socket::from(sockets.udp[0].try_clone().unwrap()),
            };
            let shared = Arc::new(Shared::new(Config::new([address])));
            let task = handle.spawn(serve(Arc::clone(&shared), address, Ok(sockets)));
            eventually(PATIENCE, || ask(address)).unwrap();
            assert_eq!(shared.counters.get().restarts, 0);
            let _ = other.shutdown(Shutdown::Both);
            drop(other);
            let failed = || match shared.counters.get() {
                state if state.restarts > 0 => Ok(()),
                state => Err(format!("{state:?}")),
            };
            eventually(PATIENCE, failed).unwrap();
            let served = || match shared.counters.get().addresses.get(&address) {
                Some(None) => Ok(()),
                other => Err(format!("{other:?}")),
            };
            eventually(PATIENCE, served).unwrap();
            eventually(PATIENCE, || ask(address)).unwrap();
            std::net::TcpStream::connect(address).unwrap();
            task.abort();
            // The threads end with the task.
            let ended = || match Arc::strong_count(&shared) {
                1 => Ok(()),
                more => Err(more),
            };
            eventually(PATIENCE, ended).unwrap();
        }
    }
}
