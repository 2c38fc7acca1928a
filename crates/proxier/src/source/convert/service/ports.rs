//! `ports`.

use std::collections::HashSet;
use std::num::NonZeroU16;

use super::super::super::api::{self, IntOrString, Loose};
use super::super::Findings;
use super::super::field::{LeftOut, PortList};
use super::Kind;
use crate::model::{PortName, ServicePort};
use crate::source::derive::TargetPort;

const FIELD: &str = "spec.ports";
/// Maximum length of the name of a container's port (`IsValidPortName` in kubernetes
/// `staging/src/k8s.io/apimachinery/pkg/util/validation`).
const MAX_TARGET_NAME: usize = 15;

/// A port of a Service, with its target port.
#[derive(Debug)]
pub(in super::super) struct Port {
    pub(in super::super) port: ServicePort,
    pub(in super::super) target: TargetPort,
}

/// The ports of a Service.
pub(in super::super) fn ports(
    spec: &api::ServiceSpec,
    kind: Kind,
    findings: &mut Findings,
) -> Vec<Port> {
    let mut list = PortList::new(FIELD, spec.ports.len() > 1);
    let mut taken = HashSet::new();
    let mut taken_on_nodes = HashSet::new();
    let mut converted = Vec::with_capacity(spec.ports.len());
    for (index, port) in spec.ports.iter().enumerate() {
        let Some(port) = findings.item(port, format_args!("{FIELD}[{index}]")) else {
            continue;
        };
        let checked = list.port(index, port, findings);
        let target = target(
            port,
            checked.as_ref().map(|(.., number)| *number),
            index,
            findings,
        );
        let node_port = node_port(port, index, kind, findings);
        let (Some((name, protocol, number)), Ok(target)) = (checked, target) else {
            continue;
        };
        if !taken.insert((protocol, number)) {
            findings.left_out(
                format_args!("{FIELD}[{index}].port"),
                format_args!("{number} with this protocol is another port of the Service too"),
            );
            continue;
        }
        let node_port = node_port.filter(|number| {
            let free = taken_on_nodes.insert((protocol, *number));
            if !free {
                findings.left_out(
                    format_args!("{FIELD}[{index}].nodePort"),
                    format_args!(
                        "{number} with this protocol is another node port of the Service too"
                    ),
                );
            }
            free
        });
        let mut port = ServicePort::new(name, protocol, number);
        port.node_port = node_port;
        converted.push(Port { port, target });
    }
    converted
}

/// The target port; `port` if it is absent, 0 or empty (kubernetes `pkg/apis/core/v1/defaults.go`).
fn target(
    port: &api::Port,
    number: Option<NonZeroU16>,
    index: usize,
    findings: &mut Findings,
) -> Result<TargetPort, LeftOut> {
    let field = format_args!("{FIELD}[{index}].targetPort");
    let name = match &port.target_port {
        None | Some(Loose::Right(IntOrString::Int(0))) => "",
        Some(Loose::Right(IntOrString::String(name))) => name.as_str(),
        Some(Loose::Right(IntOrString::Int(target))) => {
            let target = findings.port(Some(&Loose::Right(*target)), field)?;
            return Ok(TargetPort::Number(target));
        }
        Some(Loose::Wrong(written)) => {
            findings.left_out(
                field,
                format_args!("{written} is not a port number or name"),
            );
            return Err(LeftOut);
        }
    };
    if name.is_empty() {
        return number.map(TargetPort::Number).ok_or(LeftOut);
    }
    target_name(name).map(TargetPort::Name).map_err(|reason| {
        findings.left_out(field, reason);
        LeftOut
    })
}

/// The name of a container's port.
fn target_name(name: &str) -> Result<PortName, String> {
    if let Ok(number) = name.parse::<u64>() {
        return Err(format!(
            "{name:?} is not the name of a port, which has a letter: write the number {number} \
             without quotes"
        ));
    }
    let valid = name.len() <= MAX_TARGET_NAME
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.contains("--");
    let parsed = PortName::new(name).ok().filter(|_| valid);
    parsed.ok_or_else(|| {
        format!(
            "{name:?} is not the name of a port (at most {MAX_TARGET_NAME} of a-z, 0-9 and single \
             '-', with a letter, and a letter or digit at both ends)"
        )
    })
}

/// A node port; 0 means none. The API server allocates missing ones, unless a Service of type
/// LoadBalancer disables that (`allocateLoadBalancerNodePorts: false`).
fn node_port(
    port: &api::Port,
    index: usize,
    kind: Kind,
    findings: &mut Findings,
) -> Option<NonZeroU16> {
    let field = format_args!("{FIELD}[{index}].nodePort");
    let written = port.node_port.as_ref();
    let written = written.filter(|written| **written != Loose::Right(0));
    match (kind, written) {
        (Kind::ExternalName, _) | (Kind::ClusterIp | Kind::LoadBalancer, None) => None,
        (Kind::NodePort, None) => {
            findings.note(
                field,
                "missing: svcproxy allocates none, so nothing answers on the nodes' addresses",
            );
            None
        }
        (Kind::ClusterIp, Some(written)) => {
            let number = findings.port(Some(written), field).ok()?;
            findings.left_out(
                field,
                format_args!("{number} is not allowed with type {kind:?}"),
            );
            None
        }
        (Kind::NodePort | Kind::LoadBalancer, written) => findings.port(written, field).ok(),
    }
}
