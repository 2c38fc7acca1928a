//! Clients that distinguish failures.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use socket2::Socket;

use crate::Protocol;
use crate::namespace::Namespace;

/// The answer of a [`Backend`](crate::Backend).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The backend's name.
    pub backend: String,
    /// The client's address as the backend saw it. It differs from the client's own address if a
    /// node between them masquerades.
    pub seen_source: SocketAddr,
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The connection was refused: a TCP reset, an SCTP abort or an ICMP "port unreachable".
    #[error("connection refused")]
    Refused,
    /// Another ICMP error, or no route.
    ///
    /// A UDP socket does not receive "host unreachable" and "network unreachable" from other hosts;
    /// these requests end in [`AskError::TimedOut`].
    #[error("unreachable: {0}")]
    Unreachable(io::ErrorKind),
    /// Nothing came back.
    #[error("timed out")]
    TimedOut,
    /// The connection broke, or another server than a backend answered.
    #[error("{0}")]
    Failed(String),
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            kind @ (io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::PermissionDenied) => Self::Unreachable(kind),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::TimedOut,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Asks the backend at `to`, once, over a new connection, for 5 seconds at most.
///
/// # Errors
///
/// See [`AskError`].
pub fn ask(namespace: &Namespace, protocol: Protocol, to: SocketAddr) -> Result<Answer, AskError> {
    Client::new(protocol, to).ask(namespace)
}

/// The settings of a request.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    protocol: Protocol,
    to: SocketAddr,
    from: Option<SocketAddr>,
    timeout: Duration,
    resets: bool,
}

impl Client {
    /// A request to the backend at `to`, with a time limit of 5 seconds.
    #[must_use]
    pub fn new(protocol: Protocol, to: SocketAddr) -> Self {
        Self {
            protocol,
            to,
            from: None,
            timeout: Duration::from_secs(5),
            resets: false,
        }
    }

    /// Sets the source address; port 0 means any.
    #[must_use]
    pub fn from(self, from: SocketAddr) -> Self {
        Self {
            from: Some(from),
            ..self
        }
    }

    /// Sets how long to wait for the connection, and then for each answer.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Closes a TCP connection with a reset: IPVS forgets it after 10 seconds. It remembers a
    /// connection that both ends have closed for 120 (`tcp_timeouts` in
    /// net/netfilter/ipvs/ip_vs_proto_tcp.c).
    #[must_use]
    pub fn resets(self) -> Self {
        Self {
            resets: true,
            ..self
        }
    }

    /// Asks once, over a new connection.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn ask(&self, namespace: &Namespace) -> Result<Answer, AskError> {
        self.connect(namespace)?.ask()
    }

    /// Opens a connection for several requests.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn connect(&self, namespace: &Namespace) -> Result<Connection, AskError> {
        let socket = namespace.enter(|| self.open())?;
        Ok(Connection {
            socket,
            protocol: self.protocol,
        })
    }

    fn open(&self) -> io::Result<Socket> {
        let socket = self.protocol.socket(self.to)?;
        if let Some(from) = self.from {
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
        }
        socket.set_read_timeout(Some(self.timeout))?;
        socket.set_write_timeout(Some(self.timeout))?;
        connect(&socket, self.to, self.timeout)?;
        if self.resets && matches!(self.protocol, Protocol::Http | Protocol::Tcp) {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        Ok(socket)
    }
}

/// Connects within `timeout`, and reports every ICMP error that comes back.
///
/// `Socket::connect_timeout` misses some. Between namespaces of one machine the answer to the
/// first packet can arrive while connect(2) still holds the socket. The kernel then stores the
/// error as a soft one, which wakes nobody (`sctp_v4_err` in net/sctp/input.c, `tcp_v4_err` in
/// net/ipv4/tcp_ipv4.c). A busy machine delivers the same answer later, as an ordinary error.
/// Reading `SO_ERROR` once before the wait makes both the same.
fn connect(socket: &Socket, to: SocketAddr, timeout: Duration) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let begun = socket.connect(&to.into());
    socket.set_nonblocking(false)?;
    match begun {
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        done => return done,
    }
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    let timeout = timeout.try_into().map_err(io::Error::other)?;
    let mut wait = [PollFd::new(socket, PollFlags::OUT)];
    if rustix::io::retry_on_intr(|| poll(&mut wait, Some(&timeout)))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket.take_error()?.map_or(Ok(()), Err)
}

/// An open connection to a backend.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    protocol: Protocol,
}

impl Connection {
    /// Sends one more request; over HTTP there is only one.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn ask(&mut self) -> Result<Answer, AskError> {
        let mut socket = &self.socket;
        if self.protocol == Protocol::Http {
            socket.write_all(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")?;
            let mut response = String::new();
            socket.read_to_string(&mut response)?;
            let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
            return match head.split(' ').nth(1) {
                Some("200") => parse(body),
                _ => Err(AskError::Failed(format!("not an answer: {response:?}"))),
            };
        }
        socket.write_all(b"who\n")?;
        let mut buffer = [0; 512];
        let mut length = 0;
        loop {
            let rest = buffer.get_mut(length..).unwrap_or_default();
            match socket.read(rest) {
                Ok(0) => return Err(AskError::Failed("closed without an answer".to_owned())),
                Ok(more) => length += more,
                // A read with a time limit is not restarted after a stop of the process (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            let line = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            if line.ends_with('\n') {
                return parse(&line);
            }
        }
    }

    /// The client's own address.
    ///
    /// # Errors
    ///
    /// If the kernel cannot report it any more.
    pub fn source(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?;
        address
            .as_socket()
            .ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

fn parse(line: &str) -> Result<Answer, AskError> {
    let answer = || {
        let (backend, seen_source) = line.trim_end().split_once(' ')?;
        Some(Answer {
            backend: backend.to_owned(),
            seen_source: seen_source.parse().ok()?,
        })
    };
    answer().ok_or_else(|| AskError::Failed(format!("not an answer: {line:?}")))
}
