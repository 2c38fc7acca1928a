//! A blocking rtnetlink client.

use std::future::Future;
use std::io;

use netlink::Own;
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, new_connection_with_strict_check};
use tokio::runtime::{Builder, Runtime};

const NETLINK_ROUTE: isize = 0;

/// A socket for the routes, links and addresses of one network namespace.
#[derive(Debug)]
pub(crate) struct Rtnetlink {
    /// The crate rtnetlink is asynchronous.
    runtime: Runtime,
    pub(crate) handle: Handle,
    /// Marks changes by this socket as svcproxy's own, so that the watch ignores them.
    _own: Own,
}

impl Rtnetlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (mut connection, handle, _) = {
            let _guard = runtime.enter();
            new_connection_with_strict_check()?
        };
        // Bind now: otherwise the kernel assigns the port with the first request.
        let address = connection.socket_mut().socket_mut().bind_auto()?;
        runtime.spawn(connection);
        Ok(Self {
            runtime,
            handle,
            _own: Own::new(NETLINK_ROUTE, address.port_number()),
        })
    }

    /// Waits for a request to finish.
    pub(crate) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

/// The kernel's error.
pub(crate) fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
