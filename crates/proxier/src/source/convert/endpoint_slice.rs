//! `discovery.k8s.io/v1/EndpointSlice`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::api::annotation::{self, WEIGHT};
use super::super::api::{self, Loose, Metadata};
use super::address::{family, parse_address};
use super::field::{OF_HEADLESS, PortList, namespace};
use super::names::reason;
use super::names::{check_node_name, check_zone_name, intern};
use super::{Converted, Findings};
use crate::model::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Family, Hints, InvalidName,
    ObjectName, Timestamp,
};
use crate::source::Extent;

/// The label that names the Service of a slice.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The API server's bound on the endpoints of one slice.
const MAX_ENDPOINTS: usize = 1000;
/// The API server's bound on the addresses of one endpoint.
const MAX_ADDRESSES: usize = 100;
/// The API server's bound on the ports of one slice.
const MAX_PORTS: usize = 20_000;
/// The API server's bound on the zones, and on the nodes, of an endpoint's hints.
const MAX_HINTS: usize = 8;

/// Converts an endpoint slice. A slice of host names (`addressType: FQDN`), one that belongs to no
/// Service and, without [`Extent::Named`], one of a headless Service are left out with a note.
pub fn endpoint_slice(object: &api::EndpointSlice, extent: Extent) -> Converted<EndpointSlice> {
    let mut findings = Findings::default();
    let name = findings.object_name(&object.metadata, ObjectName::new);
    if extent == Extent::Served && findings.is_excluded(&object.metadata, &OF_HEADLESS) {
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
    let before = findings.diagnostics.len();
    let ports = ports(&object.ports, &mut findings);
    let ports_lost = ports.is_empty() && findings.left_out_since(before);
    let Some(family) = family else {
        return findings.converted(None);
    };
    let before = findings.diagnostics.len();
    let mut endpoints = endpoints(&object.endpoints, family, &mut findings);
    weigh(&mut endpoints, &object.metadata, &mut findings);
    if ports_lost || (endpoints.is_empty() && findings.left_out_since(before)) {
        findings.nothing_left();
    }
    let hostnames = match extent {
        Extent::Served => Vec::new(),
        Extent::Named => hostnames(&object.endpoints, &mut findings),
    };
    let last_change = last_change(object, &mut findings);
    let slice = name.zip(service).map(|(name, service)| {
        let mut slice = EndpointSlice::new(name, service, family);
        slice.ports = ports.into();
        slice.endpoints = endpoints.into();
        slice.hostnames = sorted(hostnames);
        slice.last_change = last_change;
        slice
    });
    findings.converted(slice)
}

/// The time of the change that led to the slice's last change. Only metrics use it, so an invalid
/// one is noted and ignored.
fn last_change(object: &api::EndpointSlice, findings: &mut Findings) -> Option<Timestamp> {
    let text = object.metadata.annotation(annotation::LAST_CHANGE)?;
    let time: Option<jiff::Timestamp> = text.parse().ok();
    let time = time.and_then(|time| Duration::try_from(time.as_duration()).ok());
    let time = time.and_then(Timestamp::after_epoch);
    if time.is_none() {
        findings.note(
            format_args!("metadata.annotations[{}]", annotation::LAST_CHANGE),
            format_args!("not used: {text:?} is not a time after 1970 (RFC 3339)"),
        );
    }
    time
}

fn service_of(object: &api::EndpointSlice, findings: &mut Findings) -> Option<ObjectName> {
    let service = object.metadata.label(SERVICE_NAME);
    let Some(service) = service.filter(|service| !service.is_empty()) else {
        findings.note(
            format_args!("metadata.labels"),
            format_args!("without the label {SERVICE_NAME} the slice belongs to no Service"),
        );
        return None;
    };
    match ObjectName::label(namespace(&object.metadata), service) {
        Ok(service) => Some(service),
        // An invalid namespace is reported with the slice's name.
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

fn ports(ports: &[Loose<api::Port>], findings: &mut Findings) -> Vec<EndpointPort> {
    const FIELD: &str = "ports";
    if ports.len() > MAX_PORTS {
        findings.error(
            format_args!("{FIELD}"),
            format_args!("{} ports; at most {MAX_PORTS} are allowed", ports.len()),
        );
        return Vec::new();
    }
    let mut list = PortList::new(FIELD, false);
    let mut converted = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let field = format_args!("{FIELD}[{index}]");
        let Some(port) = findings.item(port, field) else {
            continue;
        };
        if port.port.is_none() {
            findings.note(
                format_args!("{field}.port"),
                "not used: a port without a number cannot receive traffic",
            );
            continue;
        }
        let port = list.port(index, port, findings);
        converted
            .extend(port.map(|(name, protocol, port)| EndpointPort::new(name, protocol, port)));
    }
    converted
}

fn endpoints(
    endpoints: &[Loose<api::Endpoint>],
    slice_family: Family,
    findings: &mut Findings,
) -> Vec<Endpoint> {
    if endpoints.len() > MAX_ENDPOINTS {
        findings.error(
            format_args!("endpoints"),
            format_args!(
                "{} endpoints; at most {MAX_ENDPOINTS} are allowed",
                endpoints.len()
            ),
        );
        return Vec::new();
    }
    let mut converted = Vec::with_capacity(endpoints.len());
    for (index, endpoint) in endpoints.iter().enumerate() {
        let endpoint = findings.item(endpoint, format_args!("endpoints[{index}]"));
        let endpoint = endpoint.and_then(|e| self::endpoint(e, index, slice_family, findings));
        converted.extend(endpoint);
    }
    converted
}

fn endpoint(
    endpoint: &api::Endpoint,
    index: usize,
    slice_family: Family,
    findings: &mut Findings,
) -> Option<Endpoint> {
    let addresses = &endpoint.addresses;
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
        findings.left_out(
            format_args!("endpoints[{index}].addresses"),
            format_args!(
                "{} addresses; 1 to {MAX_ADDRESSES} are allowed",
                addresses.len()
            ),
        );
        return None;
    }
    let mut first = None;
    for (which, text) in addresses.iter().enumerate() {
        let field = format_args!("endpoints[{index}].addresses[{which}]");
        let Some(address) = findings.address(Some(text), field) else {
            continue;
        };
        if family(address) != slice_family {
            findings.left_out(
                field,
                format_args!("{address} is not of the slice's addressType"),
            );
        } else if which == 0 {
            // Service proxies use only the first address.
            first = Some(address);
        }
    }
    let node = endpoint.node_name.as_ref();
    let node = findings.node_name(node, format_args!("endpoints[{index}].nodeName"));
    let field = format_args!("endpoints[{index}].zone");
    let zone = findings.text(endpoint.zone.as_ref(), field).ok().flatten();
    let zone = findings.zone(zone, field);
    let hints = endpoint.hints.as_ref();
    let hints = hints.and_then(|hints| self::hints(hints, index, findings));
    let mut converted = Endpoint::new(first?);
    converted.node = node;
    converted.zone = zone;
    converted.hints = hints;
    let api::Conditions {
        ready,
        serving,
        terminating,
    } = endpoint.conditions;
    converted.conditions = EndpointConditions::new(ready, serving, terminating);
    Some(converted)
}

/// The host names of endpoints, by their first address.
fn hostnames(
    endpoints: &[Loose<api::Endpoint>],
    findings: &mut Findings,
) -> Vec<(IpAddr, Arc<str>)> {
    let mut hostnames = Vec::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let Loose::Right(endpoint) = endpoint else {
            continue;
        };
        let Some(Loose::Right(address)) = endpoint.addresses.first() else {
            continue;
        };
        let name = endpoint.hostname.as_ref();
        let name = findings.hostname(name, format_args!("endpoints[{index}].hostname"));
        hostnames.extend(parse_address(address).zip(name));
    }
    hostnames
}

/// Sorted by address, and each once. Pods on the node's network share its address, with a name each.
pub(super) fn sorted(mut hostnames: Vec<(IpAddr, Arc<str>)>) -> Box<[(IpAddr, Arc<str>)]> {
    hostnames.sort_unstable();
    hostnames.dedup();
    hostnames.into()
}

/// Hints without names are ignored, and so are hints with an invalid name: the remaining names
/// would keep other clients away from this endpoint.
fn hints(hints: &api::Hints, endpoint: usize, findings: &mut Findings) -> Option<Box<Hints>> {
    let mut names = |names, list, check| hinted(names, endpoint, list, check, findings);
    let zones = names(&hints.for_zones, "forZones", check_zone_name);
    let nodes = names(&hints.for_nodes, "forNodes", check_node_name);
    let (zones, nodes) = (zones?, nodes?);
    let any = !zones.is_empty() || !nodes.is_empty();
    any.then(|| Box::new(Hints::new(zones, nodes)))
}

/// None if a name is invalid.
fn hinted(
    names: &[api::Named],
    endpoint: usize,
    list: &str,
    check: fn(&str) -> Result<(), InvalidName>,
    findings: &mut Findings,
) -> Option<Vec<Arc<str>>> {
    let field = format_args!("endpoints[{endpoint}].hints.{list}");
    if names.len() > MAX_HINTS {
        findings.left_out(
            field,
            format_args!("{} names; at most {MAX_HINTS} are allowed", names.len()),
        );
        return None;
    }
    let mut hinted: Vec<Arc<str>> = Vec::with_capacity(names.len());
    let mut all_right = true;
    for (which, api::Named { name }) in names.iter().enumerate() {
        let field = format_args!("{field}[{which}].name");
        if let Err(error) = check(name) {
            findings.left_out(field, reason(&error));
            all_right = false;
        } else if hinted.iter().any(|other| **other == **name) {
            findings.left_out(field, format_args!("{name:?} is listed twice"));
        } else {
            hinted.push(intern(name));
        }
    }
    all_right.then_some(hinted)
}

/// Sets the weights of an object's endpoints by its annotation: a number for all of them, or
/// `ADDRESS=NUMBER` for one, separated by commas. Unusable parts are noted and change nothing.
pub(super) fn weigh(endpoints: &mut [Endpoint], metadata: &Metadata, findings: &mut Findings) {
    let Some(text) = metadata.annotation(WEIGHT) else {
        return;
    };
    let (mut all, mut of_one) = (None, Vec::new());
    for part in text.split(',').map(str::trim) {
        match parse(part) {
            Some((None, weight)) => all = Some(weight),
            Some((Some(address), weight)) => of_one.push((address, weight)),
            None => findings.note(
                format_args!("metadata.annotations[{WEIGHT}]"),
                format_args!(
                    "not used: {part:?} is neither a weight from 0 to 65535 nor ADDRESS=WEIGHT"
                ),
            ),
        }
    }
    for endpoint in endpoints {
        let own = of_one.iter().rfind(|(of, _)| *of == endpoint.address);
        let weight = own.map(|(_, weight)| *weight).or(all);
        endpoint.weight = weight.unwrap_or(endpoint.weight);
    }
}

fn parse(part: &str) -> Option<(Option<IpAddr>, u16)> {
    let (address, weight) = match part.split_once('=') {
        Some((address, weight)) => (Some(parse_address(address.trim())?), weight.trim()),
        None => (None, part),
    };
    // `parse` would accept a sign.
    let is_number = weight.bytes().all(|byte| byte.is_ascii_digit());
    Some((address, weight.parse().ok().filter(|_| is_number)?))
}
