//! Endpoints in Service CIDRs.
//!
//! A Service CIDR is captured as a whole only if nothing but cluster IPs is in it: neither this node
//! nor its pods could reach such an endpoint.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Captured, DesiredState, Problem};
use crate::desired::Config;
use crate::model::ObjectName;
use crate::notice::Reason;

impl DesiredState {
    /// The Service CIDRs with endpoints. An endpoint that is another Service's cluster IP and port
    /// does not count.
    pub(super) fn cidrs_with_endpoints(&self) -> BTreeSet<IpNet> {
        let captured = self.captured.values().flatten();
        let captured = captured.filter(|captured| self.is_endpoint(captured));
        captured.map(|captured| captured.cidr).collect()
    }

    /// Whether this was computed from the store with these settings.
    pub(crate) fn has_settings(&self, config: &Config) -> bool {
        if self.holding.is_empty() {
            return *config == *self.config;
        }
        let mut shared = config.clone();
        shared.share(&self.holding);
        shared == *self.config
    }

    /// Whether the Service CIDRs with endpoints are others than when this was computed from the
    /// store, so that it must be again.
    pub(crate) fn has_other_captures(&self) -> bool {
        !(self.captured.is_empty() && self.holding.is_empty())
            && self.cidrs_with_endpoints() != self.holding
    }

    fn is_endpoint(&self, captured: &Captured) -> bool {
        !self.claims.contains_key(&captured.endpoint)
    }

    /// The endpoints of a Service that are in a Service CIDR: one problem for each of these.
    pub(super) fn captured_of(&self, service: &ObjectName) -> impl Iterator<Item = Problem> {
        let captured = self.captured.get(service).into_iter().flatten();
        let captured = captured.filter(|captured| self.is_endpoint(captured));
        let mut cidrs = BTreeSet::new();
        let mut first = captured.filter(move |captured| cidrs.insert(captured.cidr));
        let service = service.clone();
        std::iter::from_fn(move || {
            let Captured { cidr, endpoint } = first.next()?;
            Some(Problem {
                service: service.clone(),
                field: "endpoints".to_owned(),
                reason: Reason::ServiceCidrShared,
                message: format!(
                    "{} lies in the Service CIDR {cidr}, which is therefore not captured as a whole",
                    endpoint.address
                ),
            })
        })
    }
}
