//! Remembers the endpoints of clients (`sessionAffinity: ClientIP`).

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};

/// The most clients that all frontends remember together. Further clients get any endpoint until
/// some expire.
pub(super) const MOST_CLIENTS: usize = 262_144;

/// Time between two searches for expired clients while all frontends together are full.
const PURGE_PAUSE: Duration = Duration::from_secs(10);

/// From this number on, expired clients are looked for.
const FEW: usize = 1024;

/// The clients of one frontend, which lasts as long as it is served.
#[derive(Debug)]
pub(super) struct Affinity {
    clients: HashMap<IpAddr, (SocketAddr, Instant)>,
    /// The number of clients at which expired ones are removed.
    purge_at: usize,
    /// When they were removed last.
    purged: Option<Instant>,
}

impl Default for Affinity {
    fn default() -> Self {
        Self {
            clients: HashMap::new(),
            purge_at: FEW,
            purged: None,
        }
    }
}

impl Affinity {
    /// The endpoint of a client whose last connection began less than `timeout` ago.
    pub(super) fn endpoint(
        &self,
        client: IpAddr,
        timeout: Duration,
        now: Instant,
    ) -> Option<SocketAddr> {
        let (endpoint, last) = self.clients.get(&client)?;
        (now.saturating_duration_since(*last) < timeout).then_some(*endpoint)
    }

    /// Remembers a client's endpoint, if there is room; `total` counts the clients of all frontends.
    pub(super) fn remember(
        &mut self,
        (client, endpoint): (IpAddr, SocketAddr),
        timeout: Duration,
        now: Instant,
        total: &AtomicUsize,
    ) {
        if let Some(known) = self.clients.get_mut(&client) {
            *known = (endpoint, now);
            return;
        }
        let is_full = || total.load(Ordering::Relaxed) >= MOST_CLIENTS;
        if self.clients.len() >= self.purge_at || is_full() {
            let before = self.clients.len();
            // In proportion to what has been added since. A full table stays below its mark, so the
            // clock decides there.
            let waited = |at: Instant| now.saturating_duration_since(at) >= PURGE_PAUSE;
            if before >= self.purge_at || self.purged.is_none_or(waited) {
                self.purged = Some(now);
                let lasts = |last: &Instant| now.saturating_duration_since(*last) < timeout;
                self.clients.retain(|_, (_, last)| lasts(last));
                total.fetch_sub(before - self.clients.len(), Ordering::Relaxed);
                self.purge_at = FEW.max(2 * self.clients.len());
            }
            if is_full() {
                return;
            }
        }
        total.fetch_add(1, Ordering::Relaxed);
        self.clients.insert(client, (endpoint, now));
    }

    /// Forgets all clients.
    pub(super) fn clear(&mut self, total: &AtomicUsize) {
        total.fetch_sub(self.clients.len(), Ordering::Relaxed);
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn client(n: u32) -> IpAddr {
        IpAddr::V4(n.to_be_bytes().into())
    }

    #[test]
    fn a_client_is_known_until_its_timeout_after_its_last_connection() {
        let (mut affinity, total, now) = (Affinity::default(), AtomicUsize::new(0), Instant::now());
        let to = ([10, 0, 0, 1], 80).into();
        affinity.remember((client(1), to), TIMEOUT, now, &total);
        let at = |affinity: &Affinity, seconds| {
            affinity.endpoint(client(1), TIMEOUT, now + Duration::from_secs(seconds))
        };
        assert_eq!(at(&affinity, 59), Some(to));
        assert_eq!(at(&affinity, 60), None);
        let later = now + Duration::from_secs(30);
        affinity.remember((client(1), to), TIMEOUT, later, &total);
        assert_eq!(at(&affinity, 89), Some(to));
        assert_eq!(total.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_table_is_bounded_and_expired_clients_leave_it() {
        let (mut affinity, total, now) = (Affinity::default(), AtomicUsize::new(0), Instant::now());
        let to = ([10, 0, 0, 1], 80).into();
        let many = u32::try_from(MOST_CLIENTS).unwrap() + 10;
        for n in 0..many {
            affinity.remember((client(n), to), TIMEOUT, now, &total);
        }
        assert_eq!(affinity.clients.len(), MOST_CLIENTS);
        assert_eq!(total.load(Ordering::Relaxed), MOST_CLIENTS);
        // Another frontend has no room.
        let mut other = Affinity::default();
        other.remember((client(1), to), TIMEOUT, now, &total);
        assert_eq!(other.endpoint(client(1), TIMEOUT, now), None);
        // Nor has this one, until clients have expired.
        affinity.remember((client(many), to), TIMEOUT, now, &total);
        assert_eq!(affinity.endpoint(client(many), TIMEOUT, now), None);
        let later = now + TIMEOUT;
        affinity.remember((client(many), to), TIMEOUT, later, &total);
        assert_eq!(affinity.endpoint(client(many), TIMEOUT, later), Some(to));
        assert_eq!(total.load(Ordering::Relaxed), 1);
        affinity.clear(&total);
        assert_eq!(total.load(Ordering::Relaxed), 0);
        for n in 0..2000 {
            affinity.remember((client(n), to), TIMEOUT, now, &total);
        }
        let later = now + TIMEOUT;
        for n in 2000..4100 {
            affinity.remember((client(n), to), TIMEOUT, later, &total);
        }
        assert!(affinity.clients.len() < 3000, "{}", affinity.clients.len());
        assert_eq!(total.load(Ordering::Relaxed), affinity.clients.len());
    }
}
