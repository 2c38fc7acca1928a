//! `v1/Node`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::api::{self, Loose};
use super::address::{check_address, family};
use super::names::intern;
use super::names::reason;
use super::{Converted, Findings};
use crate::model::{Node, check_subdomain};

/// The label with a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The taint of a node that the cluster autoscaler is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Converts a Node. Its status comes from other programs than its spec, so an unusable address in
/// the status is left out with a note.
pub fn node(object: &api::Node) -> Converted<Node> {
    let mut findings = Findings::default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let name = match check_subdomain("metadata.name", name) {
        Ok(()) => Some(intern(name)),
        Err(error) => {
            findings.error(format_args!("{}", error.field), reason(&error));
            None
        }
    };
    let zone = object.metadata.label(ZONE);
    let zone = findings.zone(zone, format_args!("metadata.labels[{ZONE}]"));
    let pod_cidrs = pod_cidrs(&object.spec, &mut findings);
    let addresses = addresses(&object.status, &mut findings);
    let node = name.map(|name| Node {
        name,
        addresses: addresses.into(),
        pod_cidrs: pod_cidrs.into(),
        zone,
        eligible: is_eligible(object),
    });
    findings.converted(node)
}

/// As in kube-proxy (kubernetes `pkg/proxy/healthcheck`, `NodeEligible`).
fn is_eligible(object: &api::Node) -> bool {
    let mut taints = object.spec.taints.iter();
    object.metadata.deletion_timestamp.is_none() && taints.all(|taint| taint.key != TO_BE_DELETED)
}

fn pod_cidrs(spec: &api::NodeSpec, findings: &mut Findings) -> Vec<IpNet> {
    const FIELD: &str = "spec.podCIDRs";
    let one = spec.pod_cidr.as_ref();
    let one = one.filter(|one| **one != Loose::Right(String::new()));
    let all = &spec.pod_cidrs;
    let Some(first) = all.first() else {
        let network = one.and_then(|one| findings.network(one, format_args!("spec.podCIDR")));
        return Vec::from_iter(network);
    };
    if let (Some(Loose::Right(one)), Loose::Right(first)) = (one, first)
        && one != first
    {
        findings.error(
            format_args!("{FIELD}[0]"),
            format_args!("{first:?} is not the same as spec.podCIDR, {one:?}"),
        );
    }
    if all.len() > 2 {
        findings.error(
            format_args!("{FIELD}"),
            format_args!("{} ranges; at most 2 are allowed", all.len()),
        );
        return Vec::new();
    }
    let mut networks: Vec<IpNet> = Vec::with_capacity(all.len());
    for (index, text) in all.iter().enumerate() {
        let field = format_args!("{FIELD}[{index}]");
        let Some(network) = findings.network(text, field) else {
            continue;
        };
        let family_of = |network: &IpNet| family(network.addr());
        if networks.iter().any(|n| family_of(n) == family_of(&network)) {
            findings.left_out(
                field,
                format_args!("{network} is of the same address family as the first"),
            );
            continue;
        }
        networks.push(network);
    }
    networks
}

/// The first internal address of each family, or else the first external one, in the order in which
/// kubernetes (`pkg/util/node`) chooses a node's primary address.
fn addresses(status: &api::NodeStatus, findings: &mut Findings) -> Vec<IpAddr> {
    let listed = status.addresses.iter().enumerate();
    let listed = listed.filter_map(|(index, listed)| match listed {
        Loose::Right(listed) => Some((index, listed)),
        Loose::Wrong(_) => None,
    });
    let listed: Vec<_> = listed.collect();
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(2);
    for type_ in ["InternalIP", "ExternalIP"] {
        let of_type = listed.iter().filter(|(_, a)| a.type_ == type_);
        for (index, listed) in of_type {
            let checked = match &listed.address {
                Some(Loose::Right(text)) => check_address(text),
                Some(Loose::Wrong(written)) => Err(format!("{written} is not an IP address")),
                None => Err("missing".to_owned()),
            };
            match checked {
                Ok(address) if addresses.iter().any(|a| family(*a) == family(address)) => {}
                Ok(address) => addresses.push(address),
                Err(reason) => findings.note(
                    format_args!("status.addresses[{index}].address"),
                    format_args!("not used: {reason}"),
                ),
            }
        }
    }
    addresses
}
