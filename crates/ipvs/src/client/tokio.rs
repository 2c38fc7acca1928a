//! The client for tokio.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Client, Counters, Outcomes, Socket, Transport};
use crate::{
    Change, Info, RealServerEntry, Result, SyncDaemon, Timeouts, VirtualServerEntry,
    VirtualServerKey,
};

/// A [`Client`] for tokio. Clones share it, and take turns.
///
/// The kernel carries a request out inside `sendmsg`, where it may wait: for a mutex, for an RCU
/// period, for a module. A socket that does not block does not help against that, so each call
/// runs on tokio's threads for blocking work. One that has begun is carried out to its end even
/// if its future is dropped.
///
/// ```no_run
/// # async fn run() -> ipvs::Result<()> {
/// use ipvs::{AsyncClient, Change, Client, VirtualServer, VirtualServerKey};
///
/// let client = AsyncClient::new(Client::open()?);
/// let web = VirtualServerKey::tcp(([10, 96, 0, 1], 80).into());
/// client.change(Change::AddVirtualServer(VirtualServer::new(web))).await?;
/// println!("{} virtual servers", client.virtual_servers().await?.len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncClient<T = Socket>(Arc<Mutex<Client<T>>>);

impl<T> Clone for AsyncClient<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Transport + Send + 'static> AsyncClient<T> {
    /// Makes it of a client.
    pub fn new(client: Client<T>) -> Self {
        Self(Arc::new(Mutex::new(client)))
    }

    /// Runs `work`, anything the blocking client can do.
    ///
    /// ```no_run
    /// # async fn run(client: ipvs::AsyncClient) -> ipvs::Result<()> {
    /// client.with(|client| client.flush()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn with<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Client<T>) -> R + Send + 'static,
    ) -> R {
        let client = Arc::clone(&self.0);
        let run = move || work(&mut client.lock().unwrap_or_else(PoisonError::into_inner));
        match ::tokio::task::spawn_blocking(run).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that is shutting down cancels it, and it takes this future along.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// As [`Client::apply`].
    pub async fn apply(&self, changes: Vec<Change>) -> Outcomes {
        self.with(move |client| client.apply(&changes)).await
    }

    /// As [`Client::change`].
    pub async fn change(&self, change: Change) -> Result<()> {
        self.with(move |client| client.change(change)).await
    }

    /// As [`Client::info`].
    pub async fn info(&self) -> Result<Info> {
        self.with(Client::info).await
    }

    /// As [`Client::virtual_servers`].
    pub async fn virtual_servers(&self) -> Result<Vec<VirtualServerEntry>> {
        self.with(Client::virtual_servers).await
    }

    /// As [`Client::virtual_server`].
    pub async fn virtual_server(&self, key: VirtualServerKey) -> Result<VirtualServerEntry> {
        self.with(move |client| client.virtual_server(&key)).await
    }

    /// As [`Client::real_servers`].
    pub async fn real_servers(&self, key: VirtualServerKey) -> Result<Vec<RealServerEntry>> {
        self.with(move |client| client.real_servers(&key)).await
    }

    /// As [`Client::timeouts`].
    pub async fn timeouts(&self) -> Result<Timeouts> {
        self.with(Client::timeouts).await
    }

    /// As [`Client::sync_daemons`].
    pub async fn sync_daemons(&self) -> Result<Vec<SyncDaemon>> {
        self.with(Client::sync_daemons).await
    }

    /// As [`Client::counters`].
    pub async fn counters(&self) -> Counters {
        self.with(|client| client.counters()).await
    }
}
