//! Entrances for fuzz targets: what a server sends and what a kubeconfig says, without a connection.
//!
//! Not part of the API: it changes without notice.

use std::mem;
use std::sync::{Mutex, PoisonError};

use super::access::{Access, AccessError, check_text};
use super::backoff::Timing;
use super::client::ApiClients;
use super::encoding::Encoding;
use super::error::Failure;
use super::kind::{EndpointSlices, ServiceCidrs, Services, ThisNode};
use super::list_watch::{ListWatch, Shared};
use super::state::States;
use crate::escaped::Chain;
use crate::source::{Extent, Reading};

/// A watched kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Services,
    EndpointSlices,
    Node,
    ServiceCidrs,
}

/// A client that got answers, each in the given pieces.
pub struct Client<'a> {
    encoding: Encoding,
    services: ListWatch<'a, Services>,
    slices: ListWatch<'a, EndpointSlices>,
    node: ListWatch<'a, ThisNode>,
    cidrs: ListWatch<'a, ServiceCidrs>,
    readings: &'a Mutex<Vec<Reading>>,
}

/// Runs `body` with a client for the node `node-a`.
pub fn client<T>(encoding: Encoding, body: impl FnOnce(&mut Client<'_>) -> T) -> T {
    let readings = Mutex::new(Vec::new());
    let states = States::new(&[]);
    let timing = Timing::default();
    let clients = ApiClients::new(Access::default(), timing.answer, states.clone());
    let shared = Shared {
        clients: &clients,
        timing: &timing,
        states: &states,
        deliver: &|reading| lock(&readings).push(reading),
    };
    let mut client = Client {
        encoding,
        services: ListWatch::new(Services(Extent::Served), &shared, None),
        slices: ListWatch::new(EndpointSlices(Extent::Served), &shared, None),
        node: ListWatch::new(ThisNode::new("node-a"), &shared, None),
        cidrs: ListWatch::new(ServiceCidrs::default(), &shared, None),
        readings: &readings,
    };
    body(&mut client)
}

impl Client<'_> {
    /// A list of a kind, in one page.
    ///
    /// # Errors
    ///
    /// As the log would show it.
    pub fn list<'p>(
        &mut self,
        kind: Kind,
        pieces: impl Iterator<Item = &'p [u8]>,
    ) -> Result<(), String> {
        let encoding = self.encoding;
        text(match kind {
            Kind::Services => self.services.replay_list(encoding, pieces),
            Kind::EndpointSlices => self.slices.replay_list(encoding, pieces),
            Kind::Node => self.node.replay_list(encoding, pieces),
            Kind::ServiceCidrs => self.cidrs.replay_list(encoding, pieces),
        })
    }

    /// A watch of a kind; if `lists`, one that begins with all objects.
    ///
    /// # Errors
    ///
    /// As the log would show it.
    pub fn watch<'p>(
        &mut self,
        kind: Kind,
        pieces: impl Iterator<Item = &'p [u8]>,
        lists: bool,
    ) -> Result<(), String> {
        let encoding = self.encoding;
        text(match kind {
            Kind::Services => self.services.replay_watch(encoding, pieces, lists),
            Kind::EndpointSlices => self.slices.replay_watch(encoding, pieces, lists),
            Kind::Node => self.node.replay_watch(encoding, pieces, lists),
            Kind::ServiceCidrs => self.cidrs.replay_watch(encoding, pieces, lists),
        })
    }

    /// What was delivered since the last call.
    pub fn take(&self) -> Vec<Reading> {
        mem::take(&mut *lock(self.readings))
    }
}

/// Reads a kubeconfig as at a start, without running its plugin.
///
/// # Errors
///
/// If it cannot be used.
pub fn kubeconfig(text: &[u8]) -> Result<(), AccessError> {
    check_text(text)
}

fn text(result: Result<(), Failure>) -> Result<(), String> {
    result.map_err(|failure| Chain(&failure).to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
