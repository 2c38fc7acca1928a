//! The kernel's IPVS in memory, for tests that have no kernel with IPVS and no privileges.
//!
//! A [`FakeKernel`] speaks netlink: a client over it runs all of this crate's own code but the
//! socket. It answers as Linux does, and one test suite runs on both, so that they do not drift
//! apart.

mod socket;
mod table;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use socket::FakeSocket;

use crate::{Client, Connections, RealServerKey, Result, Scheduler, Statistics, VirtualServerKey};
use table::Table;

/// A client of a [`FakeKernel`].
pub type FakeClient = Client<FakeSocket>;

/// The kernel's IPVS in memory. Clones are the same kernel.
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
    /// The family's number; `None` without IPVS.
    family: Option<u16>,
    /// What is to go wrong with the next requests, one by one.
    faults: VecDeque<Option<Fault>>,
    /// How many listings are still to be told that the table changed under them.
    interruptions: u32,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It fails.
    Errno(i32),
    /// It is carried out, and the reply is lost.
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

    /// A client of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if it is one without IPVS.
    pub fn client(&self) -> Result<FakeClient> {
        Client::with_transport(self.socket())
    }

    /// A socket connected to it, for a transport of one's own around it.
    pub fn socket(&self) -> FakeSocket {
        FakeSocket::new(self.clone())
    }

    /// Lets a request fail with this errno: with 1 the next one that any client sends, with 2
    /// the one after it. Each change of a batch is a request.
    pub fn fail_request(&self, nth: usize, errno: i32) {
        self.fault(nth, Fault::Errno(errno));
    }

    /// Carries a request out and loses the reply to it and to what follows in its datagram.
    pub fn lose_reply(&self, nth: usize) {
        self.fault(nth, Fault::LostReply);
    }

    /// Tells the next listings that the table changed under them.
    pub fn interrupt_listings(&self, count: u32) {
        self.state().interruptions = count;
    }

    /// Unloads the module and loads it again: an empty table, another family number.
    pub fn reload(&self) {
        let mut state = self.state();
        state.table = Table::default();
        state.family = state.family.map(|family| family + 1);
    }

    /// Adds a scheduler that this crate does not know.
    pub fn add_scheduler(&self, scheduler: Scheduler) {
        self.state().table.schedulers.insert(scheduler);
    }

    /// Says how many connections a real server has. Without effect if it does not exist.
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

    /// Says what a virtual server has carried. Without effect if it does not exist.
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

    /// A test that panicked elsewhere says enough by itself.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
