//! A blocking rtnetlink client, which reopens its connection after a failure.
//!
//! The crate rtnetlink ends its connection at the first error of recvmsg(2), and then reports the
//! end of every answer, so that a list looks complete and a change looks successful. It does not
//! report `ENOBUFS`, and waits forever for the lost answer. It also ignores `NLM_F_DUMP_INTR`, and
//! drops a malformed datagram. So [`Wrapped`] wraps its socket and records all four.

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
use netlink::uapi::{NETLINK_ROUTE, NLM_F_DUMP_INTR};
use netlink::{Messages, Own, faults};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::Handle;
use rtnetlink::proto::Connection;
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::errno::{
    EADDRNOTAVAIL, EAGAIN, EBADMSG, EEXIST, EINTR, ENOBUFS, ENODEV, ENOENT, ESRCH, ETIMEDOUT,
};

/// More than one datagram of the kernel.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Maximum number of attempts, with doubling pauses.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// How long one attempt may take. The kernel answers before send(2) returns, so this is for an answer
/// that never comes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection for the routes, links and addresses of one network namespace.
pub(crate) struct Rtnetlink {
    /// The crate rtnetlink is asynchronous.
    runtime: Runtime,
    faults: Arc<Faults>,
    /// `None` after a failure, until the next attempt.
    link: Option<Link>,
    patience: Duration,
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
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let faults = Arc::<Faults>::default();
        let link = Some(Link::open(&runtime, &faults)?);
        Ok(Self {
            runtime,
            faults,
            link,
            patience: PATIENCE,
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
        let either = select(&mut link.connection, operation);
        let ended = self
            .runtime
            .block_on(async { timeout(self.patience, either).await });
        let ended = match ended {
            Err(_) => Err(io::Error::from_raw_os_error(ETIMEDOUT)),
            Ok(Either::Left(_)) => Err(self
                .faults
                .take()
                .unwrap_or_else(|| io::Error::from_raw_os_error(EINTR))),
            Ok(Either::Right((result, _))) => match self.faults.take() {
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
            port: 0,
        };
        faults.take();
        socket.socket_mut().set_netlink_get_strict_chk(true)?;
        // Bind now: otherwise the kernel assigns the port with the first request.
        let address = socket.socket_mut().bind_auto()?;
        socket.port = address.port_number();
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
struct Faults(Mutex<Option<i32>>);

impl Faults {
    fn note(&self, errno: i32) {
        *self.lock() = Some(errno);
    }

    fn take(&self) -> Option<io::Error> {
        self.lock().take().map(io::Error::from_raw_os_error)
    }

    fn lock(&self) -> MutexGuard<'_, Option<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that records its errors.
struct Wrapped {
    socket: TokioSocket,
    faults: Arc<Faults>,
    port: u32,
}

impl Wrapped {
    fn ingest(&self, received: io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        let checked = received.and_then(|datagram| {
            if is_interrupted(&datagram)? {
                self.faults.note(EINTR);
            }
            Ok(datagram)
        });
        checked.map_err(|error| {
            self.faults.note(error.raw_os_error().unwrap_or(EINTR));
            // Whatever the error: any except ENOBUFS ends rtnetlink's connection.
            io::ErrorKind::ConnectionAborted.into()
        })
    }
}

/// Whether a dump was inconsistent, because the table changed meanwhile: entries may be missing.
///
/// # Errors
///
/// `EBADMSG` if the datagram is not made of whole messages.
fn is_interrupted(datagram: &[u8]) -> io::Result<bool> {
    let mut is_interrupted = false;
    for message in Messages::new(datagram) {
        let message = message.map_err(|_| io::Error::from_raw_os_error(EBADMSG))?;
        is_interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
    }
    Ok(is_interrupted)
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
            port: 0,
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
        let sent = match faults::sending(self.port, buf) {
            Some(sent) => sent.map(|()| buf.len()),
            None => ready!(self.socket.poll_send_to(cx, buf, addr)),
        };
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
        if let Some(datagram) = faults::waiting(self.port) {
            return Poll::Ready(Ok((datagram, SocketAddr::new(0, 0))));
        }
        let mut datagram = Vec::with_capacity(RECEIVE_BUFFER);
        let from = ready!(self.socket.poll_recv_from(cx, &mut datagram));
        let received = from.and_then(|from| {
            let there = faults::received(self.port, &mut datagram)?;
            Ok(there.map(|()| from))
        });
        let (from, datagram) = match received {
            Ok(Some(from)) => (from, Ok(datagram)),
            Ok(None) => return self.poll_recv_from_full(cx),
            Err(error) => (SocketAddr::new(0, 0), Err(error)),
        };
        Poll::Ready(self.ingest(datagram).map(|datagram| (datagram, from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::ENOMEM;
    use futures_util::TryStreamExt;
    use netlink::faults::Fault;

    /// The links of this network namespace (reading them needs no privilege) after faults of the
    /// first attempts, and the number of attempts.
    fn links(injected: &[Fault]) -> (io::Result<usize>, u32) {
        let mut netlink = Rtnetlink::open().unwrap();
        for (nth, fault) in (1..).zip(injected) {
            faults::inject(nth, *fault);
        }
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
        faults::clear();
        assert!(netlink.read(list).unwrap() > 0);
        outcome
    }

    #[test]
    fn an_operation_is_tried_again_over_a_new_connection() {
        let (all, attempts) = links(&[]);
        let all = all.unwrap();
        assert_eq!(attempts, 1);
        for faults in [
            [Fault::Lost(EINTR), Fault::Lost(ENOBUFS)],
            [Fault::Lost(ENOBUFS), Fault::Interrupted],
            [Fault::Unsent(EAGAIN), Fault::Rejected(EINTR)],
        ] {
            let (listed, attempts) = links(&faults);
            assert_eq!(listed.unwrap(), all, "{faults:?}");
            assert_eq!(attempts, 3, "{faults:?}");
        }
    }

    #[test]
    fn attempts_are_bounded_and_the_error_is_the_sockets() {
        for (fault, errno) in [(Fault::Lost(ENOBUFS), ENOBUFS), (Fault::Interrupted, EINTR)] {
            let (listed, attempts) = links(&[fault; 100]);
            assert_eq!(listed.unwrap_err().raw_os_error(), Some(errno));
            assert_eq!(attempts, ATTEMPTS);
        }
        // Other errors, such as out of memory, are left to the caller's back-off.
        for fault in [Fault::Lost(ENOMEM), Fault::Rejected(ENOMEM)] {
            let (listed, attempts) = links(&[fault]);
            assert_eq!(listed.unwrap_err().raw_os_error(), Some(ENOMEM));
            assert_eq!(attempts, 1);
        }
    }

    #[test]
    fn a_list_that_is_cut_is_an_error() {
        let (listed, attempts) = links(&[Fault::Cut]);
        let errno = listed.unwrap_err().raw_os_error();
        assert_eq!((errno, attempts), (Some(EBADMSG), 1));
    }

    #[test]
    fn an_answer_that_never_comes_is_an_error() {
        let mut netlink = Rtnetlink::open().unwrap();
        netlink.patience = Duration::from_millis(200);
        let loopback = |handle: Handle| async move {
            let mut answer = handle.link().get().match_index(1).execute();
            let link = answer.try_next().await.map_err(io_error)?;
            Ok(link.is_some())
        };
        faults::inject(1, Fault::Missing);
        let missing = netlink.read(loopback).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(ETIMEDOUT));
        netlink.patience = PATIENCE;
        assert!(netlink.read(loopback).unwrap());
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
