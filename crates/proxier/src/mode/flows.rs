//! Flows in connection tracking.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ::ipvs::Protocol;

use crate::desired::{Backend, Frontend, FrontendKey, Touched};
#[cfg(all(feature = "ipvs", feature = "iptables"))]
use crate::mode::{ApplyReport, NodeError};

/// Flows to an address, to delete from connection tracking: those that a backend answered, or all
/// of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Flows {
    /// The destination that the client used. A node port stands for any address of the node.
    pub to: FrontendKey,
    /// The backend's address.
    pub answered_by: Option<IpAddr>,
}

impl Flows {
    /// All flows to an address.
    pub const fn to(to: FrontendKey) -> Self {
        Self {
            to,
            answered_by: None,
        }
    }

    /// Limits them to flows that a backend answered.
    pub const fn answered_by(self, backend: IpAddr) -> Self {
        Self {
            answered_by: Some(backend),
            ..self
        }
    }
}

/// Flows that could not be deleted. Their backends are gone from the node, so no later plan would find
/// them.
#[derive(Debug, Default)]
pub(crate) struct OwedFlows(BTreeSet<Flows>);

impl OwedFlows {
    /// Limit of kept flows. More failures mean that connection tracking cannot be changed at all.
    const MOST: usize = 10_000;

    /// Nothing is owed.
    #[cfg(any(feature = "iptables", feature = "nftables"))]
    pub(super) const fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// Records the deletions of a plan, of which those of `failed` failed.
    pub(super) fn record<'a>(
        &mut self,
        tried: impl Iterator<Item = &'a Flows>,
        failed: impl Iterator<Item = &'a Flows>,
    ) {
        if !self.0.is_empty() {
            tried.for_each(|flows| _ = self.0.remove(flows));
        }
        for flows in failed {
            if self.0.len() < Self::MOST {
                self.0.insert(*flows);
            }
        }
    }

    /// Adds flows to delete.
    #[cfg(all(feature = "ipvs", feature = "iptables"))]
    pub(crate) fn owe(&mut self, flows: impl IntoIterator<Item = Flows>) {
        let room = Self::MOST.saturating_sub(self.0.len());
        self.0.extend(flows.into_iter().take(room));
    }

    /// Deletes all of them with `delete`, and keeps those that failed. Returns the first error.
    #[cfg(all(feature = "ipvs", feature = "iptables"))]
    pub(crate) fn settle(
        &mut self,
        delete: impl FnOnce(&[Flows]) -> Result<ApplyReport, NodeError>,
    ) -> Result<(), NodeError> {
        let all: Vec<_> = self.0.iter().copied().collect();
        if all.is_empty() {
            return Ok(());
        }
        let report = delete(&all)?;
        let failed = report.failures.iter();
        let failed = failed.filter_map(|failure| all.get(failure.step));
        self.record(all.iter(), failed);
        match report.failures.into_iter().next() {
            Some(failure) => Err(failure.error),
            None => Ok(()),
        }
    }

    /// Those to touched frontends; all of them without.
    pub(super) fn within(&self, touched: Option<&Touched>) -> impl Iterator<Item = Flows> {
        let flows = self.0.iter().filter(move |flows| {
            touched.is_none_or(|touched| touched.frontends.contains(&flows.to))
        });
        flows.copied()
    }
}

/// Whether flows in connection tracking may outlive their backend. TCP connections end by
/// themselves.
pub(crate) fn may_be_stale(key: FrontendKey) -> bool {
    key.protocol != Protocol::Tcp
}

/// The flows that connection tracking would keep sending to a backend of `before` that is gone, or
/// to no backend although there is one now.
pub(crate) fn stale(
    key: FrontendKey,
    frontend: Option<&Frontend>,
    before: &BTreeSet<SocketAddr>,
) -> Vec<Flows> {
    let (mut now, mut gained) = (BTreeSet::new(), false);
    if let Some(frontend) = frontend {
        let lists = [Some(&frontend.backends), frontend.external.as_ref()];
        for backends in lists.into_iter().flatten().filter(|list| !list.is_empty()) {
            let address = |b: &Backend| SocketAddr::new(b.address, b.port.get());
            gained |= !backends.iter().any(|b| before.contains(&address(b)));
            now.extend(backends.iter().map(address));
        }
    }
    let gone = before.difference(&now);
    let gone = gone.map(|backend| Flows::to(key).answered_by(backend.ip()));
    // A flow without a backend has no backend address to find it by.
    let gained = gained.then(|| Flows::to(key));
    gained.into_iter().chain(gone).collect()
}

impl fmt::Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)?;
        match self.answered_by {
            Some(endpoint) => write!(f, " answered by {endpoint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[cfg(all(feature = "ipvs", feature = "iptables"))]
mod tests {
    use std::io;

    use super::*;

    fn to(port: u16) -> Flows {
        Flows::to(FrontendKey {
            protocol: Protocol::Udp,
            address: [10, 96, 0, 10].into(),
            port: port.try_into().unwrap(),
        })
    }

    fn error() -> NodeError {
        NodeError::Conntrack {
            operation: "delete a flow",
            source: io::Error::from_raw_os_error(16),
        }
    }

    #[test]
    fn what_could_not_be_deleted_is_tried_again() {
        let mut owed = OwedFlows::default();
        owed.owe([to(53), to(54)]);
        // Connection tracking cannot be reached at all.
        owed.settle(|_| Err(error())).unwrap_err();
        owed.owe([to(55)]);
        let settled = owed.settle(|flows| {
            assert_eq!(flows, [to(53), to(54), to(55)]);
            let mut report = ApplyReport::default();
            report.fail(1, error());
            Ok(report)
        });
        settled.unwrap_err();
        let settled = owed.settle(|flows| {
            assert_eq!(flows, [to(54)]);
            Ok(ApplyReport::default())
        });
        settled.unwrap();
        owed.settle(|flows| panic!("{flows:?} were deleted"))
            .unwrap();
    }
}
