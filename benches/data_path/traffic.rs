//! Client and server in one thread: each packet is processed inside of the call that sends it, so
//! no other process runs in between.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use testbed::Namespace;

/// The median of so many batches counts: a batch in which the kernel does something else does not
/// change it.
const BATCHES: usize = 15;
/// Per batch.
const CONNECTIONS: usize = 40;
/// Per batch.
const REQUESTS: usize = 150;

/// Thousands of instructions for one of each.
pub(crate) struct Cost([f64; 3]);

impl Cost {
    /// Each figure divided by that of `other`.
    pub(crate) fn ratio(&self, other: &Self) -> Self {
        let [a, b, c] = self.0;
        let [x, y, z] = other.0;
        Self([a / x, b / y, c / z])
    }

    /// The figures with their names.
    pub(crate) fn named(&self) -> [(&'static str, f64); 3] {
        let [connection, tcp, udp] = self.0;
        [("connection", connection), ("tcp", tcp), ("udp", udp)]
    }

    /// What this costs more than `other`.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        let [a, b, c] = self.0;
        let [x, y, z] = other.0;
        Self([a - x, b - y, c - z])
    }
}

/// As cells of a table.
impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [connection, tcp, udp] = self.0;
        let digits = f.precision().unwrap_or(1);
        write!(f, "{connection:.digits$} | {tcp:.digits$} | {udp:.digits$}")
    }
}

/// A server's sockets.
pub(crate) struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Server {
    /// Listens in a namespace.
    pub(crate) fn start(namespace: &Namespace, address: SocketAddr) -> io::Result<Self> {
        namespace.enter(|| {
            let tcp = TcpListener::bind(address)?;
            let udp = UdpSocket::bind(address)?;
            Ok(Self { tcp, udp })
        })
    }

    /// What it costs a client in the calling thread's namespace to reach this server at `to`.
    pub(crate) fn cost(&self, to: SocketAddr) -> io::Result<Cost> {
        Ok(Cost([
            self.connections(to)?,
            self.tcp_requests(to)?,
            self.udp_requests(to)?,
        ]))
    }

    /// Opens and closes connections.
    fn connections(&self, to: SocketAddr) -> io::Result<f64> {
        median(CONNECTIONS, || {
            let client = TcpStream::connect(to)?;
            let (server, _) = self.tcp.accept()?;
            drop(client);
            drop(server);
            Ok(())
        })
    }

    /// Sends requests and answers over one connection.
    fn tcp_requests(&self, to: SocketAddr) -> io::Result<f64> {
        let mut client = TcpStream::connect(to)?;
        let (mut server, _) = self.tcp.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        let mut byte = [0];
        median(REQUESTS, || {
            client.write_all(&byte)?;
            server.read_exact(&mut byte)?;
            server.write_all(&byte)?;
            client.read_exact(&mut byte)
        })
    }

    /// Sends requests and answers from one source port.
    fn udp_requests(&self, to: SocketAddr) -> io::Result<f64> {
        let client = UdpSocket::bind(("0.0.0.0", 0))?;
        client.connect(to)?;
        let mut byte = [0];
        median(REQUESTS, || {
            client.send(&byte)?;
            let (_, from) = self.udp.recv_from(&mut byte)?;
            self.udp.send_to(&byte, from)?;
            client.recv(&mut byte).map(|_| ())
        })
    }
}

/// The median of all batches but the first, which finds cold caches.
fn median(number: usize, mut action: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let mut batch = || {
        let start = Instant::now();
        for _ in 0..number {
            action()?;
        }
        io::Result::Ok(start.elapsed())
    };
    batch()?;
    let mut times = (0..BATCHES)
        .map(|_| batch())
        .collect::<io::Result<Vec<_>>>()?;
    times.sort_unstable();
    let median = times.get(BATCHES / 2).copied().unwrap_or_default();
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    Ok(median.as_secs_f64() * 1e6 / f64::from(number))
}
