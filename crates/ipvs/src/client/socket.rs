//! The netlink socket.

use std::io;
use std::os::fd::BorrowedFd;

use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_GENERIC;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Client, Transport};
use crate::{Error, Object, Operation, Result};

/// `MSG_DONTWAIT | MSG_TRUNC`: whatever the kernel has to say waits already, and a datagram that
/// does not fit is to be noticed.
const RECEIVE_FLAGS: i32 = 0x40 | 0x20;

/// What one waiting reply takes of the receive buffer at most: its memory as the kernel counts
/// it, with its header.
const REPLY_COST: usize = 1280;

/// A generic netlink socket, connected to the kernel of one network namespace.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    capacity: usize,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// Those of `socket(2)`, `bind(2)` and `connect(2)`.
    pub fn open() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        // Connected, it takes messages of the kernel alone.
        socket.connect(&SocketAddr::new(0, 0))?;
        // Errors repeat the request's header only, and say more in words. Both since 4.12, and
        // both can be done without.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        let capacity = socket.get_rx_buf_sz()? / REPLY_COST;
        Ok(Self { socket, capacity })
    }

    /// Opens a socket in a network namespace, given as `/proc/PID/ns/net` or `/run/netns/NAME`,
    /// opened. The calling thread stays in its own.
    ///
    /// # Errors
    ///
    /// Those of `setns(2)` and of [`Socket::open`].
    pub fn open_in_namespace(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        // A socket belongs to the namespace it was made in, whichever thread uses it later.
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| {
                move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
                Self::open()
            });
            opened
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the opening thread died")))
        })
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
}

impl Client {
    /// Opens a client in the calling thread's network namespace. The kernel loads its module
    /// `ip_vs` if it has to.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the kernel has no IPVS. A
    /// lack of permission shows at the first request only.
    pub fn open() -> Result<Self> {
        Self::over(Socket::open())
    }

    /// Opens a client in a network namespace, given as `/proc/PID/ns/net` or `/run/netns/NAME`,
    /// opened. The calling thread stays in its own.
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
        Self::over(Socket::open_in_namespace(namespace))
    }

    fn over(socket: io::Result<Socket>) -> Result<Self> {
        let error = |source| Error::from_io(Operation::Open, Object::Table, source);
        Self::with_transport(socket.map_err(error)?)
    }
}
