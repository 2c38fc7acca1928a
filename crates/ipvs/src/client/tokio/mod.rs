//! The client for tokio: one worker thread and one first-in, first-out queue.

mod worker;

use std::future::Future;
#[cfg(doc)]
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::{Client, Counters, Outcomes, Socket, Transport};
use crate::{
    Change, Error, ErrorKind, Info, Object, Operation, Plan, RealServer, RealServerEntry,
    RealServerKey, Result, SyncDaemon, SyncDaemonEntry, SyncRole, TableEntry, Timeouts,
    TimeoutsEntry, VirtualServer, VirtualServerEntry, VirtualServerKey, Wanted,
};
use worker::{Lost, Worker};

/// A [`Client`] for tokio. Clones share one connection.
///
/// The kernel executes a request inside `sendmsg(2)`, where it can block: on a mutex, on an RCU
/// grace period, on a module being loaded. A non-blocking socket does not help, so the
/// connection has a thread of its own, and calls wait for it in a queue.
///
/// - **Order**: calls run one at a time, in the order in which their futures were first polled.
///   `join!(a, b)` runs `a` before `b`.
/// - **Cancellation**: dropping a future removes its call from the queue. A call that has
///   started finishes before the next one starts, whether anyone waits for it or not.
/// - **A kernel that does not answer** blocks that one thread and none of tokio's. Calls that
///   are given up meanwhile leave nothing behind.
/// - **Time limit**: [`with_time_limit`](Self::with_time_limit) bounds every call.
///
/// The thread ends when the last clone is dropped.
///
/// ```no_run
/// # async fn run() -> ipvs::Result<()> {
/// use std::time::Duration;
/// use ipvs::{AsyncClient, VirtualServer, VirtualServerKey};
///
/// let client = AsyncClient::open().await?.with_time_limit(Duration::from_secs(10));
/// let web = VirtualServerKey::tcp(([10, 96, 0, 1], 80).into());
/// client.add_virtual_server(&VirtualServer::new(web)).await?;
/// println!("{} virtual servers", client.virtual_servers().await?.len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncClient<T = Socket> {
    worker: Arc<Worker<T>>,
    time_limit: Option<Duration>,
}

impl<T> Clone for AsyncClient<T> {
    fn clone(&self) -> Self {
        Self {
            worker: Arc::clone(&self.worker),
            time_limit: self.time_limit,
        }
    }
}

impl AsyncClient {
    /// Opens a client in the calling thread's network namespace, as [`Client::open`] does.
    ///
    /// # Errors
    ///
    /// Those of [`Client::open`], and [`ErrorKind::Io`] if no thread can be started.
    pub async fn open() -> Result<Self> {
        // The namespace is the calling thread's, which the worker's need not be.
        Self::over(Client::socket(Socket::open())?).await
    }

    /// Opens a client in a network namespace, as [`Client::open_in_namespace`] does.
    ///
    /// # Errors
    ///
    /// Those of [`Client::open_in_namespace`], and [`ErrorKind::Io`] if no thread can be started.
    pub async fn open_in_namespace(namespace: BorrowedFd<'_>) -> Result<Self> {
        Self::over(Client::socket(Socket::open_in_namespace(namespace))?).await
    }

    /// Resolving the family can load the module: not on the caller's thread.
    async fn over(socket: Socket) -> Result<Self> {
        Self::start(move || Client::with_transport(socket)).await
    }
}

impl<T: Transport + Send + 'static> AsyncClient<T> {
    /// Wraps a blocking client.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if no thread can be started.
    pub async fn new(client: Client<T>) -> Result<Self> {
        Self::start(move || Ok(client)).await
    }

    async fn start(open: impl FnOnce() -> Result<Client<T>> + Send + 'static) -> Result<Self> {
        let worker = Worker::start(open).await?;
        Ok(Self {
            worker: Arc::new(worker),
            time_limit: None,
        })
    }

    /// Returns a handle whose calls fail after `limit`, in the queue and in the kernel together.
    ///
    /// A call that is still queued then is removed and fails with [`ErrorKind::NotStarted`]. One
    /// that has started fails with [`ErrorKind::TimedOut`]; the kernel may still execute it, and
    /// later calls wait until it has.
    ///
    /// Without a limit, which is the default, a call waits as long as the kernel takes.
    ///
    /// # Panics
    ///
    /// Calls with a limit panic in a tokio runtime without its time driver
    /// (`tokio::runtime::Builder::enable_time`).
    #[must_use]
    pub fn with_time_limit(self, limit: Duration) -> Self {
        Self {
            time_limit: Some(limit),
            ..self
        }
    }

    /// Runs `work` on the worker thread in this call's turn: anything the blocking client does,
    /// as one step that no other call interrupts.
    ///
    /// ```no_run
    /// # async fn run(client: ipvs::AsyncClient) -> ipvs::Result<()> {
    /// let servers = client.with(|client| {
    ///     client.flush()?;
    ///     client.virtual_servers()
    /// }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `work`; [`ErrorKind::NotStarted`] and [`ErrorKind::TimedOut`].
    ///
    /// # Panics
    ///
    /// If `work` panics, so does the call that awaits it. The client stays usable.
    pub async fn with<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Client<T>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        self.run(Operation::Closure, Object::Table, work).await
    }

    async fn run<R: Send + 'static>(
        &self,
        operation: Operation,
        object: Object,
        work: impl FnOnce(&mut Client<T>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        match self.submit(work).await {
            Ok(result) => result,
            Err(lost) => Err(Error::new(operation, object, lost.into())),
        }
    }

    /// Queues `work` and waits for its result, at most as long as the time limit.
    async fn submit<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Client<T>) -> R + Send + 'static,
    ) -> std::result::Result<R, Lost> {
        let mut call = self.worker.submit(work)?;
        match self.time_limit {
            None => call.result().await,
            Some(limit) => match ::tokio::time::timeout(limit, call.result()).await {
                Ok(result) => result,
                Err(_) => call.give_up(),
            },
        }
    }

    /// See [`Client::apply`].
    ///
    /// If the call is lost to the time limit, every change has its error: with
    /// [`ErrorKind::TimedOut`] any of them may have been made.
    pub async fn apply(&self, changes: Vec<Change>) -> Outcomes {
        let changes: Arc<[Change]> = changes.into();
        let shared = Arc::clone(&changes);
        let applied = self.submit(move |client| client.apply(shared.iter()));
        applied.await.unwrap_or_else(|lost| {
            let error =
                |change: &Change| Err(Error::new(change.operation(), change.object(), lost.into()));
            Outcomes::from_results(changes.iter().map(error).collect())
        })
    }

    /// See [`Client::change`].
    pub fn change(&self, change: Change) -> impl Future<Output = Result<()>> + Send + '_ {
        let (operation, object) = (change.operation(), change.object());
        self.run(operation, object, move |client| client.change(change))
    }

    /// See [`Client::info`].
    pub async fn info(&self) -> Result<Info> {
        self.run(Operation::Info, Object::Table, Client::info).await
    }

    /// See [`Client::virtual_servers`].
    pub async fn virtual_servers(&self) -> Result<Vec<VirtualServerEntry>> {
        let operation = Operation::ListVirtualServers;
        self.run(operation, Object::Table, Client::virtual_servers)
            .await
    }

    /// See [`Client::virtual_server`].
    pub async fn virtual_server(&self, key: &VirtualServerKey) -> Result<VirtualServerEntry> {
        let (operation, key) = (Operation::GetVirtualServer, *key);
        let work = move |client: &mut Client<T>| client.virtual_server(&key);
        self.run(operation, Object::VirtualServer(key), work).await
    }

    /// See [`Client::real_servers`].
    pub async fn real_servers(&self, key: &VirtualServerKey) -> Result<Vec<RealServerEntry>> {
        let (operation, key) = (Operation::ListRealServers, *key);
        let work = move |client: &mut Client<T>| client.real_servers(&key);
        self.run(operation, Object::VirtualServer(key), work).await
    }

    /// See [`Client::table`].
    pub async fn table(&self) -> Result<Vec<TableEntry>> {
        let operation = Operation::ListVirtualServers;
        self.run(operation, Object::Table, Client::table).await
    }

    /// See [`Client::plan`]. Runs as one step: no other call of this client comes between the
    /// listings.
    pub async fn plan(
        &self,
        wanted: Vec<Wanted>,
        owned: impl FnMut(&VirtualServerEntry) -> bool + Send + 'static,
    ) -> Result<Plan> {
        let work = move |client: &mut Client<T>| client.plan(&wanted, owned);
        self.run(Operation::ListVirtualServers, Object::Table, work)
            .await
    }

    /// See [`Client::reconcile`]. Runs as one step: no other call of this client comes between
    /// the listings and the changes.
    pub async fn reconcile(
        &self,
        wanted: Vec<Wanted>,
        owned: impl FnMut(&VirtualServerEntry) -> bool + Send + 'static,
    ) -> Result<(Plan, Outcomes)> {
        let work = move |client: &mut Client<T>| client.reconcile(&wanted, owned);
        self.run(Operation::ListVirtualServers, Object::Table, work)
            .await
    }

    /// See [`Client::add_or_update_virtual_server`].
    pub async fn add_or_update_virtual_server(&self, server: &VirtualServer) -> Result<()> {
        let (server, object) = (*server, Object::VirtualServer(server.key));
        let work = move |client: &mut Client<T>| client.add_or_update_virtual_server(&server);
        self.run(Operation::AddVirtualServer, object, work).await
    }

    /// See [`Client::add_or_update_real_server`].
    pub async fn add_or_update_real_server(
        &self,
        virtual_server: &VirtualServerKey,
        real_server: &RealServer,
    ) -> Result<()> {
        let (virtual_server, server) = (*virtual_server, *real_server);
        let object = Object::RealServer {
            virtual_server,
            real_server: server.key,
        };
        let work = move |client: &mut Client<T>| {
            client.add_or_update_real_server(&virtual_server, &server)
        };
        self.run(Operation::AddRealServer, object, work).await
    }

    /// See [`Client::probe_virtual_server`].
    pub async fn probe_virtual_server(&self, server: &VirtualServer) -> Result<VirtualServerEntry> {
        let (server, object) = (*server, Object::VirtualServer(server.key));
        let work = move |client: &mut Client<T>| client.probe_virtual_server(&server);
        self.run(Operation::AddVirtualServer, object, work).await
    }

    /// See [`Client::timeouts`].
    pub async fn timeouts(&self) -> Result<TimeoutsEntry> {
        self.run(Operation::GetTimeouts, Object::Table, Client::timeouts)
            .await
    }

    /// See [`Client::sync_daemons`].
    pub async fn sync_daemons(&self) -> Result<Vec<SyncDaemonEntry>> {
        let operation = Operation::ListSyncDaemons;
        self.run(operation, Object::Table, Client::sync_daemons)
            .await
    }

    /// See [`Client::add_virtual_server`].
    pub async fn add_virtual_server(&self, server: &VirtualServer) -> Result<()> {
        self.change(Change::AddVirtualServer(*server)).await
    }

    /// See [`Client::update_virtual_server`].
    pub async fn update_virtual_server(&self, server: &VirtualServer) -> Result<()> {
        self.change(Change::UpdateVirtualServer(*server)).await
    }

    /// See [`Client::delete_virtual_server`].
    pub async fn delete_virtual_server(&self, key: &VirtualServerKey) -> Result<()> {
        self.change(Change::DeleteVirtualServer(*key)).await
    }

    /// See [`Client::add_real_server`].
    pub async fn add_real_server(
        &self,
        virtual_server: &VirtualServerKey,
        real_server: &RealServer,
    ) -> Result<()> {
        let (virtual_server, real_server) = (*virtual_server, *real_server);
        self.change(Change::AddRealServer {
            virtual_server,
            real_server,
        })
        .await
    }

    /// See [`Client::update_real_server`].
    pub async fn update_real_server(
        &self,
        virtual_server: &VirtualServerKey,
        real_server: &RealServer,
    ) -> Result<()> {
        let (virtual_server, real_server) = (*virtual_server, *real_server);
        self.change(Change::UpdateRealServer {
            virtual_server,
            real_server,
        })
        .await
    }

    /// See [`Client::delete_real_server`].
    pub async fn delete_real_server(
        &self,
        virtual_server: &VirtualServerKey,
        real_server: &RealServerKey,
    ) -> Result<()> {
        let (virtual_server, real_server) = (*virtual_server, *real_server);
        self.change(Change::DeleteRealServer {
            virtual_server,
            real_server,
        })
        .await
    }

    /// See [`Client::zero_statistics`].
    pub async fn zero_statistics(&self, key: Option<&VirtualServerKey>) -> Result<()> {
        self.change(Change::ZeroStatistics(key.copied())).await
    }

    /// See [`Client::flush`].
    pub async fn flush(&self) -> Result<()> {
        self.change(Change::Flush).await
    }

    /// See [`Client::set_timeouts`].
    pub async fn set_timeouts(&self, timeouts: &Timeouts) -> Result<()> {
        self.change(Change::SetTimeouts(*timeouts)).await
    }

    /// See [`Client::start_sync_daemon`].
    pub async fn start_sync_daemon(&self, daemon: &SyncDaemon) -> Result<()> {
        self.change(Change::StartSyncDaemon(*daemon)).await
    }

    /// See [`Client::stop_sync_daemon`].
    pub async fn stop_sync_daemon(&self, role: SyncRole) -> Result<()> {
        self.change(Change::StopSyncDaemon(role)).await
    }

    /// Replaces the connection by a new one, also while a call hangs in the kernel.
    ///
    /// Queued calls then run on the new connection. A call that is running is abandoned: nothing
    /// interrupts it, its future still waits for it, and it may take effect after later calls.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`]: the transport does not support it ([`Transport::reopen`]), the socket
    /// cannot be opened, or a call abandoned earlier still hangs ([`io::ErrorKind::ResourceBusy`]).
    /// [`ErrorKind::TimedOut`] if opening exceeds the time limit.
    pub async fn reopen(&self) -> Result<()> {
        let replaced = self.worker.replace();
        match self.time_limit {
            None => replaced.await,
            Some(limit) => ::tokio::time::timeout(limit, replaced)
                .await
                .unwrap_or_else(|_| {
                    let kind = ErrorKind::TimedOut;
                    Err(Error::new(Operation::Open, Object::Table, kind))
                }),
        }
    }

    /// See [`Client::counters`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotStarted`] and [`ErrorKind::TimedOut`].
    pub async fn counters(&self) -> Result<Counters> {
        let work = |client: &mut Client<T>| Ok(client.counters());
        self.run(Operation::Counters, Object::Table, work).await
    }
}

impl From<Lost> for ErrorKind {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::NotStarted => Self::NotStarted,
            Lost::Unfinished => Self::TimedOut,
        }
    }
}
