//! The limit of open connections, and which one is closed at the limit.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};

/// Maximum number of connections.
const LIMIT: usize = 256;
/// Maximum number of a peer's connections that a second request protects.
const PROTECTED: usize = LIMIT / 2;

/// The open connections of a server.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<Open>,
    closed: Condvar,
    /// The number of requests on all connections.
    requests: AtomicU64,
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
    requests: Arc<Count>,
    /// `None` until its task is known, right after admission.
    task: Option<AbortHandle>,
}

#[derive(Debug, Default)]
struct Count {
    requests: AtomicU32,
    /// The number of requests on all connections at the last one on this connection.
    last: AtomicU64,
}

impl Count {
    fn comes_again(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 1
    }
}

/// The number of requests on a connection. Dropping it reports the end of the connection.
#[derive(Debug)]
pub(crate) struct Requests {
    number: u64,
    requests: Arc<Count>,
    connections: Arc<Connections>,
}

impl Requests {
    pub(crate) fn count(&self) {
        let all = self.connections.requests.fetch_add(1, Ordering::Relaxed);
        self.requests.last.store(all, Ordering::Relaxed);
        self.requests.requests.fetch_add(1, Ordering::Relaxed);
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
        let requests = Arc::<Count>::default();
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
    /// and a scraper that sends request after request keeps its connection. If more than
    /// [`PROTECTED`] of them do, the one whose last request is the oldest is closed: otherwise idle
    /// connections with two requests would leave no place for new ones.
    fn victim(&self, newcomer: u64) -> Option<u64> {
        let mut counts = HashMap::<IpAddr, usize>::new();
        for client in self.clients.values() {
            *counts.entry(client.peer).or_default() += 1;
        }
        let others = || {
            let clients = self.clients.iter();
            clients.filter(|(number, _)| **number != newcomer)
        };
        let rank = |(number, client): &(&u64, &Client)| {
            let count = counts.get(&client.peer).copied().unwrap_or_default();
            let comes_again = client.requests.comes_again();
            (std::cmp::Reverse(count), comes_again, **number)
        };
        let (number, first) = others().min_by_key(rank)?;
        let protected = || {
            others()
                .filter(|(_, client)| client.peer == first.peer && client.requests.comes_again())
        };
        if protected().count() <= PROTECTED {
            return Some(*number);
        }
        let last = |(_, client): &(&u64, &Client)| client.requests.last.load(Ordering::Relaxed);
        protected().min_by_key(last).map(|(number, _)| *number)
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
                requests: Arc::new(Count {
                    requests: requests.into(),
                    last: AtomicU64::new(number),
                }),
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
    fn idle_connections_with_two_requests_do_not_crowd_out_new_ones() {
        let count = u64::try_from(PROTECTED).unwrap();
        let crowd = (0..count).map(|_| (1, 2));
        // A new connection is closed for the next one only while few others come again.
        let full = open(crowd.clone().chain([(1, 1), (1, 0)]));
        assert_eq!(full.victim(count + 1), Some(count));
        let fuller = open(crowd.chain([(1, 2), (1, 1), (1, 0)]));
        assert_eq!(fuller.victim(count + 2), Some(0));
        // The time of the last request counts, not that of the connection.
        fuller.clients[&0]
            .requests
            .last
            .store(1_000, Ordering::Relaxed);
        assert_eq!(fuller.victim(count + 2), Some(1));
    }

    #[test]
    fn a_host_with_many_ipv6_addresses_is_one_peer() {
        let [a, b] = ["2001:db8::1", "2001:db8::2:3"].map(|text| text.parse().unwrap());
        assert_eq!(network(a), network(b));
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(network(mapped), IpAddr::from([192, 0, 2, 1]));
    }
}
