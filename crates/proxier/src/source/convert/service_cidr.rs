//! `networking.k8s.io/v1/ServiceCIDR`.

use ipnet::IpNet;

use super::super::api;
use super::{Converted, Findings};

/// Converts the networks of a ServiceCIDR. One that is being deleted still counts, because it
/// exists until no Service has an address in it.
pub fn service_cidr(object: &api::ServiceCidr) -> Converted<Vec<IpNet>> {
    let mut findings = Findings::default();
    let cidrs = object.spec.cidrs.iter().enumerate();
    let networks = cidrs
        .filter_map(|(index, text)| findings.network(text, format_args!("spec.cidrs[{index}]")));
    let networks = networks.collect();
    findings.converted(Some(networks))
}
