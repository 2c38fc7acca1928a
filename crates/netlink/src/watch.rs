//! Notifications of changes that other processes make.
//!
//! nfnetlink and rtnetlink send a message for each change to all listeners, with the port of the
//! socket that requested the change. Changes by this process's own sockets are ignored.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netlink_sys::SocketAddr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use crate::read::{Message, Messages};

/// More than one notification needs: the kernel sends each in a separate datagram.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Receive buffer of a listener in the kernel. The default of 208 KiB is less than svcproxy's own
/// ruleset, so installing it would look like a change by another program (`ENOBUFS`).
const RECEIVE_MEMORY: usize = 8 * 1024 * 1024;
/// `MSG_DONTWAIT | MSG_TRUNC`.
const RECEIVE_FLAGS: i32 = 0x40 | 0x20;
/// Changes within this time after a report are reported together.
const GAP: Duration = Duration::from_millis(200);
/// Pause before a retry if the kernel has no memory for poll(2).
const PAUSE: Duration = Duration::from_secs(1);

/// The netlink sockets of this process, and of programs that it runs, that make changes. May contain
/// duplicates, because sockets in different network namespaces may have the same port.
static OWN: Mutex<Vec<Marked>> = Mutex::new(Vec::new());

/// How long a program's socket counts as svcproxy's after the program has ended, because its
/// notifications may not have been read yet.
const LINGER: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Marked {
    protocol: isize,
    port: u32,
    /// When the mark ends, once that is known.
    until: Option<Instant>,
}

/// Marks a socket as one of this process, so that its changes are not reported.
///
/// A notification that is read after the drop counts as a change by another process.
#[derive(Debug)]
pub struct Own {
    protocol: isize,
    port: u32,
    linger: Duration,
}

impl Own {
    /// Marks the socket with this port, of a netlink protocol (`NETLINK_…`).
    pub fn new(protocol: isize, port: u32) -> Self {
        Self::lingering(protocol, port, Duration::ZERO)
    }

    /// Marks the first socket of a protocol that a program opens: the kernel uses the PID as its
    /// port (`netlink_autobind`). The mark stays for two seconds after the drop.
    pub fn of_program(protocol: isize, process: u32) -> Self {
        Self::lingering(protocol, process, LINGER)
    }

    fn lingering(protocol: isize, port: u32, linger: Duration) -> Self {
        let now = Instant::now();
        let mut own = own();
        own.retain(|socket| socket.until.is_none_or(|until| until > now));
        own.push(Marked {
            protocol,
            port,
            until: None,
        });
        Self {
            protocol,
            port,
            linger,
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut own = own();
        let is_it = |socket: &Marked| {
            (socket.protocol, socket.port, socket.until) == (self.protocol, self.port, None)
        };
        let Some(at) = own.iter().position(is_it) else {
            return;
        };
        if self.linger.is_zero() {
            own.swap_remove(at);
        } else if let Some(socket) = own.get_mut(at) {
            socket.until = Some(Instant::now() + self.linger);
        }
    }
}

fn is_own(protocol: isize, port: u32) -> bool {
    let now = Instant::now();
    own().iter().any(|socket| {
        (socket.protocol, socket.port) == (protocol, port)
            && socket.until.is_none_or(|until| until > now)
    })
}

fn own() -> MutexGuard<'static, Vec<Marked>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket that receives notifications.
#[derive(Debug)]
pub struct Listener {
    socket: netlink_sys::Socket,
    protocol: isize,
    buffer: Vec<u8>,
}

impl Listener {
    /// Listens to groups (`NFNLGRP_…`, `RTNLGRP_…`) of a protocol in the calling thread's network
    /// namespace.
    ///
    /// # Errors
    ///
    /// Those of socket(2) and bind(2).
    pub fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        // Without the privilege, the socket keeps the default.
        let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_MEMORY);
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self {
            socket,
            protocol,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    /// Reads all notifications. Returns whether another process made a relevant change. Lost
    /// (`ENOBUFS`) and unreadable notifications count as relevant.
    fn read(&mut self, matters: &mut impl FnMut(&Message<'_>) -> bool) -> bool {
        let mut changed = false;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, RECEIVE_FLAGS) {
                Ok(length) => changed |= length > self.buffer.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return changed,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => {
                    changed = true;
                    continue;
                }
                Err(_) => return true,
            }
            for message in Messages::new(&self.buffer) {
                changed |= message
                    .is_ok_and(|message| !is_own(self.protocol, message.port) && matters(&message));
            }
        }
    }
}

const ENOBUFS: i32 = 105;

/// A thread that reports changes by other processes. Dropping this stops it.
#[derive(Debug)]
pub struct Watch {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Calls `report` for notifications for which `matters` is true: the first time at once, then
    /// at most five times per second.
    ///
    /// # Errors
    ///
    /// If the thread or the socket cannot be created.
    pub fn start(
        mut listeners: Vec<Listener>,
        mut matters: impl FnMut(&Message<'_>) -> bool + Send + 'static,
        mut report: impl FnMut() + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let thread = thread::Builder::new().name("netlink-watch".to_owned());
        let thread = thread.spawn(move || {
            let mut pace = Pace::default();
            loop {
                let sockets = listeners.iter().map(|listener| listener.socket.as_fd());
                match wait(stopped.as_fd(), sockets, pace.timeout(Instant::now())) {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(_) => {
                        thread::sleep(PAUSE);
                        pace.changed(Instant::now());
                    }
                }
                let mut changed = false;
                for listener in &mut listeners {
                    changed |= listener.read(&mut matters);
                }
                if changed {
                    pace.changed(Instant::now());
                }
                if pace.is_due(Instant::now()) {
                    report();
                }
            }
        })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Closing it wakes the thread.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until something can be read or the time is over. Returns whether the thread should end.
fn wait<'a>(
    stopped: BorrowedFd<'a>,
    sockets: impl Iterator<Item = BorrowedFd<'a>>,
    timeout: Option<Duration>,
) -> rustix::io::Result<bool> {
    let poll_fd = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
    let mut fds: Vec<_> = [stopped].into_iter().chain(sockets).map(poll_fd).collect();
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    poll(&mut fds, timeout.as_ref())?;
    Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty()))
}

/// The rate limit of reports.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Pace {
    fn changed(&mut self, now: Instant) {
        let earliest = self.last.map_or(now, |last| last + GAP);
        self.due.get_or_insert(earliest.max(now));
    }

    /// Maximum time to wait; unlimited if nothing is pending.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// Whether a report is due. If so, counts it as made.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due.take_if(|due| *due <= now).is_some();
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_marked_until_its_last_socket_is_gone() {
        const PROTOCOL: isize = -1;
        let is_own = || is_own(PROTOCOL, 7);
        let (first, second) = (Own::new(PROTOCOL, 7), Own::new(PROTOCOL, 7));
        drop(first);
        assert!(is_own());
        drop(second);
        assert!(!is_own());
        let program = Own::of_program(PROTOCOL, 7);
        drop((Own::new(PROTOCOL, 7), program));
        // Notifications of a program may be read after its end.
        assert!(is_own());
    }

    #[test]
    fn the_first_change_is_reported_at_once_and_a_storm_at_the_rate() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.timeout(start), None);
        let mut reports = 0;
        // A change every millisecond, for a second.
        for millisecond in 0..1000 {
            let now = start + Duration::from_millis(millisecond);
            pace.changed(now);
            reports += u32::from(pace.is_due(now));
        }
        assert_eq!(reports, 5);
        // The last ones are not lost.
        let end = start + Duration::from_secs(1);
        assert!(pace.timeout(end).is_some_and(|left| left <= GAP));
        assert!(pace.is_due(end + GAP));
        assert_eq!(pace.timeout(end), None);
    }
}
