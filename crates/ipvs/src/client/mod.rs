//! The client: each operation is a request to the kernel and its reply.

mod batch;
mod exchange;
mod probe;
#[cfg(feature = "client")]
mod socket;
mod table;
#[cfg(feature = "tokio")]
mod tokio;

use std::collections::HashSet;
use std::hash::Hash;
use std::slice;

pub use batch::Outcomes;
pub use exchange::{Counters, Transport};
#[cfg(feature = "client")]
pub use socket::Socket;
#[cfg(feature = "tokio")]
pub use tokio::AsyncClient;

use crate::error::errno;
use crate::wire::{DecodeError, Header, Message};
use crate::{
    Change, Error, ErrorKind, Info, Object, Operation, RealServer, RealServerEntry, RealServerKey,
    SyncDaemon, SyncDaemonEntry, SyncRole, Timeouts, TimeoutsEntry, VirtualServer,
    VirtualServerEntry, VirtualServerKey,
};
use exchange::{Exchange, Failure};

type Result<T, E = Error> = std::result::Result<T, E>;

/// How often a listing is tried when the table changes during it.
const LISTING_ATTEMPTS: u32 = 8;

/// A connection to the IPVS of one network namespace.
///
/// The kernel executes each request before the method returns. It reads a listing in several steps:
/// changes by other programs meanwhile can make it incomplete, so a table should have one writer.
///
/// ```no_run
/// use ipvs::{Client, RealServer, Scheduler, VirtualServer, VirtualServerKey};
///
/// let mut client = Client::open()?;
/// let web = VirtualServerKey::tcp("10.96.0.1:80".parse()?);
/// client.add_virtual_server(&VirtualServer::new(web).with_scheduler(Scheduler::SourceHash))?;
/// client.add_real_server(&web, &RealServer::new("10.244.1.7:8080".parse()?))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Each method lists the errors of its own. In addition, every method that sends a request can fail
/// with [`ErrorKind::PermissionDenied`], [`ErrorKind::Unsupported`] if the module was unloaded,
/// [`ErrorKind::AddressFamily`] on a machine without IPv6, [`ErrorKind::Malformed`],
/// [`ErrorKind::NoReply`] and [`ErrorKind::Io`].
#[cfg(feature = "client")]
#[derive(Debug)]
pub struct Client<T = Socket> {
    exchange: Exchange<T>,
}

/// A connection to the IPVS of one network namespace.
///
/// The kernel executes each request before the method returns.
#[cfg(not(feature = "client"))]
#[derive(Debug)]
pub struct Client<T> {
    exchange: Exchange<T>,
}

impl<T: Transport> Client<T> {
    /// A client over any transport.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if the kernel behind it has no IPVS.
    pub fn with_transport(transport: T) -> Result<Self> {
        let mut exchange = Exchange::new(transport);
        let resolved = exchange.resolve();
        resolved.map_err(|failure| failure.into_error(Operation::Open, Object::Table))?;
        Ok(Self { exchange })
    }

    /// Replaces the connection by a new one to the same kernel and network namespace.
    ///
    /// Listings do this themselves when the kernel refuses them with `EBUSY`, which means that an
    /// earlier listing on the same socket was not read to its end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the socket cannot be opened, or the transport does not support it.
    pub fn reopen(&mut self) -> Result<()> {
        let reopened = self.exchange.reopen();
        reopened.map_err(|failure| failure.into_error(Operation::Open, Object::Table))
    }

    #[cfg(feature = "tokio")]
    fn second_transport(&self) -> Option<T> {
        self.exchange.transport.reopen().ok()
    }

    /// What was sent so far.
    pub fn counters(&self) -> Counters {
        self.exchange.counters()
    }

    /// The kernel's IPVS version.
    ///
    /// # Errors
    ///
    /// Only those that every method can have, see [`Client`].
    pub fn info(&mut self) -> Result<Info> {
        self.get(
            Operation::Info,
            Object::Table,
            &Message::GetInfo,
            |message| match message {
                Message::Info(info) => Some(info),
                _ => None,
            },
        )
    }

    /// All virtual servers, by address and by firewall mark, in no particular order.
    ///
    /// One can be missing if another one was deleted meanwhile, by any program, on old kernels in
    /// any network namespace: see [kernel behaviour to know](crate#kernel-behaviour-to-know).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Interrupted`] if the table changed during every attempt.
    pub fn virtual_servers(&mut self) -> Result<Vec<VirtualServerEntry>> {
        let request = Message::GetVirtualServer(None);
        let take = |message| match message {
            Message::NewVirtualServer(entry) => Some(entry),
            _ => None,
        };
        let key = |entry: &VirtualServerEntry| entry.server.key;
        self.list(
            Operation::ListVirtualServers,
            Object::Table,
            &request,
            take,
            key,
        )
    }

    /// One virtual server.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it does not exist.
    pub fn virtual_server(&mut self, key: &VirtualServerKey) -> Result<VirtualServerEntry> {
        let request = Message::GetVirtualServer(Some(*key));
        let object = Object::VirtualServer(*key);
        self.get(
            Operation::GetVirtualServer,
            object,
            &request,
            |message| match message {
                Message::NewVirtualServer(entry) => Some(entry),
                _ => None,
            },
        )
    }

    /// The real servers of a virtual server, in the kernel's order: the last added first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if the virtual server does not exist; [`ErrorKind::Interrupted`]
    /// if its real servers changed during every attempt.
    pub fn real_servers(&mut self, key: &VirtualServerKey) -> Result<Vec<RealServerEntry>> {
        let operation = Operation::ListRealServers;
        let object = Object::VirtualServer(*key);
        let take = |message| match message {
            Message::NewRealServer(_, entry) => Some(entry),
            _ => None,
        };
        let name = |entry: &RealServerEntry| entry.server.key;
        let entries = self.list(
            operation,
            object,
            &Message::GetRealServers(*key),
            take,
            name,
        )?;
        if entries.is_empty() {
            // For a virtual server that does not exist the kernel returns an empty list too
            // (`ip_vs_genl_dump_dests`).
            self.virtual_server(key)?;
        }
        Ok(entries)
    }

    /// How long connections without traffic are kept.
    ///
    /// # Errors
    ///
    /// Only those that every method can have, see [`Client`].
    pub fn timeouts(&mut self) -> Result<TimeoutsEntry> {
        let (operation, request) = (Operation::GetTimeouts, Message::GetTimeouts);
        self.get(
            operation,
            Object::Table,
            &request,
            |message| match message {
                Message::SetTimeouts(entry) => Some(entry),
                _ => None,
            },
        )
    }

    /// The running sync daemons: at most one of each role.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Interrupted`] if they changed during every attempt.
    pub fn sync_daemons(&mut self) -> Result<Vec<SyncDaemonEntry>> {
        let take = |message| match message {
            Message::NewSyncDaemon(entry) => Some(entry),
            _ => None,
        };
        let request = Message::GetSyncDaemons;
        self.list(
            Operation::ListSyncDaemons,
            Object::Table,
            &request,
            take,
            |entry| entry.daemon.role,
        )
    }

    /// Adds a virtual server.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::UnknownScheduler`], [`ErrorKind::Invalid`].
    pub fn add_virtual_server(&mut self, server: &VirtualServer) -> Result<()> {
        self.change(Change::AddVirtualServer(*server))
    }

    /// Sets scheduler, flags, persistence, engine and tag of a virtual server, all at once.
    ///
    /// The key cannot be changed. Connections stay. A new persistence timeout applies to new
    /// clients only.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::UnknownScheduler`], [`ErrorKind::Invalid`].
    pub fn update_virtual_server(&mut self, server: &VirtualServer) -> Result<()> {
        self.change(Change::UpdateVirtualServer(*server))
    }

    /// Deletes a virtual server and its real servers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`].
    pub fn delete_virtual_server(&mut self, key: &VirtualServerKey) -> Result<()> {
        self.change(Change::DeleteVirtualServer(*key))
    }

    /// Adds a real server.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`]; [`ErrorKind::NotFound`] if the virtual server does not
    /// exist; [`ErrorKind::OutOfRange`]; [`ErrorKind::Rejected`].
    pub fn add_real_server(
        &mut self,
        virtual_server: &VirtualServerKey,
        real_server: &RealServer,
    ) -> Result<()> {
        let (virtual_server, real_server) = (*virtual_server, *real_server);
        self.change(Change::AddRealServer {
            virtual_server,
            real_server,
        })
    }

    /// Sets forwarding, weight and thresholds of a real server, all at once.
    ///
    /// The key cannot be changed. A new forwarding method applies to new connections.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it or the virtual server does not exist;
    /// [`ErrorKind::OutOfRange`]; [`ErrorKind::Rejected`].
    pub fn update_real_server(
        &mut self,
        virtual_server: &VirtualServerKey,
        real_server: &RealServer,
    ) -> Result<()> {
        let (virtual_server, real_server) = (*virtual_server, *real_server);
        self.change(Change::UpdateRealServer {
            virtual_server,
            real_server,
        })
    }

    /// Deletes a real server. To drain its connections first, set its weight to 0 and wait.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it or the virtual server does not exist.
    pub fn delete_real_server(
        &mut self,
        virtual_server: &VirtualServerKey,
        real_server: &RealServerKey,
    ) -> Result<()> {
        let (virtual_server, real_server) = (*virtual_server, *real_server);
        self.change(Change::DeleteRealServer {
            virtual_server,
            real_server,
        })
    }

    /// Zeroes the statistics of a virtual server and its real servers; `None`: of all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if the virtual server does not exist.
    pub fn zero_statistics(&mut self, key: Option<&VirtualServerKey>) -> Result<()> {
        self.change(Change::ZeroStatistics(key.copied()))
    }

    /// Deletes every virtual server of the network namespace, including those of other programs.
    ///
    /// # Errors
    ///
    /// Only those that every method can have, see [`Client`].
    pub fn flush(&mut self) -> Result<()> {
        self.change(Change::Flush)
    }

    /// Sets the timeouts that are `Some`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for 0, which would leave the value unchanged in the kernel.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) -> Result<()> {
        self.change(Change::SetTimeouts(*timeouts))
    }

    /// Starts a sync daemon.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] if one of this role is running; [`ErrorKind::Rejected`] for a
    /// group that is not multicast, or if a virtual server has real servers of the other
    /// address family; [`ErrorKind::Io`] with `ENODEV` for an interface that does not exist.
    pub fn start_sync_daemon(&mut self, daemon: &SyncDaemon) -> Result<()> {
        self.change(Change::StartSyncDaemon(*daemon))
    }

    /// Stops a sync daemon.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if none of this role is running.
    pub fn stop_sync_daemon(&mut self, role: SyncRole) -> Result<()> {
        self.change(Change::StopSyncDaemon(role))
    }

    /// Makes one change.
    ///
    /// # Errors
    ///
    /// Those of the method for this change: for `AddRealServer`, see
    /// [`add_real_server`](Self::add_real_server).
    pub fn change(&mut self, change: Change) -> Result<()> {
        let mut outcome = batch::check(&change);
        self.apply_batch(slice::from_ref(&change), slice::from_mut(&mut outcome));
        outcome
    }

    /// Requests one object.
    fn get<R>(
        &mut self,
        operation: Operation,
        object: Object,
        request: &Message,
        take: fn(Message) -> Option<R>,
    ) -> Result<R> {
        let mut found = None;
        self.exchange
            .request(request, 0, |message| {
                found = Some(expected(message, take)?);
                Ok(())
            })
            .map_err(|failure| failure.into_error(operation, object))?;
        found.ok_or_else(|| Error::new(operation, object, ErrorKind::NoReply))
    }

    /// Requests a list. The only trace of an addition during a dump is a duplicate: the kernel
    /// continues at an index and does not set `NLM_F_DUMP_INTR`.
    fn list<R, K: Eq + Hash>(
        &mut self,
        operation: Operation,
        object: Object,
        request: &Message,
        take: fn(Message) -> Option<R>,
        key: fn(&R) -> K,
    ) -> Result<Vec<R>> {
        let mut entries = Vec::new();
        let mut reopened = false;
        for _ in 0..LISTING_ATTEMPTS {
            entries.clear();
            let listed = self.exchange.request(request, Header::DUMP, |message| {
                entries.push(expected(message, take)?);
                Ok(())
            });
            match listed {
                Ok(()) if all_distinct(&entries, key) => return Ok(entries),
                Ok(()) | Err(Failure::Interrupted) => {}
                // An earlier dump was cut off by an error and still occupies the socket.
                Err(Failure::Kernel {
                    errno: errno::EBUSY,
                    ..
                }) if !reopened && self.exchange.reopen().is_ok() => reopened = true,
                Err(failure) => return Err(failure.into_error(operation, object)),
            }
        }
        Err(Error::new(operation, object, ErrorKind::Interrupted))
    }
}

fn expected<R>(message: Message, take: fn(Message) -> Option<R>) -> Result<R, DecodeError> {
    let command = message.command();
    take(message).ok_or(DecodeError::Command(command))
}

fn all_distinct<R, K: Eq + Hash>(entries: &[R], key: fn(&R) -> K) -> bool {
    // Most lists have a few real servers, for which a set costs more.
    if entries.len() <= 8 {
        let mut rest = entries.iter();
        return std::iter::from_fn(|| rest.next().map(|entry| (entry, rest.clone())))
            .all(|(entry, mut rest)| rest.all(|other| key(other) != key(entry)));
    }
    let mut seen = HashSet::with_capacity(entries.len());
    entries.iter().all(|entry| seen.insert(key(entry)))
}
