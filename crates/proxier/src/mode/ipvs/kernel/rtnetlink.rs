//! A blocking rtnetlink client, which reopens its connection after a failure.
//!
//! The crate rtnetlink ends its connection at the first error of recvmsg(2), and then reports the
//! end of every answer, so that a list looks complete and a change looks successful. It does not
//! report `ENOBUFS`, and waits forever for the lost answer. It also ignores `NLM_F_DUMP_INTR`. So
//! [`Wrapped`] wraps its socket and records all three.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use bytes::BufMut;
use futures_util::future::{Either, select};
use netlink::Own;
use netlink::uapi::{NETLINK_ROUTE, NLM_F_DUMP_INTR};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::Handle;
use rtnetlink::proto::Connection;
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};
use tokio::runtime::{Builder, Runtime};

use crate::errno::{EADDRNOTAVAIL, EAGAIN, EEXIST, EINTR, ENOBUFS, ENODEV, ENOENT, ESRCH};

/// More than one datagram of the kernel.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Maximum number of attempts, with doubling pauses.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// A connection for the routes, links and addresses of one network namespace.
pub(crate) struct Rtnetlink {
    /// The crate rtnetlink is asynchronous.
    runtime: Runtime,
    faults: Arc<Faults>,
    /// `None` after a failure, until the next attempt.
    link: Option<Link>,
}

struct Link {
    connection: Connection<RouteNetlinkMessage, Wrapped>,
    handle: Handle,
    /// Marks changes by this socket as svcproxy's own, so that the watch ignores them.
    _own: Own,
}

impl fmt::Debug for Rtnetlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rtnetlink").finish_non_exhaustive()
    }
}

impl Rtnetlink {
    /// Opens a socket in the calling thread's network namespace. If it must be reopened, that
    /// happens in the network namespace of the thread that uses it then.
    pub(crate) fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let faults = Arc::<Faults>::default();
        let link = Some(Link::open(&runtime, &faults)?);
        Ok(Self {
            runtime,
            faults,
            link,
        })
    }

    /// Executes a read operation. Repeats it if the connection fails, or if a change interrupted a
    /// list.
    ///
    /// # Errors
    ///
    /// The kernel's, or that of the last attempt.
    pub(crate) fn read<T, F>(&mut self, operation: impl FnMut(Handle) -> F) -> io::Result<T>
    where
        F: Future<Output = io::Result<T>>,
    {
        self.attempts(operation).0
    }

    /// Executes an operation that adds or deletes one object. If the answer to an attempt was lost,
    /// and the next one finds the object added or deleted, the operation has succeeded.
    ///
    /// # Errors
    ///
    /// The kernel's, or that of the last attempt.
    pub(crate) fn change<F>(&mut self, operation: impl FnMut(Handle) -> F) -> io::Result<()>
    where
        F: Future<Output = io::Result<()>>,
    {
        const DONE: [i32; 5] = [ENOENT, ESRCH, EEXIST, ENODEV, EADDRNOTAVAIL];
        match self.attempts(operation) {
            (Err(error), 2..) if error.raw_os_error().is_some_and(|no| DONE.contains(&no)) => {
                Ok(())
            }
            (result, _) => result,
        }
    }

    /// The result, and the number of attempts.
    fn attempts<T, F>(&mut self, mut operation: impl FnMut(Handle) -> F) -> (io::Result<T>, u32)
    where
        F: Future<Output = io::Result<T>>,
    {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            match self.attempt(&mut operation) {
                Err(error) if attempt < ATTEMPTS && is_transient(&error) => {
                    tracing::debug!(attempt, %error, "rtnetlink: trying again");
                }
                result => return (result, attempt),
            }
            thread::sleep(pause);
            pause *= 2;
            attempt += 1;
        }
    }

    fn attempt<T, F>(&mut self, operation: impl FnOnce(Handle) -> F) -> io::Result<T>
    where
        F: Future<Output = io::Result<T>>,
    {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Link::open(&self.runtime, &self.faults)?,
        };
        let operation = pin!(operation(link.handle.clone()));
        // If both are ready, the end of the connection counts: it may have ended the operation.
        let ended = match self
            .runtime
            .block_on(select(&mut link.connection, operation))
        {
            Either::Left(_) => Err(self
                .faults
                .take()
                .unwrap_or_else(|| io::Error::from_raw_os_error(EINTR))),
            Either::Right((result, _)) => match self.faults.take() {
                Some(fault) => Err(fault),
                None => Ok(result),
            },
        };
        let result = ended?;
        if !result.as_ref().is_err_and(is_transient) {
            self.link = Some(link);
        }
        result
    }
}

impl Link {
    fn open(runtime: &Runtime, faults: &Arc<Faults>) -> io::Result<Self> {
        let _guard = runtime.enter();
        let mut socket = Wrapped {
            socket: TokioSocket::new(NETLINK_ROUTE)?,
            faults: Arc::clone(faults),
        };
        faults.take();
        socket.socket_mut().set_netlink_get_strict_chk(true)?;
        // Bind now: otherwise the kernel assigns the port with the first request.
        let address = socket.socket_mut().bind_auto()?;
        let (connection, handle, _) = rtnetlink::from_socket(socket);
        Ok(Self {
            connection,
            handle,
            _own: Own::new(NETLINK_ROUTE, address.port_number()),
        })
    }
}

/// Whether the operation may succeed at once over a new connection.
fn is_transient(error: &io::Error) -> bool {
    [EINTR, EAGAIN, ENOBUFS]
        .map(Some)
        .contains(&error.raw_os_error())
}

/// The kernel's error.
pub(crate) fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

/// An error of the socket that the crate rtnetlink does not report.
#[derive(Default)]
struct Faults {
    noted: Mutex<Option<i32>>,
    /// Faults to inject: datagrams lost with an errno, or marked as interrupted without one.
    #[cfg(test)]
    injected: Mutex<std::collections::VecDeque<Option<i32>>>,
}

impl Faults {
    fn note(&self, errno: i32) {
        *self.lock() = Some(errno);
    }

    fn take(&self) -> Option<io::Error> {
        self.lock().take().map(io::Error::from_raw_os_error)
    }

    fn lock(&self) -> MutexGuard<'_, Option<i32>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that records its errors.
struct Wrapped {
    socket: TokioSocket,
    faults: Arc<Faults>,
}

impl Wrapped {
    fn ingest(&self, received: io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        #[cfg(test)]
        let received = match self.faults.next_injected() {
            Some(Some(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(None) => received.map(tests::interrupted),
            None => received,
        };
        match received {
            Ok(datagram) => {
                if is_interrupted(&datagram) {
                    self.faults.note(EINTR);
                }
                Ok(datagram)
            }
            Err(error) => {
                self.faults.note(error.raw_os_error().unwrap_or(EINTR));
                // Whatever the error: any except ENOBUFS ends rtnetlink's connection.
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }
}

/// Whether a dump was inconsistent, because the table changed meanwhile: entries may be missing.
fn is_interrupted(mut datagram: &[u8]) -> bool {
    while let Some([a, b, c, d, _, _, low, high]) = datagram.first_chunk::<8>() {
        if u16::from_ne_bytes([*low, *high]) & NLM_F_DUMP_INTR != 0 {
            return true;
        }
        let length = u32::from_ne_bytes([*a, *b, *c, *d]).next_multiple_of(4);
        let length = usize::try_from(length).unwrap_or(usize::MAX).max(16);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    false
}

impl AsyncSocket for Wrapped {
    fn socket_ref(&self) -> &Socket {
        self.socket.socket_ref()
    }

    fn socket_mut(&mut self) -> &mut Socket {
        self.socket.socket_mut()
    }

    fn new(protocol: isize) -> io::Result<Self> {
        Ok(Self {
            socket: TokioSocket::new(protocol)?,
            faults: Arc::default(),
        })
    }

    fn poll_send(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_send(cx, buf)
    }

    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
        addr: &SocketAddr,
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(self.socket.poll_send_to(cx, buf, addr));
        if let Err(error) = &sent {
            self.faults.note(error.raw_os_error().unwrap_or(EINTR));
        }
        Poll::Ready(sent)
    }

    fn poll_recv<B: BufMut>(&self, cx: &mut Context<'_>, buf: &mut B) -> Poll<io::Result<()>> {
        self.poll_recv_from(cx, buf).map_ok(drop)
    }

    fn poll_recv_from<B: BufMut>(
        &self,
        cx: &mut Context<'_>,
        buf: &mut B,
    ) -> Poll<io::Result<SocketAddr>> {
        let received = ready!(self.poll_recv_from_full(cx));
        Poll::Ready(received.map(|(datagram, from)| {
            buf.put_slice(&datagram);
            from
        }))
    }

    fn poll_recv_from_full(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        let mut datagram = Vec::with_capacity(RECEIVE_BUFFER);
        let received = ready!(self.socket.poll_recv_from(cx, &mut datagram));
        let (from, datagram) = match received {
            Ok(from) => (from, Ok(datagram)),
            Err(error) => (SocketAddr::new(0, 0), Err(error)),
        };
        Poll::Ready(self.ingest(datagram).map(|datagram| (datagram, from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;

    impl Faults {
        pub(super) fn next_injected(&self) -> Option<Option<i32>> {
            self.injected.lock().unwrap().pop_front()
        }
    }

    /// The datagram with `NLM_F_DUMP_INTR` in its first message.
    pub(super) fn interrupted(mut datagram: Vec<u8>) -> Vec<u8> {
        datagram[6] |= u8::try_from(NLM_F_DUMP_INTR).unwrap();
        datagram
    }

    /// The links of this network namespace (reading them needs no privilege) after faults of the
    /// first attempts, and the number of attempts.
    fn links(faults: &[Option<i32>]) -> (io::Result<usize>, u32) {
        let mut netlink = Rtnetlink::open().unwrap();
        netlink.faults.injected.lock().unwrap().extend(faults);
        let list = |handle: Handle| async move {
            let links: Vec<_> = handle
                .link()
                .get()
                .execute()
                .try_collect()
                .await
                .map_err(io_error)?;
            Ok(links.len())
        };
        let outcome = netlink.attempts(list);
        // A failure does not affect later operations.
        netlink.faults.injected.lock().unwrap().clear();
        assert!(netlink.read(list).unwrap() > 0);
        outcome
    }

    #[test]
    fn an_operation_is_tried_again_over_a_new_connection() {
        let (all, attempts) = links(&[]);
        let all = all.unwrap();
        assert_eq!(attempts, 1);
        for faults in [&[Some(EINTR), Some(ENOBUFS)][..], &[Some(ENOBUFS), None]] {
            let (listed, attempts) = links(faults);
            assert_eq!(listed.unwrap(), all, "{faults:?}");
            assert_eq!(attempts, 3, "{faults:?}");
        }
    }

    #[test]
    fn attempts_are_bounded_and_the_error_is_the_sockets() {
        for (fault, errno) in [(Some(ENOBUFS), ENOBUFS), (None, EINTR)] {
            let (listed, attempts) = links(&[fault; 100]);
            assert_eq!(listed.unwrap_err().raw_os_error(), Some(errno));
            assert_eq!(attempts, ATTEMPTS);
        }
        // Other errors, such as out of memory, are left to the caller's back-off.
        let (listed, attempts) = links(&[Some(12)]);
        assert_eq!(listed.unwrap_err().raw_os_error(), Some(12));
        assert_eq!(attempts, 1);
    }

    #[test]
    fn a_change_whose_answer_was_lost_is_done_if_it_is_found_done() {
        let mut netlink = Rtnetlink::open().unwrap();
        let mut change = |answers: &[i32]| {
            let mut answers = answers.iter().copied();
            let result = netlink.change(|_| {
                let answer = answers.next().map(io::Error::from_raw_os_error);
                async move { answer.map_or(Ok(()), Err) }
            });
            result.map_err(|error| error.raw_os_error().unwrap())
        };
        assert_eq!(change(&[]), Ok(()));
        assert_eq!(change(&[EEXIST]), Err(EEXIST));
        assert_eq!(change(&[EINTR, EEXIST]), Ok(()));
        assert_eq!(change(&[ENOBUFS, EINTR, ESRCH]), Ok(()));
        assert_eq!(change(&[EINTR, 1]), Err(1));
    }
}
