//! `v1/Service`.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU32;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::field::{Port, family};
use super::{Converted, Findings};
use crate::model::{ObjectName, Service, ServicePort, SessionAffinity};

/// `spec.clusterIP` of a headless Service.
const HEADLESS: &str = "None";
/// Session affinity's timeout in seconds, where none is given: three hours.
const DEFAULT_TIMEOUT: i32 = 10_800;
/// Longest session affinity, in seconds: a day.
const MAX_TIMEOUT: i32 = 86_400;

/// Converts a Service.
///
/// ```
/// use k8s_openapi::api::core::v1 as api;
/// use proxier::source::convert;
///
/// let mut object = api::Service::default();
/// object.metadata.name = Some("web".into());
/// object.spec = Some(api::ServiceSpec {
///     cluster_ip: Some("10.96.0.80".into()),
///     ports: Some(vec![api::ServicePort { port: 70_000, ..Default::default() }]),
///     ..Default::default()
/// });
/// let converted = convert::service(&object);
/// assert!(converted.object.is_none());
/// assert_eq!(
///     converted.diagnostics[0].to_string(),
///     "spec.ports[0].port: 70000 is not a port number (1 to 65535)",
/// );
/// ```
pub fn service(object: &api::Service) -> Converted<Service> {
    let mut findings = Findings::default();
    let name = findings.object_name(&object.metadata, ObjectName::label);
    let Some(spec) = &object.spec else {
        findings.error(format_args!("spec"), "missing");
        return findings.converted(None);
    };
    let cluster_ips = cluster_ips(spec, &mut findings);
    if !cluster_ips.is_empty() && spec.ports.as_deref().unwrap_or_default().is_empty() {
        findings.error(
            format_args!("spec.ports"),
            "missing: a Service with a cluster IP must have a port",
        );
    }
    let ports = ports(spec, &mut findings);
    let session_affinity = session_affinity(spec, &mut findings);
    let created = object.metadata.creation_timestamp.as_ref();
    let service = name.map(|name| {
        let mut service = Service::new(name);
        service.cluster_ips = cluster_ips.into();
        service.ports = ports.into();
        service.session_affinity = session_affinity;
        service.created = created.map(|time| time.0.as_second());
        service
    });
    findings.converted(service)
}

fn cluster_ips(spec: &api::ServiceSpec, findings: &mut Findings) -> Vec<IpAddr> {
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    match kind {
        "ExternalName" => return Vec::new(),
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        other => findings.error(
            format_args!("spec.type"),
            format_args!(
                "{other:?} is not a type of Service (ClusterIP, NodePort, LoadBalancer or ExternalName)"
            ),
        ),
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
            if kind != "ClusterIP" {
                findings.error(
                    format_args!("spec.clusterIP"),
                    format_args!("None (a headless Service) does not go with type {kind:?}"),
                );
            }
            return Vec::new();
        }
        _ => {}
    }
    if all.is_empty() {
        return Vec::from_iter(findings.address(one, format_args!("spec.clusterIP")));
    }
    addresses(all, findings)
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

fn ports(spec: &api::ServiceSpec, findings: &mut Findings) -> Vec<ServicePort> {
    const FIELD: &str = "spec.ports";
    let ports = spec.ports.as_deref().unwrap_or_default();
    let names = ports.iter().map(|port| port.name.as_deref());
    findings.distinct_port_names(names, ports.len() > 1, FIELD);
    let mut taken = HashSet::new();
    let mut converted = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        if let Some(IntOrString::Int(target)) = port.target_port {
            findings.port(target, format_args!("{FIELD}[{index}].targetPort"));
        }
        let raw = Port {
            name: port.name.as_deref(),
            protocol: port.protocol.as_deref(),
            port: port.port,
        };
        let Some((name, protocol, number)) = findings.port_of_list(index, &raw, FIELD) else {
            continue;
        };
        if !taken.insert((protocol, number)) {
            findings.error(
                format_args!("{FIELD}[{index}].port"),
                format_args!("{number} with this protocol is another port of the Service too"),
            );
        }
        converted.push(ServicePort::new(name, protocol, number));
    }
    converted
}

fn session_affinity(spec: &api::ServiceSpec, findings: &mut Findings) -> SessionAffinity {
    let config = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref());
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => {
            if config.is_some() {
                findings.error(
                    format_args!("spec.sessionAffinityConfig"),
                    "set, while spec.sessionAffinity is not ClientIP",
                );
            }
            SessionAffinity::None
        }
        Some("ClientIP") => {
            let seconds = config
                .and_then(|config| config.timeout_seconds)
                .unwrap_or(DEFAULT_TIMEOUT);
            let valid = u32::try_from(seconds).ok().and_then(NonZeroU32::new);
            match valid.filter(|_| seconds <= MAX_TIMEOUT) {
                Some(timeout) => SessionAffinity::ClientIp(timeout),
                None => {
                    findings.error(
                        format_args!("spec.sessionAffinityConfig.clientIP.timeoutSeconds"),
                        format_args!("{seconds} is not 1 to {MAX_TIMEOUT} seconds"),
                    );
                    SessionAffinity::None
                }
            }
        }
        Some(other) => {
            findings.error(
                format_args!("spec.sessionAffinity"),
                format_args!("{other:?} is not a session affinity (None or ClientIP)"),
            );
            SessionAffinity::None
        }
    }
}
