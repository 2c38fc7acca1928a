//! Proxies TCP connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::admission::Verdict;
use super::super::proxy_header::header;
use super::Shared;
use super::counters::count;
use super::live::{Chosen, Live};
use super::relay::relay;
use super::socket::keep_alive;
use crate::errno::{EMFILE, ENFILE, ENOBUFS, ENOMEM};

/// How long one endpoint may take to answer: a lost packet is sent again after one second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long all endpoints together may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a listener waits for descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Counts something as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    /// Counts one more, if there are not `most` yet.
    fn below(counter: &'a AtomicUsize, most: usize) -> Option<Self> {
        let counted = Self(counter);
        let before = counter.fetch_add(1, Ordering::Relaxed);
        (before < most).then_some(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts connections of a frontend until it is cancelled.
pub(super) async fn accept(listener: Arc<TcpListener>, live: Arc<Live>, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((client, from)) => {
                let (live, shared) = (Arc::clone(&live), Arc::clone(&shared));
                tokio::spawn(async move { serve(client, from, &live, &shared).await });
            }
            Err(error) if is_exhaustion(&error) => {
                count(&shared.counters.pauses);
                // What waits stays in the kernel's queue meanwhile.
                sleep(PAUSE).await;
            }
            // The connection has ended already, or the listener is closed.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Whether the process or the machine, and not the other end, is to blame.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    [EMFILE, ENFILE, ENOBUFS, ENOMEM]
        .map(Some)
        .contains(&error.raw_os_error())
}

/// Proxies one connection.
async fn serve(client: TcpStream, from: SocketAddr, live: &Live, shared: &Shared) {
    let counters = &shared.counters;
    let most = shared.limits.connections;
    let counted = Counted::below(&counters.open_connections, most);
    // One Service must not take everything.
    let of_live = Counted::below(&live.active, most / 2);
    if counted.is_none() || of_live.is_none() {
        count(&counters.over_limit);
        return reset(&client);
    }
    let audience = match live.verdict(&shared.own(), from.ip()) {
        Verdict::Serve(audience) => audience,
        Verdict::Refuse => {
            count(&counters.without_endpoint);
            return reset(&client);
        }
        Verdict::Drop => {
            count(&counters.denied);
            return reset(&client);
        }
    };
    let deadline = Instant::now() + PATIENCE;
    let mut tried = Vec::new();
    let connected = loop {
        let Some(chosen) = live.choose(from.ip(), audience, &tried, shared) else {
            break None;
        };
        if !tried.is_empty() {
            count(&counters.retries);
        }
        let target = chosen.held.0.address;
        let header = chosen.header.and_then(|version| {
            let to = client.local_addr().ok()?;
            Some(header(version, from, to))
        });
        match timeout_at(deadline, connect(target, header.as_deref())).await {
            Ok(Ok(endpoint)) => break Some((endpoint, chosen)),
            Ok(Err(error)) if is_exhaustion(&error) => break None,
            Ok(Err(_)) => {
                chosen.held.0.fail(shared);
                tried.push(target);
            }
            Err(_) => break None,
        }
    };
    let Some((endpoint, chosen)) = connected else {
        count(&counters.unreachable);
        return reset(&client);
    };
    live.remember(from.ip(), &chosen, shared);
    count(&counters.connections);
    count(&live.traffic.connections);
    count(&chosen.held.0.connections);
    exchange(&client, &endpoint, &chosen, live, shared).await;
}

/// Copies until both ends have closed, one breaks, or the endpoint has drained for too long.
async fn exchange(
    client: &TcpStream,
    endpoint: &TcpStream,
    chosen: &Chosen,
    live: &Live,
    shared: &Shared,
) {
    let has_ended = tokio::select! {
        biased;
        done = relay(client, endpoint, &live.traffic, shared) => done.is_ok(),
        () = chosen.held.0.is_to_end() => false,
    };
    if !has_ended {
        reset(client);
        reset(endpoint);
    }
}

/// Connects to an endpoint, and sends the header that it expects.
async fn connect(to: SocketAddr, header: Option<&[u8]>) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_nodelay(true)?;
    keep_alive(&SockRef::from(&socket))?;
    let stream = match timeout(CONNECT_TIMEOUT, socket.connect(to)).await {
        Ok(connected) => connected?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    if let Some(header) = header {
        // The send buffer of a new connection has room for all of it.
        let sent = SockRef::from(&stream).send(header)?;
        if sent < header.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(stream)
}

/// Makes the end of a connection a reset, so that the other end does not take what it has for all.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
