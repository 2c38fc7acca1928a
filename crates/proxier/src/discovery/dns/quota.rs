//! Limits for all clients together, and for each of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A number of places that clients share.
#[derive(Debug)]
pub(super) struct Quota {
    /// Limit of all places.
    all: usize,
    /// Limit of the places of one client.
    of_one: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A place; free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    quota: Arc<Quota>,
    client: IpAddr,
}

impl Quota {
    pub(super) fn new(all: usize, of_one: usize) -> Arc<Self> {
        Arc::new(Self {
            all,
            of_one,
            taken: Mutex::default(),
        })
    }

    /// A place for a client. `None` if all are taken, or as many by this client as it may take.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let client = network(client);
        let mut taken = self.taken();
        let own = taken.by_client.get(&client).copied().unwrap_or_default();
        if taken.all >= self.all || own >= self.of_one {
            return None;
        }
        taken.all += 1;
        taken.by_client.insert(client, own + 1);
        Some(Place {
            quota: Arc::clone(self),
            client,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.quota.taken();
        taken.all -= 1;
        if let Some(own) = taken.by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

/// What counts as one client: in IPv6 a /64, because one host can use all its addresses.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_client_leaves_places_to_others() {
        let quota = Quota::new(3, 2);
        let greedy: Vec<_> = (0..5).filter_map(|_| quota.take(ip("10.0.0.1"))).collect();
        assert_eq!(greedy.len(), 2);
        // The same client in another notation.
        assert!(quota.take(ip("::ffff:10.0.0.1")).is_none());
        let other = quota.take(ip("10.0.0.2")).unwrap();
        assert!(quota.take(ip("10.0.0.3")).is_none(), "all are taken");
        drop(greedy);
        assert!(quota.take(ip("10.0.0.1")).is_some());
        drop(other);
        assert_eq!(quota.taken().all, 0);
        assert!(quota.taken().by_client.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let quota = Quota::new(9, 1);
        let _kept = quota.take(ip("2001:db8::1")).unwrap();
        assert!(quota.take(ip("2001:db8::ffff:2")).is_none());
        assert!(quota.take(ip("2001:db8:0:1::1")).is_some());
    }
}
