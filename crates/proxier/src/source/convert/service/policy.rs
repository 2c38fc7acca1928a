//! Traffic policies, the health check node port, and the scheduler of the annotations.

use std::num::NonZeroU16;

use ipvs::{Flags, Scheduler};

use super::super::super::api::annotation::{PROXY_PROTOCOL, SCHEDULER, SCHEDULER_FLAGS};
use super::super::super::api::{self, Loose, Metadata};
use super::super::Findings;
use super::Kind;
use crate::model::{Protocol, ProxyProtocol, ServicePort, TrafficPolicy};

/// `spec.internalTrafficPolicy`.
pub(super) fn internal(spec: &api::ServiceSpec, findings: &mut Findings) -> TrafficPolicy {
    match spec.internal_traffic_policy.as_deref() {
        None | Some("") => TrafficPolicy::Cluster,
        Some(text) => policy(text, "spec.internalTrafficPolicy", findings),
    }
}

/// `spec.externalTrafficPolicy`. Only Services that are reachable from outside the cluster have it.
pub(super) fn external(
    spec: &api::ServiceSpec,
    kind: Kind,
    findings: &mut Findings,
) -> TrafficPolicy {
    const FIELD: &str = "spec.externalTrafficPolicy";
    let text = spec.external_traffic_policy.as_deref().unwrap_or_default();
    let has_external_ips = !spec.external_ips.is_empty();
    let reachable = match kind {
        Kind::NodePort | Kind::LoadBalancer => true,
        Kind::ClusterIp => has_external_ips,
        Kind::ExternalName => false,
    };
    if text.is_empty() {
        return TrafficPolicy::Cluster;
    }
    if !reachable {
        findings.error(
            format_args!("{FIELD}"),
            format_args!(
                "{text:?} is not allowed with type {kind:?}: nothing of the Service can be reached \
                 from outside"
            ),
        );
        return TrafficPolicy::Cluster;
    }
    policy(text, FIELD, findings)
}

fn policy(text: &str, field: &str, findings: &mut Findings) -> TrafficPolicy {
    match text {
        "Cluster" => TrafficPolicy::Cluster,
        "Local" => TrafficPolicy::Local,
        other => {
            findings.error(
                format_args!("{field}"),
                format_args!("{other:?} is not a traffic policy (Cluster or Local)"),
            );
            TrafficPolicy::Cluster
        }
    }
}

/// `spec.healthCheckNodePort`; 0 means none. It takes precedence over a node port of the same
/// number: if a Pod answered the load balancer's checks, a node without endpoints would look
/// healthy.
pub(super) fn health_check_node_port(
    spec: &api::ServiceSpec,
    kind: Kind,
    external: TrafficPolicy,
    ports: &mut [ServicePort],
    findings: &mut Findings,
) -> Option<NonZeroU16> {
    let field = format_args!("spec.healthCheckNodePort");
    let needed = kind == Kind::LoadBalancer && external == TrafficPolicy::Local;
    let written = spec.health_check_node_port.as_ref();
    let Some(written) = written.filter(|written| **written != Loose::Right(0)) else {
        if needed {
            findings.note(
                field,
                "missing: svcproxy allocates none, so a load balancer cannot ask which nodes have \
                 endpoints",
            );
        }
        return None;
    };
    let number = findings.port(Some(written), field).ok()?;
    if !needed {
        findings.left_out(
            field,
            format_args!(
                "{number} is allowed only with type LoadBalancer and externalTrafficPolicy Local"
            ),
        );
        return None;
    }
    for port in ports {
        if port.protocol == Protocol::Tcp && port.node_port == Some(number) {
            findings.left_out(
                field,
                format_args!(
                    "{number} is the node port of port {} too, which is not served",
                    port.port
                ),
            );
            port.node_port = None;
        }
    }
    Some(number)
}

/// The version of the PROXY protocol. Any other is noted, and endpoints get no header.
pub(super) fn proxy_protocol(
    metadata: &Metadata,
    findings: &mut Findings,
) -> Option<ProxyProtocol> {
    match metadata.annotation(PROXY_PROTOCOL)?.trim() {
        "v1" => Some(ProxyProtocol::V1),
        "v2" => Some(ProxyProtocol::V2),
        other => {
            findings.note(
                format_args!("metadata.annotations[{PROXY_PROTOCOL}]"),
                format_args!(
                    "not used: {other:?} is not a version of the PROXY protocol (v1 or v2)"
                ),
            );
            None
        }
    }
}

/// The named flags, as in ipvsadm(8).
const FLAGS: [(Scheduler, &str, Flags); 4] = [
    (Scheduler::SourceHash, "sh-fallback", Flags::SH_FALLBACK),
    (Scheduler::SourceHash, "sh-port", Flags::SH_PORT),
    (Scheduler::MaglevHash, "mh-fallback", Flags::MH_FALLBACK),
    (Scheduler::MaglevHash, "mh-port", Flags::MH_PORT),
];

/// The scheduler and its flags. Unusable ones are noted, and the default is used.
pub(super) fn scheduler(
    metadata: &Metadata,
    findings: &mut Findings,
) -> (Option<Scheduler>, Option<Flags>) {
    let scheduler = metadata.annotation(SCHEDULER);
    let scheduler = scheduler.and_then(|name| known(name, findings));
    let text = metadata.annotation(SCHEDULER_FLAGS);
    let flags = text.and_then(|text| flags(text, scheduler, findings));
    (scheduler, flags)
}

fn known(name: &str, findings: &mut Findings) -> Option<Scheduler> {
    // With "none", IPVS schedules no connections.
    let known = || Scheduler::known().filter(|known| *known != Scheduler::NoScheduler);
    let found = known().find(|known| known.as_str() == name.trim());
    if found.is_none() {
        let names: Vec<String> = known().map(|known| known.to_string()).collect();
        findings.note(
            format_args!("metadata.annotations[{SCHEDULER}]"),
            format_args!(
                "not used: {name:?} is not a scheduler ({})",
                names.join(", ")
            ),
        );
    }
    found
}

fn flags(text: &str, scheduler: Option<Scheduler>, findings: &mut Findings) -> Option<Flags> {
    let field = format_args!("metadata.annotations[{SCHEDULER_FLAGS}]");
    let Some(scheduler) = scheduler else {
        findings.note(
            field,
            format_args!("not used: {SCHEDULER} names no scheduler to which the flags belong"),
        );
        return None;
    };
    let mut flags = None;
    for name in text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        let flag = |(of, known, _): &&(Scheduler, &str, Flags)| *of == scheduler && *known == name;
        match FLAGS.iter().find(flag) {
            Some((.., flag)) => flags = Some(flags.unwrap_or(Flags::NONE) | *flag),
            None => findings.note(
                field,
                format_args!("not used: {name:?} is not a flag of the scheduler {scheduler}"),
            ),
        }
    }
    flags
}
