//! The sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use socket2::{Domain as SocketDomain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answer::{self, Draft, Outcome, Rules, Transport};
use super::counts::Counters;
use super::quota::{Place, Quota};
use super::upstream::{ForwardError, Upstream};
use super::zone::Zone;

/// How long to wait before an address that cannot be bound is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long to wait if the process has no free file descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a TCP client may take to send a query, and keep a connection idle (RFC 7766, 6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// How long a TCP client may take to read an answer.
const READING: Duration = Duration::from_secs(10);
/// Limit of TCP connections.
pub(super) const CONNECTIONS: usize = 256;
/// Limit of TCP connections of one client; in IPv6 of one /64.
pub(super) const CONNECTIONS_OF_ONE: usize = 32;
/// Backlog: how many connections may wait to be accepted.
const BACKLOG: i32 = 128;
/// Tasks that receive from one socket: one for each thread of the runtime.
const RECEIVERS: usize = 2;
/// The longest query. Anything longer is cut off, and so malformed.
const LONGEST_QUERY: usize = 4096;

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
    /// Decides about a query. The zone is locked for some microseconds.
    fn decide(&self, query: &[u8], transport: Transport) -> Outcome {
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
    async fn forward(&self, query: &[u8], transport: Transport, to: Forward) -> Vec<u8> {
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
    fn busy(&self, to: Forward) -> Vec<u8> {
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
enum Forward {
    Relay(Draft),
    Follow(Draft, hickory_proto::op::Query),
}

/// Both sockets of an address.
pub(super) struct Sockets {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

impl Sockets {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = |of| -> io::Result<Socket> {
            let socket = Socket::new(SocketDomain::for_address(address), of, None)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let udp = socket(Type::DGRAM)?;
        udp.bind(&address.into())?;
        let tcp = socket(Type::STREAM)?;
        // Connections of the previous process may be in TIME_WAIT.
        tcp.set_reuse_address(true)?;
        tcp.bind(&address.into())?;
        tcp.listen(BACKLOG)?;
        Ok(Self {
            udp: udp.into(),
            tcp: tcp.into(),
        })
    }
}

/// Serves an address until the task is aborted; as soon as it can be bound.
pub(super) async fn serve(shared: Arc<Shared>, address: SocketAddr, first: io::Result<Sockets>) {
    let (udp, tcp) = bind_later(&shared.counters, address, first).await;
    // Dropped, and so aborted, with this task.
    let mut tasks = JoinSet::new();
    let udp = Arc::new(udp);
    for _ in 0..RECEIVERS {
        tasks.spawn(receive(Arc::clone(&shared), Arc::clone(&udp)));
    }
    tasks.spawn(accept(shared, tcp));
    while tasks.join_next().await.is_some() {}
}

async fn bind_later(
    counters: &Counters,
    address: SocketAddr,
    mut sockets: io::Result<Sockets>,
) -> (UdpSocket, TcpListener) {
    let mut is_late = false;
    loop {
        let ready = sockets.and_then(|sockets| {
            let udp = UdpSocket::from_std(sockets.udp)?;
            Ok((udp, TcpListener::from_std(sockets.tcp)?))
        });
        match ready {
            Ok(ready) => {
                tracing::info!("DNS: serving at {address}");
                counters.listening(address, None);
                return ready;
            }
            Err(error) => {
                counters.listening(address, Some(error.to_string()));
                match is_late {
                    true => tracing::debug!("DNS: {address}: {error}"),
                    false => tracing::warn!(
                        "DNS: cannot listen on {address}: {error}; trying again every {RETRY:?}"
                    ),
                }
            }
        }
        is_late = true;
        sleep(RETRY).await;
        sockets = Sockets::bind(address);
    }
}

/// Answers queries over UDP, one after another. Those for upstream servers wait in tasks of their own.
async fn receive(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; LONGEST_QUERY];
    let mut waiting = JoinSet::new();
    loop {
        while waiting.try_join_next().is_some() {}
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            // The kernel has no memory, for instance.
            sleep(PAUSE).await;
            continue;
        };
        let query = buffer.get(..length).unwrap_or_default();
        let forward = match shared.decide(query, Transport::Udp) {
            Outcome::Ignore => continue,
            Outcome::Answer(bytes, code) => {
                shared.counters.answered(code);
                // A client that cannot be reached asks again.
                let _ = socket.send_to(&bytes, client).await;
                continue;
            }
            Outcome::Relay(draft) => Forward::Relay(draft),
            Outcome::Follow(draft, query) => Forward::Follow(draft, query),
        };
        let Some(place) = shared.upstream.place(client.ip()) else {
            let _ = socket.send_to(&shared.busy(forward), client).await;
            continue;
        };
        let (shared, socket, query) = (Arc::clone(&shared), Arc::clone(&socket), query.to_vec());
        waiting.spawn(async move {
            let _place = place;
            let answer = shared.forward(&query, Transport::Udp, forward).await;
            let _ = socket.send_to(&answer, client).await;
        });
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut clients = JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, client)) => match Connection::admit(&shared, client.ip()) {
                Some(connection) => {
                    clients.spawn(connection.serve(stream));
                }
                None => shared.counters.connection_refused(),
            },
            // No file descriptor is free, or the client has already closed the connection.
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// A TCP connection, which has a place until it is dropped.
struct Connection {
    shared: Arc<Shared>,
    client: IpAddr,
    _place: Place,
}

impl Connection {
    /// `None` if there are too many.
    fn admit(shared: &Arc<Shared>, client: IpAddr) -> Option<Self> {
        Some(Self {
            _place: shared.connections.take(client)?,
            shared: Arc::clone(shared),
            client,
        })
    }

    /// Answers queries one after another, until the client ends the connection or is too slow.
    async fn serve(self, mut stream: TcpStream) {
        while let Ok(Ok(query)) = timeout(IDLE, read(&mut stream)).await {
            let Some(answer) = self.answer(&query).await else {
                return;
            };
            match timeout(READING, write(&mut stream, &answer)).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }

    async fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let shared = &self.shared;
        let forward = match shared.decide(query, Transport::Tcp) {
            Outcome::Ignore => return None,
            Outcome::Answer(bytes, code) => {
                shared.counters.answered(code);
                return Some(bytes);
            }
            Outcome::Relay(draft) => Forward::Relay(draft),
            Outcome::Follow(draft, query) => Forward::Follow(draft, query),
        };
        let Some(_place) = shared.upstream.place(self.client) else {
            return Some(shared.busy(forward));
        };
        Some(shared.forward(query, Transport::Tcp, forward).await)
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > LONGEST_QUERY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut query = vec![0; length];
    stream.read_exact(&mut query).await?;
    Ok(query)
}

/// Length and answer in one segment.
async fn write(stream: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), answer].concat())
        .await
}
