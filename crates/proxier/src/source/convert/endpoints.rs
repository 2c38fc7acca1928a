//! The legacy `v1/Endpoints`, mirrored into slices.

use k8s_openapi::api::core::v1 as api;

use super::address::family;
use super::field::Port;
use super::{Converted, Findings};
use crate::model::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Family, ObjectName};

/// Asks that an object not be mirrored.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Marks an object that is a lock, not a list of endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Most addresses of a subset that are mirrored.
const MAX_MIRRORED: usize = 1000;

/// Converts Endpoints into the slices that the control plane's mirroring controller (kubernetes
/// `pkg/controller/endpointslicemirroring`) would make of them: one for each subset and address
/// family, `notReadyAddresses` as endpoints that are not ready, at most 1000 of a subset and the ready
/// ones first. The same two kinds of object as there are left out with a note: those that say so in
/// a label, and leader election's locks; so are those with a label that their slices would have too
/// and that takes them from a node's service proxy.
pub fn endpoints(object: &api::Endpoints) -> Converted<Vec<EndpointSlice>> {
    let mut findings = Findings::default();
    let metadata = &object.metadata;
    let labels = metadata.labels.as_ref();
    if labels
        .and_then(|labels| labels.get(SKIP_MIRROR))
        .is_some_and(|skip| skip == "true")
    {
        findings.note(
            format_args!("metadata.labels"),
            format_args!("{SKIP_MIRROR} is true"),
        );
        return findings.converted(None);
    }
    let annotations = metadata.annotations.as_ref();
    if annotations.is_some_and(|annotations| annotations.contains_key(LEADER)) {
        findings.note(
            format_args!("metadata.annotations"),
            format_args!("{LEADER} marks a lock, not endpoints of a Service"),
        );
        return findings.converted(None);
    }
    let service = findings.object_name(metadata, ObjectName::label);
    if findings.not_ours(metadata) {
        return findings.converted(None);
    }
    let mut slices = Vec::new();
    for (index, subset) in object.subsets.iter().flatten().enumerate() {
        let ports = ports(subset, index, &mut findings);
        let endpoints = addresses(subset, index, &mut findings);
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
            // A Service's name is short, so this one is not too long.
            let Ok(name) = ObjectName::new(service.namespace(), &name) else {
                continue;
            };
            let mut slice = EndpointSlice::new(name, service, of);
            slice.ports = ports.clone().into();
            slice.endpoints = endpoints;
            slices.push(slice);
        }
    }
    let known = service.is_some();
    findings.converted(Some(slices).filter(|_| known))
}

fn ports(subset: &api::EndpointSubset, index: usize, findings: &mut Findings) -> Vec<EndpointPort> {
    let field = format!("subsets[{index}].ports");
    let ports = subset.ports.as_deref().unwrap_or_default();
    let names = ports.iter().map(|port| port.name.as_deref());
    findings.distinct_port_names(names, ports.len() > 1, &field);
    let port = |(index, port): (usize, &api::EndpointPort)| {
        let raw = Port {
            name: port.name.as_deref(),
            protocol: port.protocol.as_deref(),
            port: port.port,
        };
        let (name, protocol, port) = findings.port_of_list(index, &raw, &field)?;
        Some(EndpointPort::new(name, protocol, port))
    };
    ports.iter().enumerate().filter_map(port).collect()
}

fn addresses(subset: &api::EndpointSubset, index: usize, findings: &mut Findings) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    let ready = (subset.addresses.as_deref(), "addresses", true);
    let not_ready = (
        subset.not_ready_addresses.as_deref(),
        "notReadyAddresses",
        false,
    );
    for (addresses, list, ready) in [ready, not_ready] {
        for (which, address) in addresses.unwrap_or_default().iter().enumerate() {
            let field = format_args!("subsets[{index}].{list}[{which}]");
            let node = address.node_name.as_deref();
            let node = findings.node_name(node, format_args!("{field}.nodeName"));
            let ip = findings.address(&address.ip, format_args!("{field}.ip"));
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
