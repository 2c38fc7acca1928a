//! rtnetlink, made blocking.

use std::future::Future;
use std::io;

use rtnetlink::{Handle, new_connection_with_strict_check};
use tokio::runtime::{Builder, Runtime};

/// A socket to one network namespace's routes, links and addresses.
#[derive(Debug)]
pub(crate) struct Rtnetlink {
    /// rtnetlink is asynchronous.
    runtime: Runtime,
    pub(crate) handle: Handle,
}

impl Rtnetlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (connection, handle, _) = {
            let _guard = runtime.enter();
            new_connection_with_strict_check()?
        };
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// Waits for what is done with the handle.
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
