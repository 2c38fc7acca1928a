//! Copies bytes between a client and an endpoint, in both directions at a time.
//!
//! A direction reads only what it can write: what is on the way is at most one buffer or one pipe.
//! Short exchanges go through a buffer that the thread's connections share. A direction that has
//! carried much gets a pipe, through which the kernel moves its bytes without copying them to the
//! process (splice(2)), if there is one left.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::Shared;
use super::live::Traffic;

/// The buffer of a thread. What it cannot write at once of it, a direction keeps.
const BUFFER: usize = 64 * 1024;
/// From this many bytes on, a direction uses a pipe.
const MUCH: u64 = 256 * 1024;
/// And if it has filled the buffer so many times in a row: a pipe costs more than a copy where bytes come
/// in small pieces.
const FULL: u32 = 4;
/// What a pipe may hold.
const PIPE: usize = 256 * 1024;
/// Pipes that are kept for later use.
const SPARE: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// An empty pipe. Only empty ones may be used again: what is in one belongs to a connection.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// The pipes that nobody uses, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    spare: Mutex<Vec<Pipe>>,
    used: AtomicUsize,
}

impl Pipes {
    /// A pipe, if there may be one more.
    fn take(&self, most: usize) -> Option<Pipe> {
        if self.used.fetch_add(1, Ordering::Relaxed) >= most {
            self.used.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let spare = self.spare().pop();
        let pipe = spare.or_else(|| {
            let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
            // The default is the most that some processes get.
            let _ = fcntl_setpipe_size(&write, PIPE);
            Some(Pipe { read, write })
        });
        if pipe.is_none() {
            self.used.fetch_sub(1, Ordering::Relaxed);
        }
        pipe
    }

    /// Gives an empty pipe back.
    fn put_back(&self, pipe: Pipe) {
        self.used.fetch_sub(1, Ordering::Relaxed);
        let mut spare = self.spare();
        if spare.len() < SPARE {
            spare.push(pipe);
        }
    }

    /// The number of pipes that connections have.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Pipe>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a direction has read and not written yet.
#[derive(Debug)]
enum Pending {
    Nothing,
    Bytes { bytes: Vec<u8>, written: usize },
    InPipe(Pipe, usize),
}

/// The socket of a direction that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    From,
    To,
}

/// One direction of a connection.
struct Direction<'a> {
    pending: Pending,
    carried: u64,
    /// Reads in a row that filled the buffer.
    full_reads: u32,
    is_at_end: bool,
    counters: [&'a AtomicU64; 2],
    shared: &'a Shared,
}

impl Direction<'_> {
    /// Copies until one of the sockets is not ready, or the end was passed on.
    fn poll(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_write(to, context)).map_err(|_| Broken::To)?;
            if self.is_at_end {
                return Poll::Ready(shut(to).map_err(|_| Broken::To));
            }
            ready!(from.poll_read_ready(context)).map_err(|_| Broken::From)?;
            let mut count = None;
            let tried = from.try_io(Interest::READABLE, || {
                let read = self.read(from, to)?;
                count = Some(read);
                // After a short read the socket is empty: without another call to find out, tokio
                // waits for more. It never forgets that the other end has closed.
                // A pipe may be full although there is more: only the buffer shows that.
                let is_copied = !matches!(self.pending, Pending::InPipe(..));
                match is_copied && read > 0 && read < BUFFER {
                    true => Err(io::ErrorKind::WouldBlock.into()),
                    false => Ok(()),
                }
            });
            match (count, tried) {
                (Some(0), _) => self.is_at_end = true,
                (Some(count), _) => self.count(count),
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(Broken::From));
                }
                (None, _) => {}
            }
        }
    }

    /// Reads as much as the buffer or the pipe holds, and writes what the other socket takes at once.
    fn read(&mut self, from: &TcpStream, to: &TcpStream) -> io::Result<usize> {
        let pipe = match self.carried >= MUCH && self.full_reads >= FULL {
            true => self.shared.pipes.take(self.shared.limits.pipes),
            false => None,
        };
        if let Some(pipe) = pipe {
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            let moved = splice(from, None, &pipe.write, None, PIPE, flags);
            return match moved {
                Ok(0) | Err(_) => {
                    self.shared.pipes.put_back(pipe);
                    Ok(moved?)
                }
                Ok(count) => {
                    self.pending = Pending::InPipe(pipe, count);
                    if count < BUFFER {
                        self.full_reads = 0;
                    }
                    Ok(count)
                }
            };
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let count = rustix::io::read(from, &mut **scratch)?;
            self.full_reads = match count == BUFFER {
                true => self.full_reads.saturating_add(1),
                false => 0,
            };
            let bytes = scratch.get(..count).unwrap_or_default();
            let written = match bytes.is_empty() {
                true => 0,
                // Errors, and a socket that is not ready, come again in `poll_write`.
                false => rustix::io::write(to, bytes).unwrap_or_default(),
            };
            if written < count {
                self.pending = Pending::Bytes {
                    bytes: bytes.get(written..).unwrap_or_default().to_vec(),
                    written: 0,
                };
            }
            Ok(count)
        })
    }

    /// Writes what is pending.
    fn poll_write(&mut self, to: &TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let wrote = match &mut self.pending {
                Pending::Nothing => return Poll::Ready(Ok(())),
                Pending::Bytes { bytes, written } => {
                    ready!(to.poll_write_ready(context))?;
                    let rest = bytes.get(*written..).unwrap_or_default();
                    to.try_write(rest).map(|count| {
                        *written += count;
                        *written >= bytes.len()
                    })
                }
                Pending::InPipe(pipe, left) => {
                    ready!(to.poll_write_ready(context))?;
                    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                    let moved = to.try_io(Interest::WRITABLE, || {
                        Ok(splice(&pipe.read, None, to, None, *left, flags)?)
                    });
                    moved.map(|count| {
                        *left = left.saturating_sub(count);
                        *left == 0
                    })
                }
            };
            match wrote {
                Ok(true) => self.settle(),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn settle(&mut self) {
        if let Pending::InPipe(pipe, _) = std::mem::replace(&mut self.pending, Pending::Nothing) {
            self.shared.pipes.put_back(pipe);
        }
    }

    fn count(&mut self, bytes: usize) {
        self.carried += u64::try_from(bytes).unwrap_or_default();
        for counter in self.counters {
            Traffic::count(counter, bytes);
        }
    }
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        // Bytes of a connection that broke are lost with their pipe.
        if matches!(self.pending, Pending::InPipe(..)) {
            self.shared.pipes.used.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Passes the end of one direction on; the other one goes on.
fn shut(to: &TcpStream) -> io::Result<()> {
    match SockRef::from(to).shutdown(Shutdown::Write) {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
    }
}

/// Copies in both directions until both have ended. What a direction had received before its other end
/// broke is still passed on: an endpoint that answers and closes before it has read everything resets the
/// connection behind its answer.
///
/// # Errors
///
/// If one of the sockets broke; the other end must then be reset.
pub(super) async fn relay(
    client: &TcpStream,
    endpoint: &TcpStream,
    traffic: &Traffic,
    shared: &Shared,
) -> io::Result<()> {
    let reset = || Err(io::ErrorKind::ConnectionReset.into());
    let direction = |counters| Direction {
        pending: Pending::Nothing,
        carried: 0,
        full_reads: 0,
        is_at_end: false,
        counters,
        shared,
    };
    let total = &shared.counters;
    let mut there = Some(direction([&traffic.bytes_in, &total.bytes_in]));
    let mut back = Some(direction([&traffic.bytes_out, &total.bytes_out]));
    // After one side's end, nothing reads from it any more, so its reset would not be noticed.
    let mut client_broke = pin!(client.ready(Interest::ERROR));
    let mut endpoint_broke = pin!(endpoint.ready(Interest::ERROR));
    let mut cannot_send = false;
    poll_fn(|context| {
        match poll_part(&mut there, client, endpoint, context) {
            Err(Broken::To) => cannot_send = true,
            Err(Broken::From) => return Poll::Ready(reset()),
            Ok(()) => {}
        }
        if poll_part(&mut back, endpoint, client, context).is_err() {
            return Poll::Ready(reset());
        }
        let is_broken = match (&there, &back) {
            (None, None) if cannot_send => true,
            (None, None) => return Poll::Ready(Ok(())),
            (None, Some(_)) => client_broke.as_mut().poll(context).is_ready(),
            (Some(_), None) => endpoint_broke.as_mut().poll(context).is_ready(),
            (Some(_), Some(_)) => false,
        };
        match is_broken {
            true => Poll::Ready(reset()),
            false => Poll::Pending,
        }
    })
    .await
}

/// Polls a direction that has not ended yet.
fn poll_part(
    part: &mut Option<Direction<'_>>,
    from: &TcpStream,
    to: &TcpStream,
    context: &mut Context<'_>,
) -> Result<(), Broken> {
    let Some(direction) = part else {
        return Ok(());
    };
    match Pin::new(direction).get_mut().poll(from, to, context) {
        Poll::Pending => Ok(()),
        Poll::Ready(done) => {
            *part = None;
            done
        }
    }
}
