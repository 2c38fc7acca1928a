//! The sockets.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use socket2::{Domain as SocketDomain, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::shared::Shared;
use super::tcp;
use super::udp::{self, Receiver};
use crate::errno::listen_hint;

/// How long to wait before an address that cannot be served is tried again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Backlog: how many connections may wait to be accepted.
const BACKLOG: i32 = 128;
/// Sockets for datagrams, at most.
const MOST_RECEIVERS: usize = 4;
/// How long a datagram may wait for room in its socket.
const SENDING: Duration = Duration::from_secs(1);

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

/// Closes sockets when it is dropped.
struct Open(Vec<Arc<Receiver>>);

impl Drop for Open {
    fn drop(&mut self) {
        for receiver in &self.0 {
            receiver.close();
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
    let receivers = sockets.udp.into_iter().map(Receiver::new);
    let open = Open(receivers.map(Arc::new).collect());
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
    use std::net::Shutdown;

    use testbed::eventually;

    use super::super::Config;
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
