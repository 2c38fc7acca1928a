//! Code that runs in another network namespace.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `work` in a network namespace, an open `/proc/PID/ns/net` or `/run/netns/NAME`, and
/// returns what it returns. The calling thread stays in its own namespace.
///
/// A client does not need this: see
/// [`Client::open_in_namespace`](crate::Client::open_in_namespace). Files below `/proc/sys/net`
/// do, since they belong to the reading thread's namespace.
///
/// ```no_run
/// use std::os::fd::AsFd;
///
/// let namespace = std::fs::File::open("/run/netns/blue")?;
/// let value = ipvs::in_namespace(namespace.as_fd(), || ipvs::sysctl::CONNTRACK.read())??;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// Those of `setns(2)`; `EPERM` without CAP_SYS_ADMIN. An error if `work` panics.
pub fn in_namespace<R: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> R + Send,
) -> io::Result<R> {
    // A short-lived thread changes its namespace, so the caller's cannot be left in the wrong one.
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            Ok(work())
        });
        worker
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}
