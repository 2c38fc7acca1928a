//! The threads for all asynchronous work: HTTP servers, the API client, Events, and the proxy of mode
//! userspace.
//!
//! Not for the kernel: netlink stays on the one thread that writes to the node.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};

/// Two threads: if one is busy, for instance with a large answer, the other one continues.
const WORKERS: usize = 2;

/// A pool of threads for asynchronous work. Clones share it; dropping the last clone stops it
/// and cancels its tasks.
///
/// The threads run in the network namespace of the thread that started them. A runtime can also be
/// started and dropped inside another tokio runtime.
///
/// ```
/// let runtime = proxier::Runtime::start()?;
/// # let _ = runtime;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Runtime(Arc<Pool>);

/// `None` only while it is dropped.
struct Pool(Option<tokio::runtime::Runtime>);

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A plain drop waits for the threads, and panics inside another runtime.
            runtime.shutdown_background();
        }
    }
}

impl Runtime {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// If a thread or a file descriptor cannot be created.
    pub fn start() -> io::Result<Self> {
        Self::with_workers(WORKERS)
    }

    /// Starts a thread for each CPU, and at least two: mode userspace carries the Services' traffic
    /// in them.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn for_traffic() -> io::Result<Self> {
        let cpus = std::thread::available_parallelism().map_or(WORKERS, NonZeroUsize::get);
        Self::with_workers(cpus.max(WORKERS))
    }

    fn with_workers(workers: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(workers)
            .thread_name("io")
            .enable_io()
            .enable_time()
            .build()?;
        Ok(Self(Arc::new(Pool(Some(runtime)))))
    }

    /// `None` only during the drop, when no handle is left.
    pub(crate) fn handle(&self) -> io::Result<&Handle> {
        let gone = || io::Error::other("the runtime has stopped");
        self.0
            .0
            .as_ref()
            .map(|runtime| runtime.handle())
            .ok_or_else(gone)
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}
