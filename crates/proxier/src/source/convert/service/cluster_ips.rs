//! `clusterIP`, `clusterIPs` and their families.

use std::net::IpAddr;

use super::super::super::api::{self, Loose};
use super::super::Findings;
use super::super::address::{family, parse_address};
use super::Kind;
use crate::model::Family;

/// `spec.clusterIP` of a headless Service.
const HEADLESS: &str = "None";

/// The cluster IPs; empty for a Service that has none or is rejected.
pub(super) fn cluster_ips(
    spec: &api::ServiceSpec,
    kind: Kind,
    findings: &mut Findings,
) -> Vec<IpAddr> {
    if kind == Kind::ExternalName {
        return Vec::new();
    }
    let is_given = |written: &&Loose<String>| **written != Loose::Right(String::new());
    let one = spec.cluster_ip.as_ref().filter(is_given);
    let all: Vec<_> = spec.cluster_ips.iter().filter(is_given).collect();
    let Some(first) = all.first().copied().or(one) else {
        findings.error(
            format_args!("spec.clusterIP"),
            "missing: svcproxy allocates no addresses, so a manifest must contain spec.clusterIP \
             (an address, or None for a headless Service)",
        );
        return Vec::new();
    };
    if let (Some(Loose::Right(one)), Loose::Right(first)) = (one, first)
        && one != first
        && (parse_address(one).is_none() || parse_address(one) != parse_address(first))
    {
        findings.error(
            format_args!("spec.clusterIPs[0]"),
            format_args!("{first:?} is not the same as spec.clusterIP, {one:?}"),
        );
        return Vec::new();
    }
    if matches!(first, Loose::Right(first) if first == HEADLESS) {
        if kind != Kind::ClusterIp {
            findings.error(
                format_args!("spec.clusterIP"),
                format_args!("None (a headless Service) is not allowed with type {kind:?}"),
            );
        }
        if all.len() > 1 {
            findings.error(
                format_args!("spec.clusterIPs"),
                "None (a headless Service) is not allowed with addresses",
            );
        }
        return Vec::new();
    }
    let addresses = if all.is_empty() {
        Vec::from_iter(findings.address(one, format_args!("spec.clusterIP")))
    } else {
        addresses(&all, findings)
    };
    if addresses.is_empty() {
        findings.nothing_left();
    }
    families(spec, &addresses, all.len(), findings);
    addresses
}

/// One address, or one per family.
fn addresses(written: &[&Loose<String>], findings: &mut Findings) -> Vec<IpAddr> {
    if written.len() > 2 {
        findings.error(
            format_args!("spec.clusterIPs"),
            format_args!("{} addresses; at most 2 are allowed", written.len()),
        );
        return Vec::new();
    }
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(written.len());
    for (index, text) in written.iter().enumerate() {
        let field = format_args!("spec.clusterIPs[{index}]");
        let Some(address) = findings.address(Some(text), field) else {
            continue;
        };
        if addresses
            .iter()
            .any(|first| family(*first) == family(address))
        {
            findings.left_out(
                field,
                format_args!("{address} is of the same address family as the first"),
            );
            continue;
        }
        addresses.push(address);
    }
    addresses
}

/// Checks that `ipFamilies` and `ipFamilyPolicy` match the addresses, if they are set.
fn families(
    spec: &api::ServiceSpec,
    addresses: &[IpAddr],
    written: usize,
    findings: &mut Findings,
) {
    // If an address was left out, the indices of the others have changed.
    let whole = written.max(1) == addresses.len();
    for (index, text) in spec.ip_families.iter().take(2).enumerate() {
        let field = format_args!("spec.ipFamilies[{index}]");
        let wanted = match text.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => {
                findings.error(
                    field,
                    format_args!("{other:?} is not an address family (IPv4 or IPv6)"),
                );
                continue;
            }
        };
        let address = addresses.get(index).filter(|_| whole);
        if let Some(address) = address.filter(|a| family(**a) != wanted) {
            findings.error(
                field,
                format_args!("{text:?} is not the family of the cluster IP {address}"),
            );
        }
    }
    let field = format_args!("spec.ipFamilyPolicy");
    match spec.ip_family_policy.as_deref() {
        Some("SingleStack") if addresses.len() > 1 => {
            findings.error(field, "SingleStack is not allowed with two cluster IPs");
        }
        None | Some("" | "SingleStack" | "PreferDualStack" | "RequireDualStack") => {}
        Some(other) => findings.error(
            field,
            format_args!(
                "{other:?} is not a family policy (SingleStack, PreferDualStack or \
                 RequireDualStack)"
            ),
        ),
    }
}
