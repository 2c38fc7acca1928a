//! The kernel's IPVS in memory, for tests without IPVS and without privileges.
//!
//! A [`FakeKernel`] speaks netlink, so a client over it runs all code of this crate but the socket.
//! It replies like Linux in a network namespace with only `lo`, which is up. Two tests keep it so:
//! the conformance checks run on both, and `tests/differential.rs` makes random changes to both.

mod socket;
mod table;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use socket::FakeSocket;

use crate::{
    Client, Connections, RealServerEntry, RealServerKey, Result, Scheduler, Statistics,
    VirtualServerEntry, VirtualServerKey,
};
use table::Table;

/// A client of a [`FakeKernel`].
pub type FakeClient = Client<FakeSocket>;

/// The kernel's IPVS in memory. Clones share one state.
///
/// ```
/// use ipvs::{FakeKernel, VirtualServer};
///
/// let kernel = FakeKernel::new();
/// let mut client = kernel.client()?;
/// let server = VirtualServer::new("tcp 10.96.0.1:80".parse()?);
/// client.add_virtual_server(&server)?;
/// assert!(client.add_virtual_server(&server).is_err_and(|error| error.is_already_exists()));
///
/// kernel.fail_request(1, 12); // ENOMEM
/// assert_eq!(client.flush().map_err(|error| error.errno()), Err(Some(12)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct FakeKernel(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    table: Table,
    /// The family number; `None` without IPVS.
    family: Option<u16>,
    /// The faults of the next requests, in order.
    faults: VecDeque<Option<Fault>>,
    /// How many of the next listings report that the table has changed.
    interruptions: u32,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It fails.
    Errno(i32),
    /// It is executed, but the reply is lost.
    LostReply,
}

impl Default for State {
    fn default() -> Self {
        let (table, faults) = (Table::default(), VecDeque::new());
        Self {
            table,
            family: Some(FIRST_FAMILY),
            faults,
            interruptions: 0,
        }
    }
}

const FIRST_FAMILY: u16 = 30;

impl FakeKernel {
    /// A kernel with an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// A kernel without IPVS.
    pub fn without_ipvs() -> Self {
        let kernel = Self::new();
        kernel.state().family = None;
        kernel
    }

    /// Opens a client.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a kernel without IPVS.
    pub fn client(&self) -> Result<FakeClient> {
        Client::with_transport(self.socket())
    }

    /// Opens a socket, for a custom [`Transport`](crate::Transport) around it.
    pub fn socket(&self) -> FakeSocket {
        FakeSocket::new(self.clone())
    }

    /// Makes the `nth` request from now on fail with `errno`: 1 is the next request of any client.
    /// Each change of a batch is a request.
    pub fn fail_request(&self, nth: usize, errno: i32) {
        self.fault(nth, Fault::Errno(errno));
    }

    /// Executes the `nth` request from now on, but drops its reply and those of the requests after
    /// it in the same datagram.
    pub fn lose_reply(&self, nth: usize) {
        self.fault(nth, Fault::LostReply);
    }

    /// Makes the next `count` listings report that the table has changed.
    pub fn interrupt_listings(&self, count: u32) {
        self.state().interruptions = count;
    }

    /// The number of faults that have not happened.
    pub fn pending_faults(&self) -> usize {
        let state = self.state();
        let faults = state.faults.iter().flatten().count();
        faults + usize::from(state.interruptions > 0)
    }

    /// The virtual servers with their real servers, without a request.
    pub fn table(&self) -> Vec<(VirtualServerEntry, Vec<RealServerEntry>)> {
        let state = self.state();
        let servers = state.table.servers.values();
        servers
            .map(|server| (server.entry.clone(), server.real_servers.clone()))
            .collect()
    }

    /// Withdraws all faults that have not happened.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.interruptions = 0;
    }

    /// Reloads the module: the table is empty and the family number is another.
    pub fn reload(&self) {
        let mut state = self.state();
        state.table = Table::default();
        state.family = state.family.map(|family| family + 1);
    }

    /// Adds a scheduler that this crate does not know.
    pub fn add_scheduler(&self, scheduler: Scheduler) {
        self.state().table.schedulers.insert(scheduler);
    }

    /// Sets the connections of a real server. Does nothing if it does not exist.
    pub fn set_connections(
        &self,
        virtual_server: &VirtualServerKey,
        real_server: &RealServerKey,
        connections: Connections,
    ) {
        if let Some(entry) = self
            .state()
            .table
            .real_server_mut(virtual_server, real_server)
        {
            entry.connections = Some(connections);
        }
    }

    /// Sets the statistics of a virtual server. Does nothing if it does not exist.
    pub fn set_statistics(&self, virtual_server: &VirtualServerKey, stats: Statistics) {
        if let Some(server) = self.state().table.servers.get_mut(virtual_server) {
            server.entry.stats = Some(stats);
        }
    }

    fn fault(&self, nth: usize, fault: Fault) {
        let faults = &mut self.state().faults;
        let place = nth.saturating_sub(1);
        if faults.len() <= place {
            faults.resize(place + 1, None);
        }
        if let Some(slot) = faults.get_mut(place) {
            *slot = Some(fault);
        }
    }

    /// Ignores poisoning: the panic that caused it fails its own test.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
