//! One writer at a time in a network namespace.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

/// The name of the lock. An abstract Unix socket name belongs to a network namespace, like the
/// virtual servers and rules that the lock protects, and the kernel frees it when the process ends,
/// also after SIGKILL. A file belongs to a mount namespace: a container and its host may share a
/// network namespace, but not the files.
const NAME: &[u8] = b"svcproxy/writer";

/// How often to try again.
const PAUSE: Duration = Duration::from_millis(100);

/// The lock on this network namespace. Dropping it unlocks.
#[derive(Debug)]
#[must_use = "dropping it gives the lock up"]
pub(crate) struct WriterLock(#[expect(dead_code, reason = "kept open")] Option<UnixListener>);

/// The process that has the lock.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    /// A process of root; its PID, unless it is in another PID namespace.
    Root(Option<i32>),
    /// A process without privileges. It cannot change the node; it only took the name, so that
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
        let deadline = Instant::now() + wait;
        let mut is_said = false;
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => return Ok(Self(Some(listener))),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => {
                    return Err(error).context("cannot lock this network namespace for changes");
                }
            }
            match holder(&address) {
                Ok(Holder::Stranger { pid, uid }) => {
                    tracing::warn!(
                        pid,
                        uid,
                        "an unprivileged process holds svcproxy's lock; starting without the lock"
                    );
                    return Ok(Self(None));
                }
                Ok(Holder::Root(pid)) => {
                    let who = pid.map_or_else(
                        || "a process in another PID namespace".to_owned(),
                        |pid| format!("process {pid}"),
                    );
                    anyhow::ensure!(
                        Instant::now() < deadline,
                        "another svcproxy ({who}) manages this network namespace; stop it first, \
                         or wait for its end with --wait-lock"
                    );
                    if !is_said {
                        tracing::info!(holder = who, "waiting for another svcproxy to end");
                        is_said = true;
                    }
                }
                // The other process has ended in the meantime: try again.
                Err(_) => {}
            }
            thread::sleep(PAUSE);
        }
    }
}

fn holder(address: &SocketAddr) -> io::Result<Holder> {
    let stream = UnixStream::connect_addr(address)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    let pid = peer.pid.as_raw_nonzero().get();
    Ok(if peer.uid.is_root() {
        Holder::Root(Some(pid))
    } else {
        let uid = peer.uid.as_raw();
        Holder::Stranger { pid, uid }
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
