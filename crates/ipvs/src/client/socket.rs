//! The netlink socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::{Client, Transport};
use crate::{Error, Object, Operation, Result, in_namespace};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_GENERIC;

/// `MSG_DONTWAIT | MSG_TRUNC`: replies are ready when `sendmsg` returns, and a datagram that does
/// not fit must be noticed.
const RECEIVE_FLAGS: i32 = 0x40 | 0x20;

/// The most that one queued reply takes of the receive buffer, as the kernel accounts for it
/// (`skb->truesize`).
const REPLY_COST: usize = 1280;

/// A generic netlink socket in one network namespace, connected to the kernel.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    capacity: usize,
    /// To open another socket in the same namespace; `None` without `/proc`.
    namespace: Option<Arc<OwnedFd>>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// Those of `socket(2)`, `bind(2)` and `connect(2)`.
    pub fn open() -> io::Result<Self> {
        let namespace = File::open("/proc/thread-self/ns/net").ok();
        Self::open_here(namespace.map(|file| Arc::new(file.into())))
    }

    fn open_here(namespace: Option<Arc<OwnedFd>>) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        // A connected socket receives messages from the kernel only.
        socket.connect(&SocketAddr::new(0, 0))?;
        // Errors repeat only the request's header, and carry a text. Both need Linux 4.12, and
        // both are optional.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        let capacity = socket.get_rx_buf_sz()? / REPLY_COST;
        Ok(Self {
            socket,
            capacity,
            namespace,
        })
    }

    /// Opens a socket in a network namespace: an open `/proc/PID/ns/net` or `/run/netns/NAME`.
    /// The calling thread stays in its own namespace.
    ///
    /// # Errors
    ///
    /// Those of `setns(2)` and of [`Socket::open`].
    pub fn open_in_namespace(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        Self::open_inside(Arc::new(namespace.try_clone_to_owned()?))
    }

    fn open_inside(namespace: Arc<OwnedFd>) -> io::Result<Self> {
        // A socket stays in the namespace it was opened in, whichever thread uses it.
        let kept = Some(Arc::clone(&namespace));
        in_namespace(namespace.as_fd(), || Self::open_here(kept))?
    }
}

impl Transport for Socket {
    fn send(&mut self, packets: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send(packets, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent.map(drop),
            }
        }
    }

    fn receive(&mut self, mut buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(&mut buffer, RECEIVE_FLAGS)
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn reopen(&self) -> io::Result<Self> {
        match &self.namespace {
            Some(namespace) => Self::open_inside(Arc::clone(namespace)),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Client {
    /// Opens a client in the calling thread's network namespace. The kernel loads the module
    /// `ip_vs` if necessary.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the kernel has no IPVS.
    /// Missing permission is reported by the first request, not here.
    pub fn open() -> Result<Self> {
        Self::with_transport(Self::socket(Socket::open())?)
    }

    /// Opens a client in a network namespace: an open `/proc/PID/ns/net` or `/run/netns/NAME`.
    /// The calling thread stays in its own namespace.
    ///
    /// ```no_run
    /// use std::os::fd::AsFd;
    ///
    /// let namespace = std::fs::File::open("/run/netns/blue")?;
    /// let client = ipvs::Client::open_in_namespace(namespace.as_fd())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Client::open`]; [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied)
    /// without CAP_SYS_ADMIN.
    pub fn open_in_namespace(namespace: BorrowedFd<'_>) -> Result<Self> {
        Self::with_transport(Self::socket(Socket::open_in_namespace(namespace))?)
    }

    pub(super) fn socket(opened: io::Result<Socket>) -> Result<Socket> {
        opened.map_err(|source| Error::from_io(Operation::Open, Object::Table, source))
    }
}
