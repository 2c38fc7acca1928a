//! `networking.k8s.io/v1/ServiceCIDR`.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as api;

use super::{Converted, Findings};

/// Converts the networks of a ServiceCIDR. Of one that is being deleted too: it goes when the last
/// Service with an address in it has gone.
pub fn service_cidr(object: &api::ServiceCIDR) -> Converted<Vec<IpNet>> {
    let mut findings = Findings::default();
    let cidrs = object
        .spec
        .iter()
        .flat_map(|spec| spec.cidrs.iter().flatten());
    let networks = cidrs
        .enumerate()
        .filter_map(|(index, text)| findings.network(text, format_args!("spec.cidrs[{index}]")));
    let networks = networks.collect();
    findings.converted(Some(networks))
}
