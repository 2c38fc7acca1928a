//! `v1/Service`.

mod addresses;
mod policy;
pub(super) mod ports;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

use super::super::api::{self, Loose};
use super::field::OTHER_PROXY;
use super::names::reason;
use super::{Converted, Findings};
use crate::model::check_subdomain;
use crate::model::{Forwarding, ObjectName, Service, ServicePort, SessionAffinity, Uid, Unproxied};
use crate::notice::Reason;
use crate::source::Extent;

/// Default timeout of session affinity in seconds: three hours.
const DEFAULT_TIMEOUT: i32 = 10_800;
/// Maximum timeout of session affinity in seconds: a day.
const MAX_TIMEOUT: i32 = 86_400;

/// The label that exports a Service's traffic metrics, with the value `true`.
const METRICS: &str = "svcproxy.io/metrics";

/// `spec.type`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// Prints the type as the API spells it.
impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        })
    }
}

/// Converts a Service. One with a label that assigns it to another service proxy is left out with a
/// note, or, with [`Extent::Named`], has no addresses to serve ([`Unproxied`]).
///
/// ```
/// use proxier::source::{Extent, api, convert};
///
/// let object: api::Service = serde_json::from_str(
///     r#"{
///         "metadata": {"name": "web"},
///         "spec": {
///             "clusterIP": "10.96.0.80",
///             "ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 70000}]
///         }
///     }"#,
/// )?;
/// let converted = convert::service(&object, Extent::Served);
/// assert_eq!(converted.object.unwrap().ports.len(), 1);
/// assert_eq!(
///     converted.diagnostics[0].to_string(),
///     "spec.ports[1].port: 70000 is not a port number (1 to 65535)",
/// );
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn service(object: &api::Service, extent: Extent) -> Converted<Service> {
    let mut findings = Findings::default();
    let metadata = &object.metadata;
    let name = findings.object_name(metadata, ObjectName::label);
    if extent == Extent::Served && findings.is_excluded(metadata, &OTHER_PROXY) {
        return findings.converted(None);
    }
    let noted = findings.diagnostics.len();
    let (scheduler, scheduler_flags) = policy::scheduler(metadata, &mut findings);
    let unusable = findings.unusable_since(noted, Reason::UnknownScheduler);
    let proxy_protocol = policy::proxy_protocol(metadata, &mut findings);
    let Some(spec) = &object.spec else {
        findings.error(format_args!("spec"), "missing");
        return findings.converted(None);
    };
    let kind = kind(spec, &mut findings);
    let cluster_ips = addresses::cluster_ips(spec, kind, &mut findings);
    let mut ports = ports(spec, kind, &cluster_ips, &mut findings);
    let session_affinity = session_affinity(spec, &mut findings);
    let external_ips = addresses::external_ips(spec, &cluster_ips, &mut findings);
    let internal_traffic_policy = policy::internal(spec, &mut findings);
    let external_traffic_policy = policy::external(spec, kind, &mut findings);
    let policy = external_traffic_policy;
    let health_check_node_port =
        policy::health_check_node_port(spec, kind, policy, &mut ports, &mut findings);
    let source_ranges = addresses::source_ranges(object, spec, kind, &mut findings);
    let mut load_balancer_ips =
        addresses::load_balancer_ips(object, kind, &cluster_ips, &mut findings);
    if source_ranges.is_err() {
        load_balancer_ips.clear();
    }
    let unproxied = match extent {
        Extent::Served => None,
        Extent::Named => unproxied(object, spec, kind, &cluster_ips, &mut findings),
    };
    let mut service = name.map(|name| Service {
        cluster_ips: cluster_ips.into(),
        external_ips: external_ips.into(),
        load_balancer_ips: load_balancer_ips.into(),
        load_balancer_source_ranges: source_ranges.unwrap_or_default().into(),
        ports: ports.into(),
        session_affinity,
        internal_traffic_policy,
        external_traffic_policy,
        health_check_node_port,
        scheduler,
        scheduler_flags,
        forwarding: Forwarding::Masquerade,
        proxy_protocol,
        created: created(metadata),
        metrics: metadata.label(METRICS) == Some("true"),
        uid: metadata.uid.as_deref().and_then(Uid::new),
        unusable,
        unproxied: unproxied.map(Box::new),
        name,
    });
    if let Some(service) = &mut service
        && service.unproxied.is_some()
    {
        service.cluster_ips = Box::default();
        service.external_ips = Box::default();
        service.load_balancer_ips = Box::default();
        service.health_check_node_port = None;
    }
    findings.converted(service)
}

/// What clients find under the name of a Service that this proxy does not serve.
fn unproxied(
    object: &api::Service,
    spec: &api::ServiceSpec,
    kind: Kind,
    cluster_ips: &[IpAddr],
    findings: &mut Findings,
) -> Option<Unproxied> {
    if kind == Kind::ExternalName {
        return external_name(spec, findings).map(Unproxied::ExternalName);
    }
    if addresses::is_headless(spec) {
        return Some(Unproxied::Headless {
            publish_not_ready_addresses: spec.publish_not_ready_addresses,
        });
    }
    let is_other = object.metadata.labels.contains_key(OTHER_PROXY.label);
    is_other.then(|| Unproxied::OtherProxy(cluster_ips.into()))
}

/// `spec.externalName`. Kubernetes documents that one which looks like an IPv4 address does not
/// resolve.
fn external_name(spec: &api::ServiceSpec, findings: &mut Findings) -> Option<Box<str>> {
    const FIELD: &str = "spec.externalName";
    let text = findings.text(spec.external_name.as_ref(), format_args!("{FIELD}"));
    let Some(text) = text.ok()? else {
        findings.left_out(
            format_args!("{FIELD}"),
            "missing: the name does not resolve",
        );
        return None;
    };
    // A dot at the end is allowed (`ValidateService` in kubernetes `pkg/apis/core/validation`).
    let name = text.strip_suffix('.').unwrap_or(text);
    if let Err(error) = check_subdomain(FIELD, name) {
        findings.left_out(format_args!("{FIELD}"), reason(&error));
        return None;
    }
    if name.parse::<Ipv4Addr>().is_ok() {
        findings.note(
            format_args!("{FIELD}"),
            format_args!("{name} looks like an address: the name does not resolve"),
        );
        return None;
    }
    Some(name.into())
}

/// The ports. A Service with a cluster IP must have at least one.
fn ports(
    spec: &api::ServiceSpec,
    kind: Kind,
    cluster_ips: &[IpAddr],
    findings: &mut Findings,
) -> Vec<ServicePort> {
    if spec.ports.is_empty() && !cluster_ips.is_empty() {
        findings.error(
            format_args!("spec.ports"),
            "missing: a Service with a cluster IP must have a port",
        );
    }
    let ports = ports::ports(spec, kind, findings).into_iter();
    let ports: Vec<_> = ports.map(|port| port.port).collect();
    if ports.is_empty() && !spec.ports.is_empty() {
        findings.nothing_left();
    }
    ports
}

/// The time of creation, in seconds since 1970. It only decides between Services that claim the
/// same address, so an invalid time counts as absent.
fn created(metadata: &api::Metadata) -> Option<i64> {
    match metadata.creation_timestamp {
        Some(Loose::Right(api::Seconds(seconds))) => Some(seconds),
        _ => None,
    }
}

/// The type of a Service; ClusterIP if absent.
pub(super) fn kind(spec: &api::ServiceSpec, findings: &mut Findings) -> Kind {
    match spec.type_.as_deref().unwrap_or_default() {
        "" | "ClusterIP" => Kind::ClusterIp,
        "NodePort" => Kind::NodePort,
        "LoadBalancer" => Kind::LoadBalancer,
        "ExternalName" => Kind::ExternalName,
        other => {
            findings.error(
                format_args!("spec.type"),
                format_args!(
                    "{other:?} is not a type of Service (ClusterIP, NodePort, LoadBalancer or \
                     ExternalName)"
                ),
            );
            // The type that all other fields are valid for, to avoid further errors.
            Kind::LoadBalancer
        }
    }
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
