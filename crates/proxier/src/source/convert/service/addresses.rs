//! `clusterIP`, `clusterIPs` and their families; addresses for clients outside the cluster, and their
//! source ranges.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::super::api::{self, Loose, annotation};
use super::super::Findings;
use super::super::address::{check_address, family, parse_address};
use super::super::field::LeftOut;
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
    if is_none(first) {
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

/// Whether a Service without a type `ExternalName` is headless.
pub(super) fn is_headless(spec: &api::ServiceSpec) -> bool {
    spec.cluster_ips
        .first()
        .or(spec.cluster_ip.as_ref())
        .is_some_and(is_none)
}

fn is_none(written: &Loose<String>) -> bool {
    matches!(written, Loose::Right(text) if text == HEADLESS)
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

/// `spec.externalIPs`.
pub(super) fn external_ips(
    spec: &api::ServiceSpec,
    cluster_ips: &[IpAddr],
    findings: &mut Findings,
) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    let mut addresses = Vec::new();
    for (index, text) in spec.external_ips.iter().enumerate() {
        let field = format_args!("spec.externalIPs[{index}]");
        let Some(address) = findings.address(Some(text), field) else {
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

/// The addresses in `status.loadBalancer.ingress[].ip` that nodes serve. Controllers write the
/// status, so an unusable entry is only noted.
pub(super) fn load_balancer_ips(
    object: &api::Service,
    kind: Kind,
    cluster_ips: &[IpAddr],
    findings: &mut Findings,
) -> Vec<IpAddr> {
    const FIELD: &str = "status.loadBalancer.ingress";
    let ingress = &object.status.load_balancer.ingress;
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
        let mut unused = |field: &str, reason: std::fmt::Arguments<'_>| {
            findings.note(
                format_args!("{FIELD}[{index}]{field}"),
                format_args!("not used: {reason}"),
            );
        };
        let ingress = match ingress {
            Loose::Right(ingress) => ingress,
            Loose::Wrong(written) => {
                unused("", format_args!("{written} is not a mapping of fields"));
                continue;
            }
        };
        match &ingress.ip_mode {
            None => {}
            Some(Loose::Right(mode)) if matches!(mode.as_str(), "" | "VIP") => {}
            // With `Proxy`, the load balancer uses another address of the nodes. An entry with only
            // a host name is for DNS.
            Some(Loose::Right(mode)) if mode == "Proxy" => continue,
            Some(Loose::Right(other)) => {
                unused(
                    ".ipMode",
                    format_args!("{other:?} is not a mode (VIP or Proxy)"),
                );
                continue;
            }
            Some(Loose::Wrong(written)) => {
                unused(
                    ".ipMode",
                    format_args!("{written} is not a mode (VIP or Proxy)"),
                );
                continue;
            }
        }
        let checked = match &ingress.ip {
            None => continue,
            Some(Loose::Right(text)) if text.is_empty() => continue,
            Some(Loose::Right(text)) => check_address(text),
            Some(Loose::Wrong(written)) => Err(format!("{written} is not an IP address")),
        };
        match checked.and_then(|address| usable(address, cluster_ips)) {
            Ok(address) if seen.insert(address) => addresses.push(address),
            Ok(_) => {}
            Err(reason) => unused(".ip", format_args!("{reason}")),
        }
    }
    addresses
}

/// Returns the address, if it is not a cluster IP and has one of the Service's families.
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

/// `spec.loadBalancerSourceRanges`; adjacent and overlapping ones are merged. Err if all are
/// invalid: then no client may be let in.
pub(super) fn source_ranges(
    object: &api::Service,
    spec: &api::ServiceSpec,
    kind: Kind,
    findings: &mut Findings,
) -> Result<Vec<IpNet>, LeftOut> {
    const FIELD: &str = "spec.loadBalancerSourceRanges";
    let ranges = &spec.load_balancer_source_ranges;
    if ranges.is_empty() {
        // The API server checks it and cloud controllers may honour it; kube-proxy ignores it.
        let annotation = annotation::SOURCE_RANGES;
        if object.metadata.annotation(annotation).is_some() {
            findings.note(
                format_args!("metadata.annotations[{annotation}]"),
                format_args!("not used: it is for cloud load balancers; nodes use only {FIELD}"),
            );
        }
        return Ok(Vec::new());
    }
    if kind != Kind::LoadBalancer {
        findings.error(
            format_args!("{FIELD}"),
            format_args!("is not allowed with type {kind:?}"),
        );
    }
    let mut networks = Vec::with_capacity(ranges.len());
    for (index, text) in ranges.iter().enumerate() {
        networks.extend(findings.network(text, format_args!("{FIELD}[{index}]")));
    }
    if networks.is_empty() {
        findings.left_out(
            format_args!("{FIELD}"),
            "no usable range: the load balancer's addresses are not served",
        );
        return Err(LeftOut);
    }
    Ok(IpNet::aggregate(&networks))
}
