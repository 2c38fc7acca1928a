//! TCP connections from this node to VIPs and endpoints.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use ipvs::Protocol;
use proxier::desired::{Config, Frontend};
use serde::Serialize;

use crate::args::VerifyArgs;

/// Where to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
}

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    /// A virtual IP, or a node port at this node's address.
    Vip,
    /// An endpoint.
    Endpoint,
}

/// The result of one connection.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Connection {
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
    pub(super) connected: bool,
    /// How long it took, also to fail; none if it was not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) milliseconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// The targets of a Service, sorted. Ports without endpoints have none: a connection must fail.
/// Returns also how many ports were left out because TCP does not reach them.
pub(super) fn targets<'a>(
    frontends: impl Iterator<Item = &'a Frontend>,
    config: &Config,
) -> (BTreeSet<Target>, usize) {
    let (mut targets, mut left_out) = (BTreeSet::new(), 0);
    let node_ports = config.node_port_networks();
    for frontend in frontends {
        let key = frontend.key;
        if frontend.backends.is_empty() {
            continue;
        }
        if key.protocol != Protocol::Tcp {
            left_out += 1;
            continue;
        }
        let vip = match key.is_node_port() {
            false => Some(key.address),
            true => config
                .node_ip(key.family())
                .filter(|own| node_ports.iter().any(|network| network.contains(own))),
        };
        targets.extend(vip.map(|address| Target {
            kind: Kind::Vip,
            address: (address, key.port.get()).into(),
        }));
        targets.extend(frontend.backends.iter().map(|backend| Target {
            kind: Kind::Endpoint,
            address: (backend.address, backend.port.get()).into(),
        }));
    }
    (targets, left_out)
}

/// Bounds of the attempts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Of one connection.
    pub(super) timeout: Duration,
    /// Of all together.
    pub(super) within: Duration,
    pub(super) at_once: usize,
}

impl From<&VerifyArgs> for Bounds {
    fn from(args: &VerifyArgs) -> Self {
        Self {
            timeout: args.connect_timeout,
            within: args.connect_within,
            at_once: args.connect_at_once.get(),
        }
    }
}

/// Connects to each target, and returns the results in the same order.
pub(super) fn connect(targets: &[Target], bounds: Bounds) -> Vec<Connection> {
    let began = Instant::now();
    let next = Mutex::new(0..targets.len());
    let results = Mutex::new(vec![None; targets.len()]);
    let work = || {
        loop {
            let place = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((place, target)) = place.and_then(|n| Some((n, targets.get(n)?))) else {
                return;
            };
            let left = bounds.within.saturating_sub(began.elapsed());
            let result = attempt(target, bounds.timeout.min(left), bounds);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = results.get_mut(place) {
                *slot = Some(result);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..bounds.at_once.min(targets.len()) {
            scope.spawn(work);
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().flatten().collect()
}

fn attempt(target: &Target, timeout: Duration, bounds: Bounds) -> Connection {
    let Target { kind, address } = *target;
    let mut connection = Connection {
        kind,
        address,
        connected: false,
        milliseconds: None,
        error: None,
    };
    if timeout.is_zero() {
        let error = format!("not tried within {:?} (--connect-within)", bounds.within);
        connection.error = Some(error);
        return connection;
    }
    let began = Instant::now();
    let outcome = TcpStream::connect_timeout(&address, timeout);
    let took = began.elapsed().as_secs_f64() * 1000.0;
    connection.milliseconds = Some((took * 1000.0).round() / 1000.0);
    match outcome {
        Ok(_) => connection.connected = true,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            connection.error = Some(format!("no answer within {timeout:?}"));
        }
        Err(error) => connection.error = Some(error.to_string()),
    }
    connection
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn target(address: SocketAddr) -> Target {
        let kind = Kind::Endpoint;
        Target { kind, address }
    }

    fn bounds() -> Bounds {
        Bounds {
            timeout: Duration::from_secs(5),
            within: Duration::from_secs(20),
            at_once: 2,
        }
    }

    #[test]
    fn results_are_in_order_and_name_the_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let targets = [open, closed, open].map(target);
        let results = connect(&targets, bounds());
        let connected: Vec<_> = results.iter().map(|one| one.connected).collect();
        assert_eq!(connected, [true, false, true]);
        let refused = &results[1];
        assert_eq!(refused.address, closed);
        let error = refused.error.as_deref().unwrap();
        assert!(error.contains("refused"), "{error}");
        assert!(results.iter().all(|one| one.milliseconds.is_some()));
    }

    #[test]
    fn what_is_not_tried_in_time_has_failed() {
        let targets = [target("127.0.0.1:9".parse().unwrap())];
        let bounds = Bounds {
            within: Duration::ZERO,
            ..bounds()
        };
        let [result] = connect(&targets, bounds).try_into().unwrap();
        assert!(!result.connected && result.milliseconds.is_none());
        assert!(result.error.unwrap().contains("--connect-within"));
    }
}
