//! The legacy `v1/Endpoints`, mirrored into slices.

use std::net::IpAddr;
use std::sync::Arc;

use super::super::api::{self, Loose, annotation};
use super::address::{family, parse_address};
use super::endpoint_slice::{sorted, weigh};
use super::field::{OF_HEADLESS, PortList};
use super::{Converted, Findings};
use crate::model::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Family, ObjectName};
use crate::source::Extent;

/// The label that tells the control plane not to mirror an object.
#[cfg(feature = "manifest")]
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Maximum number of mirrored addresses of a subset.
const MAX_MIRRORED: usize = 1000;

/// Whether the control plane's mirroring controller would mirror these Endpoints. For instance, the
/// API server writes slices besides its own Endpoints, and labels the Endpoints.
#[cfg(feature = "manifest")]
pub(in super::super) fn is_mirrored(object: &api::Endpoints) -> bool {
    object.metadata.label(SKIP_MIRROR) != Some("true")
}

/// Converts Endpoints into the slices that the control plane's mirroring controller (kubernetes
/// `pkg/controller/endpointslicemirroring`) would create from them: one for each subset and address
/// family, with `notReadyAddresses` as endpoints that are not ready, at most 1000 of a subset, and
/// the ready ones first. As in the controller, leader-election locks are left out with a note, and
/// so are Endpoints with a label that excludes the slices from kube-proxy, unless
/// the extent is [`Extent::Named`].
pub fn endpoints(object: &api::Endpoints, extent: Extent) -> Converted<Vec<EndpointSlice>> {
    let mut findings = Findings::default();
    let metadata = &object.metadata;
    if metadata.annotation(annotation::LEADER).is_some() {
        findings.note(
            format_args!("metadata.annotations"),
            format_args!(
                "{} marks a lock, not endpoints of a Service",
                annotation::LEADER
            ),
        );
        return findings.converted(None);
    }
    let service = findings.object_name(metadata, ObjectName::label);
    if extent == Extent::Served && findings.is_excluded(metadata, &OF_HEADLESS) {
        return findings.converted(None);
    }
    let mut slices = Vec::new();
    for (index, subset) in object.subsets.iter().enumerate() {
        let Some(subset) = findings.item(subset, format_args!("subsets[{index}]")) else {
            continue;
        };
        let ports = ports(subset, index, &mut findings);
        let mut endpoints = addresses(subset, index, &mut findings);
        weigh(&mut endpoints, metadata, &mut findings);
        let hostnames = match extent {
            Extent::Served => Box::default(),
            Extent::Named => sorted(hostnames(subset, index, &mut findings)),
        };
        for (of, suffix) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
            let endpoints: Box<[Endpoint]> = endpoints
                .iter()
                .filter(|endpoint| family(endpoint.address) == of)
                .cloned()
                .collect();
            let Some(service) = service.clone().filter(|_| !endpoints.is_empty()) else {
                continue;
            };
            let name = format!("{}-mirrored-{index}-{suffix}", service.name());
            // Service names are short, so this name is not too long.
            let Ok(name) = ObjectName::new(service.namespace(), &name) else {
                continue;
            };
            let mut slice = EndpointSlice::new(name, service, of);
            slice.ports = ports.clone().into();
            slice.endpoints = endpoints;
            let of_family = hostnames
                .iter()
                .filter(|(address, _)| family(*address) == of);
            slice.hostnames = of_family.cloned().collect();
            slices.push(slice);
        }
    }
    if slices.is_empty() && findings.left_out_since(0) {
        findings.nothing_left();
    }
    let known = service.is_some();
    findings.converted(Some(slices).filter(|_| known))
}

fn hostnames(
    subset: &api::Subset,
    index: usize,
    findings: &mut Findings,
) -> Vec<(IpAddr, Arc<str>)> {
    let mut hostnames = Vec::new();
    let lists = [
        (&subset.addresses, "addresses"),
        (&subset.not_ready_addresses, "notReadyAddresses"),
    ];
    for (addresses, list) in lists {
        for (which, address) in addresses.iter().enumerate() {
            let Loose::Right(address) = address else {
                continue;
            };
            let Some(Loose::Right(ip)) = &address.ip else {
                continue;
            };
            let field = format_args!("subsets[{index}].{list}[{which}].hostname");
            let name = findings.hostname(address.hostname.as_ref(), field);
            hostnames.extend(parse_address(ip).zip(name));
        }
    }
    hostnames
}

fn ports(subset: &api::Subset, index: usize, findings: &mut Findings) -> Vec<EndpointPort> {
    let field = format!("subsets[{index}].ports");
    let mut list = PortList::new(&field, subset.ports.len() > 1);
    let mut converted = Vec::with_capacity(subset.ports.len());
    for (index, port) in subset.ports.iter().enumerate() {
        let port = findings.item(port, format_args!("{field}[{index}]"));
        let port = port.and_then(|port| list.port(index, port, findings));
        converted
            .extend(port.map(|(name, protocol, port)| EndpointPort::new(name, protocol, port)));
    }
    converted
}

fn addresses(subset: &api::Subset, index: usize, findings: &mut Findings) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    let ready = (&subset.addresses, "addresses", true);
    let not_ready = (&subset.not_ready_addresses, "notReadyAddresses", false);
    for (addresses, list, ready) in [ready, not_ready] {
        for (which, address) in addresses.iter().enumerate() {
            let field = format_args!("subsets[{index}].{list}[{which}]");
            let Some(address) = findings.item(address, field) else {
                continue;
            };
            let node = address.node_name.as_ref();
            let node = findings.node_name(node, format_args!("{field}.nodeName"));
            let ip = findings.address(address.ip.as_ref(), format_args!("{field}.ip"));
            endpoints.extend(ip.map(|ip| {
                let mut endpoint = Endpoint::new(ip);
                endpoint.node = node;
                endpoint.conditions = EndpointConditions::new(Some(ready), None, None);
                endpoint
            }));
        }
    }
    if endpoints.len() > MAX_MIRRORED {
        findings.note(
            format_args!("subsets[{index}]"),
            format_args!(
                "{} addresses, of which {MAX_MIRRORED} are mirrored",
                endpoints.len()
            ),
        );
        endpoints.truncate(MAX_MIRRORED);
    }
    endpoints
}
