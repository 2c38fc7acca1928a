//! The limit of open connections, and which one is closed at the limit.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};

/// Maximum number of connections.
const LIMIT: usize = 256;

/// The open connections of a server.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<Open>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// By number: oldest first.
    clients: BTreeMap<u64, Client>,
}

#[derive(Debug)]
struct Client {
    peer: IpAddr,
    requests: Arc<AtomicU32>,
    /// `None` until its task is known, right after admission.
    task: Option<AbortHandle>,
}

/// The number of requests on a connection. Dropping it reports the end of the connection.
#[derive(Debug)]
pub(crate) struct Requests {
    number: u64,
    requests: Arc<AtomicU32>,
    connections: Arc<Connections>,
}

impl Requests {
    pub(crate) fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.connections
            .with(|open| open.clients.remove(&self.number));
        self.connections.closed.notify_all();
    }
}

impl Connections {
    fn with<T>(&self, f: impl FnOnce(&mut Open) -> T) -> T {
        f(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Admits a connection, and closes another one at the limit.
    pub(crate) fn admit(
        self: &Arc<Self>,
        peer: IpAddr,
        serve: impl FnOnce(Requests) -> JoinHandle<()>,
    ) {
        let requests = Arc::<AtomicU32>::default();
        let (number, victim) = self.with(|open| {
            let number = open.next;
            open.next += 1;
            let client = Client {
                peer: network(peer),
                requests: Arc::clone(&requests),
                task: None,
            };
            open.clients.insert(number, client);
            let victim = (open.clients.len() > LIMIT).then(|| open.victim(number));
            (
                number,
                victim
                    .flatten()
                    .and_then(|number| open.clients.remove(&number)),
            )
        });
        if let Some(task) = victim.and_then(|client| client.task) {
            task.abort();
        }
        let task = serve(Requests {
            number,
            requests,
            connections: Arc::clone(self),
        });
        self.with(|open| {
            if let Some(client) = open.clients.get_mut(&number) {
                client.task = Some(task.abort_handle());
            }
        });
    }

    /// Waits up to this long for all connections to end.
    pub(crate) fn wait_until_none(&self, limit: Duration) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self
            .closed
            .wait_timeout_while(open, limit, |open| !open.clients.is_empty());
    }
}

impl Open {
    /// The connection to close for a new one: of the peer with the most connections, the oldest one
    /// without a second request. So many connections from one address cost that address its own,
    /// and a scraper that sends request after request keeps its connection.
    fn victim(&self, newcomer: u64) -> Option<u64> {
        let mut counts = HashMap::<IpAddr, usize>::new();
        for client in self.clients.values() {
            *counts.entry(client.peer).or_default() += 1;
        }
        let others = self
            .clients
            .iter()
            .filter(|(number, _)| **number != newcomer);
        let rank = |(number, client): &(&u64, &Client)| {
            let comes_again = client.requests.load(Ordering::Relaxed) > 1;
            let count = counts.get(&client.peer).copied().unwrap_or_default();
            (std::cmp::Reverse(count), comes_again, **number)
        };
        others.min_by_key(rank).map(|(number, _)| *number)
    }
}

/// What counts as one peer: in IPv6 a /64, because one host can use all its addresses.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(peers: impl IntoIterator<Item = (u8, u32)>) -> Open {
        let mut open = Open::default();
        for (number, (peer, requests)) in (0..).zip(peers) {
            let client = Client {
                peer: [192, 0, 2, peer].into(),
                requests: Arc::new(requests.into()),
                task: None,
            };
            open.clients.insert(number, client);
        }
        open
    }

    #[test]
    fn a_crowd_from_one_address_costs_its_own_connections() {
        // Prometheus (1) connects first, then a peer with many connections (2), then another (3).
        let crowd = open([(1, 1), (2, 1), (2, 0), (2, 0), (3, 0)]);
        assert_eq!(crowd.victim(4), Some(1));
        // A new connection of peer 2 costs no other peer a connection either.
        let crowd = open([(1, 1), (2, 1), (2, 0)]);
        assert_eq!(crowd.victim(2), Some(1));
    }

    #[test]
    fn a_connection_with_a_second_request_stays() {
        let local = open([(1, 7), (1, 1), (1, 1), (1, 0)]);
        assert_eq!(local.victim(3), Some(1));
    }

    #[test]
    fn a_host_with_many_ipv6_addresses_is_one_peer() {
        let [a, b] = ["2001:db8::1", "2001:db8::2:3"].map(|text| text.parse().unwrap());
        assert_eq!(network(a), network(b));
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(network(mapped), IpAddr::from([192, 0, 2, 1]));
    }
}
