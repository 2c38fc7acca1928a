//! Counters of queries, and where the server listens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hickory_proto::op::ResponseCode;

use crate::discovery::DnsState;

/// The names of the response codes that are counted alone, as in the registry of DNS parameters.
const CODES: [(&str, ResponseCode); 6] = [
    ("NOERROR", ResponseCode::NoError),
    ("FORMERR", ResponseCode::FormErr),
    ("SERVFAIL", ResponseCode::ServFail),
    ("NXDOMAIN", ResponseCode::NXDomain),
    ("NOTIMP", ResponseCode::NotImp),
    ("REFUSED", ResponseCode::Refused),
];

/// Counters that only grow, and the state of each address.
#[derive(Debug, Default)]
pub(super) struct Counters {
    addresses: Mutex<BTreeMap<SocketAddr, Option<String>>>,
    by_code: [AtomicU64; CODES.len()],
    other: AtomicU64,
    forward_failures: AtomicU64,
    refused_connections: AtomicU64,
    restarts: AtomicU64,
}

impl Counters {
    pub(super) fn answered(&self, code: ResponseCode) {
        let mut pairs = self.by_code.iter().zip(CODES);
        let found = pairs.find(|(_, (_, known))| *known == code);
        let counter = found.map_or(&self.other, |(counter, _)| counter);
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn forward_failed(&self) {
        self.forward_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_refused(&self) {
        self.refused_connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn restarted(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Records whether an address is served.
    pub(super) fn listening(&self, address: SocketAddr, error: Option<String>) {
        self.addresses().insert(address, error);
    }

    /// Records that no address is served any more.
    pub(super) fn stopped(&self) {
        for error in self.addresses().values_mut() {
            error.get_or_insert_with(|| "the server has stopped".to_owned());
        }
    }

    fn addresses(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Option<String>>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self) -> DnsState {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let known = self.by_code.iter().zip(CODES);
        let known = known.map(|(counter, (name, _))| (name, load(counter)));
        DnsState {
            addresses: self.addresses().clone(),
            answers: known.chain([("other", load(&self.other))]).collect(),
            forward_failures: load(&self.forward_failures),
            refused_connections: load(&self.refused_connections),
            restarts: load(&self.restarts),
        }
    }
}
