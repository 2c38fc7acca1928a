//! What the sockets share: how a query is answered, and their limits.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_proto::op::ResponseCode;

use super::Config;
use super::answer::{self, Draft, Outcome, Rules, Transport};
use super::counts::Counters;
use super::name::reverse_zones;
use super::quota::Quota;
use super::upstream::{ForwardError, Upstream};
use super::zone::Zone;

/// Errors of a socket in a row, after which it is opened again.
pub(super) const MOST_FAILURES: u32 = 10;
/// How long to wait after an error.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// The longest query. Anything longer is cut off, and so malformed.
pub(super) const LONGEST_QUERY: usize = 4096;
/// Limit of TCP connections.
const CONNECTIONS: usize = 256;
/// Limit of TCP connections of one client; in IPv6 of one /64.
const CONNECTIONS_OF_ONE: usize = 32;

/// What all sockets share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) zone: RwLock<Zone>,
    pub(super) rules: Rules,
    pub(super) upstream: Upstream,
    pub(super) counters: Counters,
    /// Open connections.
    pub(super) connections: Arc<Quota>,
}

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since_1970.map(|time| time.as_secs()).unwrap_or_default();
        // Grows from one start to the next, unless more than one record a second changes. Only its
        // difference counts, modulo 2^32 (RFC 1982), and nobody transfers the zone.
        let serial = u32::try_from(seconds & u64::from(u32::MAX)).unwrap_or_default();
        Self {
            zone: RwLock::default(),
            rules: Rules {
                domain: config.domain,
                nameservers: config.addresses.iter().map(SocketAddr::ip).collect(),
                reverse: reverse_zones(&config.service_cidrs),
                forwards: !config.upstreams.is_empty(),
                serial,
            },
            upstream: Upstream::new(config.upstreams),
            counters: Counters::default(),
            connections: Quota::new(CONNECTIONS, CONNECTIONS_OF_ONE),
        }
    }

    /// Decides about a query. The zone is locked for some microseconds.
    pub(super) fn decide(&self, query: &[u8], transport: Transport) -> Outcome {
        let decide = || {
            let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
            answer::answer(&zone, &self.rules, query, transport)
        };
        // A query comes from anyone, and its decoder is not ours: a fault must cost this query alone.
        catch_unwind(AssertUnwindSafe(decide)).unwrap_or_else(|_| {
            tracing::error!("a DNS query caused a panic, and has no answer");
            Outcome::Ignore
        })
    }

    /// The answer to a query that an upstream server must answer.
    pub(super) async fn forward(&self, query: &[u8], transport: Transport, to: Forward) -> Vec<u8> {
        let failed = |draft: Draft, error: &ForwardError| {
            self.counters.forward_failed();
            tracing::debug!("DNS: a name of another domain has no answer: {error}");
            draft.fail()
        };
        let (bytes, code) = match to {
            Forward::Relay(draft) => match self.upstream.relay(query, transport).await {
                Ok(answer) if answer.len() <= usize::from(draft.limit) => {
                    let code = answer.get(3).map_or(0, |flags| flags & 0x0f);
                    (answer, ResponseCode::from(0, code))
                }
                Ok(_) => draft.truncated(),
                Err(error) => failed(draft, &error),
            },
            Forward::Follow(draft, query) => match self.upstream.ask(query).await {
                Ok(answer) => draft.follow(answer),
                Err(error) => failed(draft, &error),
            },
        };
        self.counters.answered(code);
        bytes
    }

    /// The answer if no more questions may wait for upstream servers.
    pub(super) fn busy(&self, to: Forward) -> Vec<u8> {
        self.counters.forward_failed();
        let draft = match to {
            Forward::Relay(draft) | Forward::Follow(draft, _) => draft,
        };
        let (bytes, code) = draft.fail();
        self.counters.answered(code);
        bytes
    }
}

/// What upstream servers must do.
pub(super) enum Forward {
    Relay(Draft),
    Follow(Draft, hickory_proto::op::Query),
}
