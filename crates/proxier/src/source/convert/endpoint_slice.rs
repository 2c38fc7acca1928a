//! `discovery.k8s.io/v1/EndpointSlice`.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1 as api;
use k8s_openapi::jiff;

use super::address::family;
use super::field::{Port, namespace, reason};
use super::names::{check_node_name, check_zone_name, intern};
use super::{Converted, Findings};
use crate::model::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Family, Hints, InvalidName,
    ObjectName, Timestamp,
};

/// The label that names the Service of a slice.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The annotation that says what change of a pod or Service led to the slice's last one.
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The API server's bound on the endpoints of one slice.
const MAX_ENDPOINTS: usize = 1000;
/// The API server's bound on the addresses of one endpoint.
const MAX_ADDRESSES: usize = 100;
/// The API server's bound on the ports of one slice.
const MAX_PORTS: usize = 20_000;
/// The API server's bound on the zones, and on the nodes, of an endpoint's hints.
const MAX_HINTS: usize = 8;

/// Converts an endpoint slice. One of host names (`addressType: FQDN`), one that belongs to no
/// Service and one with a label that takes it from a node's service proxy are left out with a
/// note.
pub fn endpoint_slice(object: &api::EndpointSlice) -> Converted<EndpointSlice> {
    let mut findings = Findings::default();
    let name = findings.object_name(&object.metadata, ObjectName::new);
    if findings.not_ours(&object.metadata) {
        return findings.converted(None);
    }
    let service = service_of(object, &mut findings);
    let family = match object.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        "FQDN" => {
            findings.note(
                format_args!("addressType"),
                "FQDN: a service proxy sends to addresses, not to host names",
            );
            None
        }
        "" => {
            findings.error(format_args!("addressType"), "missing");
            None
        }
        other => {
            findings.error(
                format_args!("addressType"),
                format_args!("{other:?} is not a type of address (IPv4, IPv6 or FQDN)"),
            );
            None
        }
    };
    let ports = ports(object.ports.as_deref().unwrap_or_default(), &mut findings);
    let Some(family) = family else {
        return findings.converted(None);
    };
    let endpoints = endpoints(
        object.endpoints.as_deref().unwrap_or_default(),
        family,
        &mut findings,
    );
    let last_change = last_change(object, &mut findings);
    let slice = name.zip(service).map(|(name, service)| {
        let mut slice = EndpointSlice::new(name, service, family);
        slice.ports = ports.into();
        slice.endpoints = endpoints.into();
        slice.last_change = last_change;
        slice
    });
    findings.converted(slice)
}

/// Metrics alone use it: what cannot be read is left out with a note.
fn last_change(object: &api::EndpointSlice, findings: &mut Findings) -> Option<Timestamp> {
    let text = object.metadata.annotations.as_ref()?.get(LAST_CHANGE)?;
    let time: Option<jiff::Timestamp> = text.parse().ok();
    let time = time.and_then(|time| Duration::try_from(time.as_duration()).ok());
    let time = time.and_then(Timestamp::after_epoch);
    if time.is_none() {
        findings.note(
            format_args!("metadata.annotations[{LAST_CHANGE}]"),
            format_args!("not used: {text:?} is not a time after 1970 (RFC 3339)"),
        );
    }
    time
}

fn service_of(object: &api::EndpointSlice, findings: &mut Findings) -> Option<ObjectName> {
    let labels = object.metadata.labels.as_ref();
    let Some(service) = labels
        .and_then(|labels| labels.get(SERVICE_NAME))
        .filter(|service| !service.is_empty())
    else {
        findings.note(
            format_args!("metadata.labels"),
            format_args!("without the label {SERVICE_NAME} the slice belongs to no Service"),
        );
        return None;
    };
    match ObjectName::label(namespace(&object.metadata), service) {
        Ok(service) => Some(service),
        // The namespace's own fault is told with the slice's name.
        Err(error) if error.field == "metadata.namespace" => None,
        Err(error) => {
            findings.error(
                format_args!("metadata.labels[{SERVICE_NAME}]"),
                reason(&error),
            );
            None
        }
    }
}

fn ports(ports: &[api::EndpointPort], findings: &mut Findings) -> Vec<EndpointPort> {
    const FIELD: &str = "ports";
    if ports.len() > MAX_PORTS {
        findings.error(
            format_args!("{FIELD}"),
            format_args!("{} ports, where {MAX_PORTS} are the most", ports.len()),
        );
        return Vec::new();
    }
    findings.distinct_port_names(ports.iter().map(|port| port.name.as_deref()), false, FIELD);
    let mut converted = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let Some(number) = port.port else {
            findings.note(
                format_args!("{FIELD}[{index}].port"),
                "without a number the port cannot be sent to",
            );
            continue;
        };
        let raw = Port {
            name: port.name.as_deref(),
            protocol: port.protocol.as_deref(),
            port: number,
        };
        if let Some((name, protocol, port)) = findings.port_of_list(index, &raw, FIELD) {
            converted.push(EndpointPort::new(name, protocol, port));
        }
    }
    converted
}

fn endpoints(
    endpoints: &[api::Endpoint],
    slice_family: Family,
    findings: &mut Findings,
) -> Vec<Endpoint> {
    if endpoints.len() > MAX_ENDPOINTS {
        findings.error(
            format_args!("endpoints"),
            format_args!(
                "{} endpoints, where {MAX_ENDPOINTS} are the most",
                endpoints.len()
            ),
        );
        return Vec::new();
    }
    let endpoint = |(index, endpoint): (usize, &api::Endpoint)| {
        let addresses = &endpoint.addresses;
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            findings.error(
                format_args!("endpoints[{index}].addresses"),
                format_args!(
                    "{} addresses, where 1 to {MAX_ADDRESSES} may stand",
                    addresses.len()
                ),
            );
            return None;
        }
        let mut first = None;
        for (which, text) in addresses.iter().enumerate() {
            let field = format_args!("endpoints[{index}].addresses[{which}]");
            let Some(address) = findings.address(text, field) else {
                continue;
            };
            if family(address) != slice_family {
                findings.error(
                    field,
                    format_args!("{address} is not of the slice's addressType"),
                );
            }
            if which == 0 {
                first = Some(address);
            }
        }
        let node = endpoint.node_name.as_deref();
        let node = findings.node_name(node, format_args!("endpoints[{index}].nodeName"));
        let zone = endpoint.zone.as_deref();
        let zone = findings.zone(zone, format_args!("endpoints[{index}].zone"));
        let hints = endpoint.hints.as_ref();
        let hints = hints.and_then(|hints| self::hints(hints, index, findings));
        let mut converted = Endpoint::new(first?);
        converted.node = node;
        converted.zone = zone;
        converted.hints = hints;
        converted.conditions = conditions(endpoint.conditions.as_ref());
        Some(converted)
    };
    endpoints.iter().enumerate().filter_map(endpoint).collect()
}

/// Hints that name nobody say nothing.
fn hints(
    hints: &api::EndpointHints,
    endpoint: usize,
    findings: &mut Findings,
) -> Option<Box<Hints>> {
    let zones = hints.for_zones.iter().flatten();
    let zones: Vec<&str> = zones.map(|zone| zone.name.as_str()).collect();
    let nodes = hints.for_nodes.iter().flatten();
    let nodes: Vec<&str> = nodes.map(|node| node.name.as_str()).collect();
    let mut names = |names: &[&str], list, check| hinted(names, endpoint, list, check, findings);
    let zones = names(&zones, "forZones", check_zone_name);
    let nodes = names(&nodes, "forNodes", check_node_name);
    let any = !zones.is_empty() || !nodes.is_empty();
    any.then(|| Box::new(Hints::new(zones, nodes)))
}

fn hinted(
    names: &[&str],
    endpoint: usize,
    list: &str,
    check: fn(&str) -> Result<(), InvalidName>,
    findings: &mut Findings,
) -> Vec<Arc<str>> {
    let field = format_args!("endpoints[{endpoint}].hints.{list}");
    if names.len() > MAX_HINTS {
        findings.error(
            field,
            format_args!("{} names, where {MAX_HINTS} are the most", names.len()),
        );
        return Vec::new();
    }
    let mut hinted: Vec<Arc<str>> = Vec::with_capacity(names.len());
    for (which, name) in names.iter().enumerate() {
        let field = format_args!("{field}[{which}].name");
        if let Err(error) = check(name) {
            findings.error(field, reason(&error));
        } else if hinted.iter().any(|other| **other == **name) {
            findings.error(field, format_args!("{name:?} stands there twice"));
        } else {
            hinted.push(intern(name));
        }
    }
    hinted
}

fn conditions(conditions: Option<&api::EndpointConditions>) -> EndpointConditions {
    conditions.map_or_else(EndpointConditions::default, |conditions| {
        EndpointConditions::new(conditions.ready, conditions.serving, conditions.terminating)
    })
}
