//! Addresses from outside of the cluster, and who may use them.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as api;

use super::super::Findings;
use super::super::address::{check_address, family};
use super::Kind;

/// What was written before there was a field. The API server checks it, cloud controllers may
/// honour it; kube-proxy does not look at it.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// `spec.externalIPs`.
pub(super) fn external_ips(
    spec: &api::ServiceSpec,
    cluster_ips: &[IpAddr],
    findings: &mut Findings,
) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    let mut addresses = Vec::new();
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        let field = format_args!("spec.externalIPs[{index}]");
        let Some(address) = findings.address(text, field) else {
            continue;
        };
        match usable(address, cluster_ips) {
            Ok(address) if seen.insert(address) => addresses.push(address),
            Ok(_) => {}
            Err(reason) => findings.note(field, format_args!("not used: {reason}")),
        }
    }
    addresses
}

/// `status.loadBalancer.ingress[].ip`, as far as nodes answer there. The status is written by
/// controllers: an entry of it that cannot be used takes nothing else of the Service away.
pub(super) fn load_balancer_ips(
    object: &api::Service,
    kind: Kind,
    cluster_ips: &[IpAddr],
    findings: &mut Findings,
) -> Vec<IpAddr> {
    const FIELD: &str = "status.loadBalancer.ingress";
    let status = object.status.as_ref();
    let load_balancer = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = load_balancer.and_then(|status| status.ingress.as_deref());
    let ingress = ingress.unwrap_or_default();
    if kind != Kind::LoadBalancer {
        if !ingress.is_empty() {
            findings.note(
                format_args!("{FIELD}"),
                format_args!("not used: spec.type is {kind:?}"),
            );
        }
        return Vec::new();
    }
    let mut seen = HashSet::new();
    let mut addresses = Vec::new();
    for (index, ingress) in ingress.iter().enumerate() {
        // A host name alone is for DNS.
        let Some(text) = ingress.ip.as_deref().filter(|ip| !ip.is_empty()) else {
            continue;
        };
        match ingress.ip_mode.as_deref() {
            None | Some("VIP") => {}
            Some("Proxy") => continue,
            Some(other) => {
                findings.note(
                    format_args!("{FIELD}[{index}].ipMode"),
                    format_args!("not used: {other:?} is not a mode (VIP or Proxy)"),
                );
                continue;
            }
        }
        match check_address(text).and_then(|address| usable(address, cluster_ips)) {
            Ok(address) if seen.insert(address) => addresses.push(address),
            Ok(_) => {}
            Err(reason) => findings.note(
                format_args!("{FIELD}[{index}].ip"),
                format_args!("not used: {reason}"),
            ),
        }
    }
    addresses
}

/// The same address, if the Service can be reached by it beside its cluster IPs: they say of which
/// families it is.
fn usable(address: IpAddr, cluster_ips: &[IpAddr]) -> Result<IpAddr, String> {
    if cluster_ips.contains(&address) {
        return Err(format!("{address} is the Service's cluster IP already"));
    }
    if cluster_ips.iter().any(|ip| family(*ip) == family(address)) {
        return Ok(address);
    }
    Err(format!(
        "the Service has no cluster IP of the family of {address}"
    ))
}

/// `spec.loadBalancerSourceRanges`, merged where they touch or overlap. A wrong one is an error:
/// without it, clients would be locked out or, if it is the only one, all let in.
pub(super) fn source_ranges(
    object: &api::Service,
    spec: &api::ServiceSpec,
    kind: Kind,
    findings: &mut Findings,
) -> Vec<IpNet> {
    const FIELD: &str = "spec.loadBalancerSourceRanges";
    let ranges = spec.load_balancer_source_ranges.as_deref();
    let ranges = ranges.unwrap_or_default();
    if ranges.is_empty() {
        let annotations = object.metadata.annotations.as_ref();
        if annotations.is_some_and(|annotations| annotations.contains_key(SOURCE_RANGES)) {
            findings.note(
                format_args!("metadata.annotations[{SOURCE_RANGES}]"),
                format_args!("not used: it is for cloud load balancers, nodes go by {FIELD} alone"),
            );
        }
        return Vec::new();
    }
    if kind != Kind::LoadBalancer {
        findings.error(
            format_args!("{FIELD}"),
            format_args!("does not go with type {kind:?}"),
        );
    }
    let mut networks = Vec::with_capacity(ranges.len());
    for (index, text) in ranges.iter().enumerate() {
        // The API server lets spaces stand around them.
        networks.extend(findings.network(text.trim(), format_args!("{FIELD}[{index}]")));
    }
    IpNet::aggregate(&networks)
}
