//! One writer at a time in a network namespace.

use std::fmt;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, test_kill_process};

/// The name of the lock. An abstract Unix socket name belongs to a network namespace, like the
/// virtual servers and rules that the lock protects, and the kernel frees it when the process ends,
/// also after SIGKILL. A file belongs to a mount namespace: a container and its host may share a
/// network namespace, but not the files.
const NAME: &[u8] = b"svcproxy/writer";

/// How often to try again.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a program that a killed svcproxy was starting may keep the lock: it inherits all files,
/// and closes them only in execve(2). On a busy machine, a restart comes before that.
const INHERITED: Duration = Duration::from_secs(10);

/// The lock on this network namespace. Dropping it unlocks.
#[derive(Debug)]
#[must_use = "dropping it gives the lock up"]
pub(crate) struct WriterLock(#[expect(dead_code, reason = "kept open")] Option<UnixListener>);

/// The process that has the lock.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    /// A process that may change the node; its PID, unless it is in another PID namespace.
    Writer(Option<i32>),
    /// A process without the privilege. It cannot change the node; it only took the name, so that
    /// svcproxy would not start.
    Stranger { pid: i32, uid: u32 },
}

impl WriterLock {
    /// Takes the lock, and waits for at most `wait`.
    ///
    /// # Errors
    ///
    /// If another svcproxy has it.
    pub(crate) fn take(wait: Duration) -> anyhow::Result<Self> {
        Self::take_named(NAME, wait)
    }

    fn take_named(name: &[u8], wait: Duration) -> anyhow::Result<Self> {
        let address = SocketAddr::from_abstract_name(name).context("the lock's name")?;
        let began = Instant::now();
        let mut is_said = false;
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => return Ok(Self(Some(listener))),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => {
                    return Err(error).context("cannot lock this network namespace for changes");
                }
            }
            match holder(name) {
                Ok(Holder::Stranger { pid, uid }) => {
                    tracing::warn!(
                        pid,
                        uid,
                        "an unprivileged process holds svcproxy's lock; starting without the lock"
                    );
                    return Ok(Self(None));
                }
                Ok(Holder::Writer(pid)) => {
                    let who = pid.map_or_else(
                        || "a process in another PID namespace".to_owned(),
                        |pid| format!("process {pid}"),
                    );
                    let wait = match pid.is_some_and(has_ended) {
                        true => wait.max(INHERITED),
                        false => wait,
                    };
                    anyhow::ensure!(
                        began.elapsed() < wait,
                        "another svcproxy ({who}) manages this network namespace; stop it first, \
                         or wait for its end with --wait-lock"
                    );
                    if !is_said {
                        tracing::info!(holder = who, "waiting for another svcproxy to end");
                        is_said = true;
                    }
                }
                // The other process has ended in the meantime, usually: try again.
                Err(error) => anyhow::ensure!(
                    began.elapsed() < wait.max(INHERITED),
                    "another process holds svcproxy's lock on this network namespace, and cannot be \
                     asked who it is: {error}"
                ),
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Also if its parent has not taken note yet.
fn has_ended(pid: i32) -> bool {
    let is_gone = |pid| test_kill_process(pid) == Err(Errno::SRCH);
    let is_zombie = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, state)| state);
        state.is_some_and(|state| state.starts_with(['Z', 'X']))
    };
    Pid::from_raw(pid).is_some_and(is_gone) || is_zombie()
}

/// Whether a process certainly has no right to change the network. The systemd unit runs svcproxy as a
/// user that is not root, with CAP_NET_ADMIN.
fn lacks_net_admin(pid: i32) -> bool {
    const CAP_NET_ADMIN: u64 = 12;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let permitted = permitted.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    permitted.is_some_and(|set| set & (1 << CAP_NET_ADMIN) == 0)
}

/// A process that has the lock of this network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writer {
    /// None if it is in another PID namespace, or may not be looked at.
    pub(crate) pid: Option<u32>,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "PID {pid}"),
            None => f.write_str("a process in another PID namespace"),
        }
    }
}

/// The process that has the lock, if any. Does not connect to it: a connection that is never accepted
/// would stay in its queue, which is bounded.
pub(crate) fn writer() -> Option<Writer> {
    let sockets = fs::read_to_string("/proc/net/unix").ok()?;
    let inode = inode_of(&sockets, NAME)?;
    Some(Writer {
        pid: process_with(&format!("socket:[{inode}]")),
    })
}

/// The inode of the socket with an abstract name, in the text of `/proc/net/unix`.
fn inode_of<'a>(sockets: &'a str, name: &[u8]) -> Option<&'a str> {
    sockets.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let inode = words.nth(6)?;
        let path = words.next()?.strip_prefix('@')?;
        (path.as_bytes() == name).then_some(inode)
    })
}

/// The process with an open file of this name.
fn process_with(file: &str) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?;
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut pids: Vec<_> = pids.collect();
    pids.sort_unstable();
    pids.into_iter().find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        let mut links = files.into_iter().flatten().filter_map(Result::ok);
        links.any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == file))
    })
}

/// The holder accepts no connections: this one must not wait for a place in a full queue.
fn holder(name: &[u8]) -> io::Result<Holder> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    // 0 in another PID namespace.
    let pid = Some(peer.pid()).filter(|pid| *pid > 0);
    Ok(match pid {
        Some(pid) if peer.uid() != 0 && lacks_net_admin(pid) => Holder::Stranger {
            pid,
            uid: peer.uid(),
        },
        pid => Holder::Writer(pid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_second_writer_names_the_first() {
        let name = format!("svcproxy-test/{}", std::process::id());
        let first = WriterLock::take_named(name.as_bytes(), Duration::ZERO).unwrap();
        let refused = WriterLock::take_named(name.as_bytes(), Duration::ZERO).unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("--wait-lock"), "{refused}");
        let pid = format!("process {}", std::process::id());
        assert!(refused.contains(&pid), "{refused}");
        drop(first);
        drop(WriterLock::take_named(name.as_bytes(), Duration::ZERO).unwrap());
    }

    #[test]
    fn the_holder_of_a_lock_is_found_without_a_connection() {
        let name = format!("svcproxy-test-found/{}", std::process::id());
        let find = || {
            let sockets = fs::read_to_string("/proc/net/unix").unwrap();
            let inode = inode_of(&sockets, name.as_bytes())?;
            process_with(&format!("socket:[{inode}]"))
        };
        assert_eq!(find(), None);
        let lock = WriterLock::take_named(name.as_bytes(), Duration::ZERO).unwrap();
        assert_eq!(find(), Some(std::process::id()));
        drop(lock);
        assert_eq!(find(), None);
    }

    #[test]
    fn a_waiting_writer_gets_the_lock_when_the_first_ends() {
        let name = format!("svcproxy-test-wait/{}", std::process::id());
        let first = WriterLock::take_named(name.as_bytes(), Duration::ZERO).unwrap();
        let waits = thread::spawn(move || {
            WriterLock::take_named(name.as_bytes(), Duration::from_secs(60)).map(drop)
        });
        drop(first);
        waits.join().unwrap().unwrap();
    }
}
