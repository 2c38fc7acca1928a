//! Chooses the endpoint of a connection.

use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use foldhash::fast::FixedState;
use ipvs::Scheduler;

/// How endpoints are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    RoundRobin,
    Weighted,
    /// Fewest connections; whether in proportion to the weight.
    Least {
        by_weight: bool,
    },
    /// An idle endpoint, or else as `Least`.
    NeverQueue,
    /// By a hash of the client's address.
    Hash,
    /// The highest weight; with `overflow`, until it has as many connections as its weight.
    Failover {
        overflow: bool,
    },
}

impl From<Scheduler> for Method {
    fn from(scheduler: Scheduler) -> Self {
        match scheduler {
            Scheduler::WeightedRoundRobin => Self::Weighted,
            Scheduler::LeastConnection => Self::Least { by_weight: false },
            Scheduler::WeightedLeastConnection
            | Scheduler::ShortestExpectedDelay
            | Scheduler::RandomTwosChoice => Self::Least { by_weight: true },
            Scheduler::NeverQueue => Self::NeverQueue,
            Scheduler::SourceHash | Scheduler::MaglevHash => Self::Hash,
            Scheduler::WeightedFailover => Self::Failover { overflow: false },
            Scheduler::WeightedOverflow => Self::Failover { overflow: true },
            _ => Self::RoundRobin,
        }
    }
}

/// Chooses among the endpoints of a frontend.
#[derive(Debug)]
pub(super) struct Chooser {
    method: Method,
    endpoints: Vec<(SocketAddr, u16)>,
    /// Whose turn it is.
    next: AtomicUsize,
    /// What each endpoint is owed, in smooth weighted round robin.
    owed: Mutex<Vec<i64>>,
}

impl Chooser {
    /// A chooser among endpoints with weights; `first` is the one that begins.
    pub(super) fn new(
        scheduler: Scheduler,
        endpoints: Vec<(SocketAddr, u16)>,
        first: usize,
    ) -> Self {
        let owed = Mutex::new(vec![0; endpoints.len()]);
        Self {
            method: scheduler.into(),
            endpoints,
            next: AtomicUsize::new(first),
            owed,
        }
    }

    /// The index of an endpoint for a client, among those that are `usable`. `load` is the number of
    /// an endpoint's connections.
    pub(super) fn choose(
        &self,
        client: IpAddr,
        load: impl Fn(usize) -> usize,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let count = self.endpoints.len();
        // The next one begins, so that equals take turns.
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let order = (0..count).map(|step| turn.wrapping_add(step) % count);
        let mut candidates = order.filter(|at| usable(*at));
        match self.method {
            Method::RoundRobin => candidates.next(),
            Method::Weighted => self.owed_most(candidates),
            Method::Least { by_weight } => {
                candidates.min_by_key(|at| self.burden(load(*at), *at, by_weight))
            }
            Method::NeverQueue => candidates.min_by_key(|at| {
                let load = load(*at);
                (load > 0, self.burden(load, *at, true))
            }),
            Method::Hash => candidates.min_by(|one, other| {
                let (one, other) = (self.distance(client, *one), self.distance(client, *other));
                one.total_cmp(&other)
            }),
            Method::Failover { overflow } => candidates.max_by_key(|at| {
                let weight = self.weight(*at);
                (!overflow || load(*at) < usize::from(weight), weight)
            }),
        }
    }

    /// The weight of an endpoint.
    pub(super) fn weight(&self, at: usize) -> u16 {
        self.endpoints.get(at).map_or(1, |(_, weight)| *weight)
    }

    /// Connections in proportion to the weight, with one more.
    fn burden(&self, load: usize, at: usize, by_weight: bool) -> u64 {
        let weight = if by_weight { self.weight(at) } else { 1 };
        let load = u64::try_from(load).unwrap_or(u64::MAX >> 17);
        ((load + 1) << 16) / u64::from(weight.max(1))
    }

    /// Smooth weighted round robin: each is owed its weight more, and who is owed most pays for all.
    fn owed_most(&self, candidates: impl Iterator<Item = usize>) -> Option<usize> {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut sum, mut most) = (0, None::<(usize, i64)>);
        for at in candidates {
            let weight = i64::from(self.weight(at));
            let Some(owed) = owed.get_mut(at) else {
                continue;
            };
            *owed += weight;
            sum += weight;
            if most.is_none_or(|(_, most)| *owed > most) {
                most = Some((at, *owed));
            }
        }
        let (at, _) = most?;
        if let Some(owed) = owed.get_mut(at) {
            *owed -= sum;
        }
        Some(at)
    }

    /// How far an endpoint is from a client: rendezvous hashing, in which few clients move when an
    /// endpoint comes or goes.
    #[expect(clippy::cast_precision_loss, reason = "it stays in order")]
    fn distance(&self, client: IpAddr, at: usize) -> f64 {
        let Some((address, weight)) = self.endpoints.get(at) else {
            return f64::INFINITY;
        };
        let hash = FixedState::default().hash_one(Both(client, *address));
        let part = ((hash >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        -part.ln() / f64::from((*weight).max(1))
    }
}

#[derive(Hash)]
struct Both(IpAddr, SocketAddr);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn endpoints(weights: &[u16]) -> Vec<(SocketAddr, u16)> {
        let numbered = (0u8..).zip(weights);
        let endpoint = |(n, weight): (u8, &u16)| (([10, 0, 0, n], 80).into(), *weight);
        numbered.map(endpoint).collect()
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn shares(scheduler: Scheduler, weights: &[u16], rounds: usize) -> Vec<usize> {
        let chooser = Chooser::new(scheduler, endpoints(weights), 0);
        let load = RefCell::new(vec![0; weights.len()]);
        for _ in 0..rounds {
            let at = chooser.choose(CLIENT, |at| load.borrow()[at], |_| true);
            load.borrow_mut()[at.unwrap()] += 1;
        }
        load.into_inner()
    }

    #[test]
    fn shares_follow_turns_weights_and_load() {
        use Scheduler as S;
        assert_eq!(shares(S::RoundRobin, &[5, 1, 1], 9), [3, 3, 3]);
        assert_eq!(shares(S::WeightedRoundRobin, &[5, 1, 3], 18), [10, 2, 6]);
        assert_eq!(shares(S::LeastConnection, &[5, 1, 1], 9), [3, 3, 3]);
        assert_eq!(
            shares(S::WeightedLeastConnection, &[4, 1, 1], 12),
            [8, 2, 2]
        );
        assert_eq!(shares(S::NeverQueue, &[9, 1, 1], 3), [1, 1, 1]);
        assert_eq!(shares(S::WeightedFailover, &[1, 9, 2], 5), [0, 5, 0]);
        assert_eq!(shares(S::WeightedOverflow, &[1, 3, 2], 6), [1, 3, 2]);
    }

    #[test]
    fn a_hash_keeps_most_clients_when_an_endpoint_goes() {
        let all = Chooser::new(Scheduler::MaglevHash, endpoints(&[1; 5]), 0);
        let mut moved = 0;
        let mut counts = BTreeMap::<_, u32>::new();
        for n in 0..500u32 {
            let client = IpAddr::V4(n.to_be_bytes().into());
            let before = all.choose(client, |_| 0, |_| true).unwrap();
            assert_eq!(all.choose(client, |_| 7, |_| true), Some(before));
            let after = all.choose(client, |_| 0, |at| at != 2).unwrap();
            moved += u32::from(before != 2 && after != before);
            *counts.entry(before).or_default() += 1;
        }
        assert_eq!(moved, 0);
        assert!(
            counts.values().all(|count| (60..140).contains(count)),
            "{counts:?}"
        );
    }

    proptest! {
        /// Whatever the scheduler, each endpoint is tried once, and then none.
        #[test]
        fn every_usable_endpoint_is_found_once(
            scheduler in 0..14usize,
            weights in proptest::collection::vec(1..9u16, 0..9),
            first in any::<usize>(),
        ) {
            let scheduler = Scheduler::known().nth(scheduler).unwrap();
            let chooser = Chooser::new(scheduler, endpoints(&weights), first);
            let mut tried = BTreeSet::new();
            while let Some(at) = chooser.choose(CLIENT, |at| at, |at| !tried.contains(&at)) {
                prop_assert!(tried.insert(at));
            }
            prop_assert_eq!(tried.len(), weights.len());
        }
    }
}
