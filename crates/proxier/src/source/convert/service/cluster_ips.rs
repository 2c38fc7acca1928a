//! `clusterIP`, `clusterIPs` and their families.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;

use super::super::Findings;
use super::super::address::family;
use super::Kind;
use crate::model::Family;

/// `spec.clusterIP` of a headless Service.
const HEADLESS: &str = "None";

/// The cluster IPs; none for what has none, and where there is an error.
pub(super) fn cluster_ips(
    spec: &api::ServiceSpec,
    kind: Kind,
    findings: &mut Findings,
) -> Vec<IpAddr> {
    if kind == Kind::ExternalName {
        return Vec::new();
    }
    let one = spec.cluster_ip.as_deref().unwrap_or_default();
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    let first = all.first().map_or(one, String::as_str);
    if !one.is_empty() && one != first {
        findings.error(
            format_args!("spec.clusterIPs[0]"),
            format_args!("{first:?} is not the same as spec.clusterIP, {one:?}"),
        );
        return Vec::new();
    }
    match first {
        "" => {
            findings.error(
                format_args!("spec.clusterIP"),
                "missing: svcproxy allocates no addresses, so a manifest for it must carry \
                 spec.clusterIP (an address, or None for a headless Service)",
            );
            return Vec::new();
        }
        HEADLESS => {
            if kind != Kind::ClusterIp {
                findings.error(
                    format_args!("spec.clusterIP"),
                    format_args!("None (a headless Service) does not go with type {kind:?}"),
                );
            }
            if all.len() > 1 {
                findings.error(
                    format_args!("spec.clusterIPs"),
                    "None (a headless Service) does not go with addresses",
                );
            }
            return Vec::new();
        }
        _ => {}
    }
    let addresses = if all.is_empty() {
        Vec::from_iter(findings.address(one, format_args!("spec.clusterIP")))
    } else {
        addresses(all, findings)
    };
    families(spec, &addresses, findings);
    addresses
}

/// One address, or one of each family.
fn addresses(texts: &[String], findings: &mut Findings) -> Vec<IpAddr> {
    if texts.len() > 2 {
        findings.error(
            format_args!("spec.clusterIPs"),
            format_args!("{} addresses, where 2 are the most", texts.len()),
        );
        return Vec::new();
    }
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let field = format_args!("spec.clusterIPs[{index}]");
        let Some(address) = findings.address(text, field) else {
            continue;
        };
        if addresses
            .iter()
            .any(|first| family(*first) == family(address))
        {
            findings.error(
                field,
                format_args!("{address} is of the same address family as the first"),
            );
        }
        addresses.push(address);
    }
    addresses
}

/// That `ipFamilies` and `ipFamilyPolicy` say what the addresses show, where they are set.
fn families(spec: &api::ServiceSpec, addresses: &[IpAddr], findings: &mut Findings) {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (index, text) in families.iter().take(2).enumerate() {
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
        if let Some(address) = addresses.get(index).filter(|a| family(**a) != wanted) {
            findings.error(
                field,
                format_args!("{text:?} is not the family of the cluster IP {address}"),
            );
        }
    }
    let field = format_args!("spec.ipFamilyPolicy");
    match spec.ip_family_policy.as_deref() {
        Some("SingleStack") if addresses.len() > 1 => {
            findings.error(field, "SingleStack does not go with two cluster IPs");
        }
        None | Some("SingleStack" | "PreferDualStack" | "RequireDualStack") => {}
        Some(other) => findings.error(
            field,
            format_args!(
                "{other:?} is not a family policy (SingleStack, PreferDualStack or \
                 RequireDualStack)"
            ),
        ),
    }
}
