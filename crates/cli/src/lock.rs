//! One writer at a time in a network namespace.

use std::fmt;
use std::fs;
use std::io;
use std::os::linux::fs::MetadataExt;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::socket::{UnixCredentials, getsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, geteuid, test_kill_process};

use crate::logging::Shown;

/// The name of the lock. An abstract Unix socket name belongs to a network namespace, like the
/// virtual servers and rules that the lock protects, and the kernel frees it when the process ends,
/// also after SIGKILL. A file belongs to a mount namespace: a container and its host may share a
/// network namespace, but not the files.
const NAME: &[u8] = b"svcproxy/writer";

/// Lists the sockets of this network namespace.
const SOCKETS: &str = "/proc/net/unix";

/// How often to try again.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a program that a killed svcproxy was starting may keep the lock: it inherits all files,
/// and closes them only in execve(2). On a busy machine, a restart comes before that.
const INHERITED: Duration = Duration::from_secs(10);

/// The lock on this network namespace. Dropping it unlocks.
#[derive(Debug)]
#[must_use = "dropping it gives the lock up"]
pub(crate) struct WriterLock(#[expect(dead_code, reason = "kept open")] Option<UnixListener>);

/// What is known of the process that has the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    /// `None` if it is in another PID namespace, or may not be looked at.
    pid: Option<i32>,
    uid: Option<u32>,
    /// svcproxy listens on its socket; a program that only took the name need not.
    listens: bool,
}

impl WriterLock {
    /// Takes the lock, and waits for at most `wait`, or for [`INHERITED`] if that is longer and the
    /// holder has ended or cannot be found.
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
        let mut asked = Asked::default();
        let mut is_said = false;
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => return Ok(Self(Some(listener))),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => {
                    return Err(error).context("cannot lock this network namespace for changes");
                }
            }
            let holder = asked.holder(name);
            if let Some((pid, uid)) = holder.stranger() {
                tracing::warn!(
                    pid,
                    uid,
                    "an unprivileged process holds svcproxy's lock; starting without the lock"
                );
                return Ok(Self(None));
            }
            anyhow::ensure!(
                began.elapsed() < holder.patience(wait),
                "{}",
                holder.refusal()
            );
            if !is_said {
                tracing::info!(%holder, "waiting for another svcproxy to end");
                is_said = true;
            }
            thread::sleep(PAUSE);
        }
    }
}

/// The answer of the last holder. Each question leaves an entry in the queue of its socket, so
/// only a new socket is asked.
#[derive(Default)]
struct Asked(Option<(String, Holder)>);

impl Asked {
    fn holder(&mut self, name: &[u8]) -> Holder {
        let sockets = fs::read_to_string(SOCKETS).unwrap_or_default();
        let inode = inode_of(&sockets, name);
        match (&self.0, inode) {
            (Some((last, holder)), Some(inode)) if last == inode && holder.listens => {
                holder.clone()
            }
            _ => {
                let holder = Holder::ask(name, inode);
                self.0 = inode.map(|inode| (inode.to_owned(), holder.clone()));
                holder
            }
        }
    }
}

impl Holder {
    fn ask(name: &[u8], inode: Option<&str>) -> Self {
        match connect_to(name) {
            Ok(peer) => Self {
                // 0 in another PID namespace.
                pid: Some(peer.pid()).filter(|pid| *pid > 0),
                uid: Some(peer.uid()),
                listens: true,
            },
            // It does not listen, its queue is full, or it may not be asked.
            Err(error) => {
                let pid = inode.and_then(process_of);
                let status = pid.and_then(|pid| fs::metadata(format!("/proc/{pid}")).ok());
                Self {
                    pid: pid.and_then(|pid| pid.try_into().ok()),
                    uid: status.map(|status| status.st_uid()),
                    listens: error.kind() != io::ErrorKind::ConnectionRefused,
                }
            }
        }
    }

    /// A process without the privilege. It cannot change the node; it only took the name, so that
    /// svcproxy would not start.
    fn stranger(&self) -> Option<(i32, u32)> {
        let (pid, uid) = self.pid.zip(self.uid)?;
        (uid != 0 && lacks_net_admin(pid)).then_some((pid, uid))
    }

    /// How long to wait for its end.
    fn patience(&self, wait: Duration) -> Duration {
        match self.pid {
            Some(pid) if has_ended(pid) => wait.max(INHERITED),
            // svcproxy does not listen for a moment after it has taken the name.
            Some(_) if !self.listens => wait.max(PAUSE),
            Some(_) => wait,
            None if self.uid.is_some() => wait,
            // It has ended in the meantime, usually.
            None => wait.max(INHERITED),
        }
    }

    fn refusal(&self) -> String {
        let name = String::from_utf8_lossy(NAME);
        match self.pid {
            Some(pid) if has_ended(pid) => format!(
                "svcproxy ({self}) has ended, but a program that it started still holds its lock on \
                 this network namespace; end the program that `ss -xlp` shows for @{name}"
            ),
            _ if self.listens => format!(
                "another svcproxy ({self}) manages this network namespace; stop it first, or wait for \
                 its end with --wait-lock"
            ),
            _ => format!(
                "{self} holds svcproxy's lock on this network namespace, but does not listen on it as \
                 svcproxy does; end the process that `ss -xap` shows on the host for @{name}"
            ),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, self.uid) {
            (Some(pid), _) => write!(f, "process {pid}"),
            (None, Some(uid)) => write!(f, "a process of user ID {uid} in another PID namespace"),
            (None, None) => f.write_str("a process that is not visible here"),
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

/// A process that has a socket: in particular the lock of this network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writer {
    /// None if it is in another PID namespace, or may not be looked at.
    pub(crate) pid: Option<u32>,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "PID {pid}"),
            None => f.write_str(unknown_holder(geteuid().is_root())),
        }
    }
}

/// What a process is whose PID is not found. Only root sees the open files of other users' processes.
const fn unknown_holder(is_root: bool) -> &'static str {
    match is_root {
        true => "a process in another PID namespace",
        false => "a process of another user; only root sees its PID",
    }
}

/// The process that has the lock, if any. Does not connect to it: a connection that is never accepted
/// would stay in its queue, which is bounded.
pub(crate) fn writer() -> Option<Writer> {
    let sockets = fs::read_to_string(SOCKETS).ok()?;
    let inode = inode_of(&sockets, NAME)?;
    Some(Writer {
        pid: process_of(inode),
    })
}

/// The inode of the socket with an abstract name, in the text of [`SOCKETS`]. Connections that wait in
/// its queue have the same name, and the inode 0.
fn inode_of<'a>(sockets: &'a str, name: &[u8]) -> Option<&'a str> {
    sockets.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let inode = words.nth(6)?;
        let path = words.next()?.strip_prefix('@')?;
        (path.as_bytes() == name && inode != "0").then_some(inode)
    })
}

/// The program that has the socket with this inode open, for people.
pub(crate) fn holder(inode: u64) -> String {
    let holder = Writer {
        pid: process_of(&inode.to_string()),
    };
    let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    match holder.pid.and_then(name) {
        // Every process chooses its own name.
        Some(name) => format!("{holder} ({})", Shown(name.trim_end())),
        None => holder.to_string(),
    }
}

/// The process that has the socket with this inode open.
fn process_of(inode: &str) -> Option<u32> {
    let file = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?;
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut pids: Vec<_> = pids.collect();
    pids.sort_unstable();
    pids.into_iter().find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        let mut links = files.into_iter().flatten().filter_map(Result::ok);
        links.any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == &*file))
    })
}

/// The process that listens on the socket. It accepts no connections: this one must not wait for a
/// place in a full queue.
fn connect_to(name: &[u8]) -> io::Result<UnixCredentials> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    Ok(getsockopt(&socket, sockopt::PeerCredentials)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};

    use rustix::net::{bind, socket};

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
            let sockets = fs::read_to_string(SOCKETS).unwrap();
            let inode = inode_of(&sockets, name.as_bytes())?;
            process_of(inode)
        };
        assert_eq!(find(), None);
        let lock = WriterLock::take_named(name.as_bytes(), Duration::ZERO).unwrap();
        assert_eq!(find(), Some(std::process::id()));
        drop(lock);
        assert_eq!(find(), None);
    }

    #[test]
    fn the_holder_of_a_socket_is_named_with_its_hidden_characters_escaped() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let inode = fs::metadata(file).unwrap().st_ino();
        fs::write("/proc/self/comm", "\u{1b}[2Jx").unwrap();
        let expected = format!("PID {} (\\u{{1b}}[2Jx)", std::process::id());
        assert_eq!(holder(inode), expected);
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_named_with_its_process() {
        let name = format!("svcproxy-test-bound/{}", std::process::id());
        let socket = bound(&name);
        let refused = WriterLock::take_named(name.as_bytes(), Duration::ZERO).unwrap_err();
        let refused = refused.to_string();
        let expected = format!(
            "process {} holds svcproxy's lock on this network namespace, but does not listen",
            std::process::id()
        );
        assert!(refused.starts_with(&expected), "{refused}");
        drop(socket);
        drop(WriterLock::take_named(name.as_bytes(), Duration::ZERO).unwrap());
    }

    /// A socket with an abstract name that does not listen.
    fn bound(name: &str) -> OwnedFd {
        let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        bind(&socket, &address).unwrap();
        socket
    }

    #[test]
    fn a_holder_says_what_is_known_of_it() {
        let holder = |pid, uid, listens| Holder { pid, uid, listens };
        let unseen = holder(None, Some(65534), true);
        assert_eq!(
            unseen.refusal(),
            "another svcproxy (a process of user ID 65534 in another PID namespace) manages this \
             network namespace; stop it first, or wait for its end with --wait-lock"
        );
        assert_eq!(unseen.patience(Duration::ZERO), Duration::ZERO);
        // Its privileges are not known, so it may be a writer.
        assert_eq!(unseen.stranger(), None);
        let hidden = holder(None, None, false);
        assert!(
            hidden
                .refusal()
                .starts_with("a process that is not visible here holds")
        );
        assert_eq!(hidden.patience(Duration::ZERO), INHERITED);
    }

    #[test]
    fn waiting_does_not_fill_the_queue_of_the_holder() {
        let name = format!("svcproxy-test-queue/{}", std::process::id());
        let first = WriterLock::take_named(name.as_bytes(), Duration::ZERO).unwrap();
        let refused = WriterLock::take_named(name.as_bytes(), PAUSE * 5).unwrap_err();
        assert!(
            refused.to_string().contains("another svcproxy"),
            "{refused}"
        );
        let sockets = fs::read_to_string(SOCKETS).unwrap();
        let named = sockets.lines().filter(|line| line.ends_with(&name));
        // The socket, and one question.
        assert_eq!(named.count(), 2);
        assert_ne!(inode_of(&sockets, name.as_bytes()), Some("0"));
        drop(first);
    }

    #[test]
    fn connections_in_the_queue_are_not_taken_for_the_socket() {
        let sockets = "\
Num       RefCount Protocol Flags    Type St Inode Path
00000000319ecc50: 00000002 00000000 00000000 0001 02     0 @svcproxy/writer
00000000319ecc51: 00000002 00000000 00010000 0001 01 31337 @svcproxy/writer
";
        assert_eq!(inode_of(sockets, b"svcproxy/writer"), Some("31337"));
        assert_eq!(inode_of(sockets, b"svcproxy"), None);
    }

    #[test]
    fn a_holder_that_an_unprivileged_user_may_not_see_is_in_no_other_namespace() {
        assert!(unknown_holder(true).contains("another PID namespace"));
        assert!(unknown_holder(false).contains("only root sees"));
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
