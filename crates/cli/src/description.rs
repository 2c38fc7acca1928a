//! One Service as the running svcproxy knows it: its settings, its endpoints, and which of them this
//! node uses.

use std::net::IpAddr;

use proxier::Proxier;
use proxier::desired::{
    Config, DesiredState, EndpointUse, Frontend, FrontendKind, Problem, Unanswered, endpoint_uses,
};
use proxier::mode::DataPlane;
use proxier::model::{ObjectName, Service, ServicePort, SessionAffinity, TrafficPolicy};
use proxier::store::{ServiceView, Store};
use serde::{Deserialize, Serialize};

/// The page `/services/NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Description {
    pub(crate) service: String,
    /// The node whose view this is.
    pub(crate) node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    pub(crate) internal_traffic_policy: String,
    pub(crate) external_traffic_policy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session_affinity_seconds: Option<u32>,
    /// If the Service chose one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scheduler: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health_check_node_port: Option<u16>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) ports: Vec<Port>,
    pub(crate) problems: Vec<ProblemOf>,
}

/// An address and port at which the Service asks to be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Address {
    /// Cluster IP, load-balancer IP, external IP or node port.
    pub(crate) kind: String,
    /// None for a node port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<IpAddr>,
    pub(crate) family: String,
    pub(crate) protocol: String,
    pub(crate) port: u16,
    pub(crate) port_name: String,
    /// The only networks that may connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source_ranges: Option<Vec<String>>,
    /// The Service that has it, if that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) held_by: Option<String>,
}

/// A port of the Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_port: Option<u16>,
    pub(crate) endpoints: Vec<EndpointOf>,
    /// Why there are none, by family.
    pub(crate) without_endpoints: Vec<WithoutEndpoints>,
}

/// An endpoint of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointOf {
    pub(crate) address: IpAddr,
    /// None if its slice has no such port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    pub(crate) slice: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) weight: u16,
    /// Why this node does not use it under traffic policy Cluster; none if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unused: Option<String>,
    /// Why this node does not use it under traffic policy Local; none if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unused_here: Option<String>,
}

/// Why a port has no endpoints in a family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WithoutEndpoints {
    pub(crate) family: String,
    /// None if there are endpoints on other nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) anywhere: Option<String>,
    /// None if there are some on this node, or if no traffic policy needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_this_node: Option<String>,
}

/// What the Service requests and does not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProblemOf {
    pub(crate) field: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A page, as JSON: of the Service `NAMESPACE/NAME`, or of all that name an address and port, which
/// are `ADDRESS@PORT`. `None` if there is no such Service.
pub(crate) fn page<B: DataPlane>(about: &str, proxier: &Proxier<B>) -> Option<String> {
    if let Some((address, port)) = about.split_once('@') {
        let (address, port) = (address.parse().ok()?, port.parse().ok()?);
        let mut all = at(address, port, proxier.store(), proxier.desired());
        for of in &mut all {
            of.add_problems(proxier.problems_of(&name(&of.service)?));
        }
        return serde_json::to_string(&all).ok();
    }
    let name = name(about)?;
    let view = proxier.store().get(&name)?;
    let mut description = describe(view, proxier.desired());
    description.add_problems(proxier.problems_of(&name));
    serde_json::to_string(&description).ok()
}

/// Reads `NAMESPACE/NAME`.
pub(crate) fn name(text: &str) -> Option<ObjectName> {
    let (namespace, name) = text.split_once('/')?;
    ObjectName::new(namespace, name).ok()
}

/// The Services that name an address, or this number as a node port, with their problems.
pub(crate) fn at(
    address: IpAddr,
    port: u16,
    store: &Store,
    desired: &DesiredState,
) -> Vec<Description> {
    let names = |service: &Service| {
        let all = [
            &service.cluster_ips,
            &service.external_ips,
            &service.load_balancer_ips,
        ];
        let mut addresses = all.into_iter().flat_map(|ips| ips.iter());
        let mut ports = service.ports.iter().filter_map(|port| port.node_port);
        addresses.any(|ip| *ip == address) || ports.any(|of| of.get() == port)
    };
    let views = store.services().filter(|view| names(view.service));
    let mut found: Vec<_> = views
        .map(|view| {
            let mut description = describe(view, desired);
            description.add_problems(desired.problems_of(&view.service.name));
            description
        })
        .collect();
    found.sort_by(|a, b| a.service.cmp(&b.service));
    found
}

impl Description {
    fn add_problems(&mut self, problems: Vec<Problem>) {
        self.problems = problems.into_iter().map(ProblemOf::from).collect();
    }
}

impl From<Problem> for ProblemOf {
    fn from(problem: Problem) -> Self {
        Self {
            field: problem.field,
            reason: problem.reason.to_string(),
            message: problem.message,
        }
    }
}

/// A Service, without its problems.
fn describe(view: ServiceView<'_>, desired: &DesiredState) -> Description {
    let (service, config) = (view.service, desired.config());
    let unanswered = desired.unanswered(&service.name);
    let mut frontends: Vec<_> = desired.frontends_of(&service.name).collect();
    frontends.sort_by_key(|frontend| (frontend.kind, frontend.key));
    let ports = service.ports.iter();
    Description {
        service: service.name.to_string(),
        node: config.node_name.to_string(),
        zone: config.zone.as_deref().map(str::to_owned),
        internal_traffic_policy: policy(service.internal_traffic_policy),
        external_traffic_policy: policy(service.external_traffic_policy),
        session_affinity_seconds: match service.session_affinity {
            SessionAffinity::ClientIp(seconds) => Some(seconds.get()),
            _ => None,
        },
        scheduler: service.scheduler.map(|scheduler| scheduler.to_string()),
        health_check_node_port: service.health_check_node_port.map(Into::into),
        addresses: frontends
            .into_iter()
            .map(|frontend| address(frontend, desired))
            .collect(),
        ports: ports
            .map(|port| describe_port(view, port, unanswered, config))
            .collect(),
        problems: Vec::new(),
    }
}

fn policy(policy: TrafficPolicy) -> String {
    match policy {
        TrafficPolicy::Local => "Local".to_owned(),
        _ => "Cluster".to_owned(),
    }
}

fn address(frontend: &Frontend, desired: &DesiredState) -> Address {
    let (key, own) = (frontend.key, &frontend.owner.service);
    let holder = desired.frontend(&key).map(|held| &held.owner.service);
    let ranges = frontend.source_ranges.as_deref();
    Address {
        kind: frontend.kind.to_string(),
        address: (frontend.kind != FrontendKind::NodePort).then_some(key.address),
        family: key.family().to_string(),
        protocol: key.protocol.to_string(),
        port: key.port.get(),
        port_name: frontend.owner.port.to_string(),
        source_ranges: ranges.map(|ranges| ranges.iter().map(ToString::to_string).collect()),
        held_by: holder
            .filter(|holder| *holder != own)
            .map(ToString::to_string),
    }
}

fn describe_port(
    view: ServiceView<'_>,
    port: &ServicePort,
    unanswered: &[Unanswered],
    config: &Config,
) -> Port {
    let of_port = unanswered
        .iter()
        .filter(|of| of.port == port.name && of.protocol == port.protocol);
    let text = |why: &Option<_>| why.as_ref().map(ToString::to_string);
    Port {
        name: port.name.to_string(),
        protocol: port.protocol.to_string(),
        port: port.port.get(),
        node_port: port.node_port.map(Into::into),
        endpoints: endpoint_uses(view, port, config)
            .into_iter()
            .map(endpoint)
            .collect(),
        without_endpoints: of_port
            .map(|of| WithoutEndpoints {
                family: of.family.to_string(),
                anywhere: text(&of.anywhere),
                on_this_node: text(&of.here),
            })
            .collect(),
    }
}

fn endpoint(of: EndpointUse) -> EndpointOf {
    EndpointOf {
        address: of.address,
        port: of.port.map(Into::into),
        slice: of.slice.name().to_owned(),
        node: of.node.as_deref().map(str::to_owned),
        zone: of.zone.as_deref().map(str::to_owned),
        ready: of.conditions.ready,
        serving: of.conditions.serving,
        terminating: of.conditions.terminating,
        weight: of.weight,
        unused: of.unused.map(|why| why.to_string()),
        unused_here: of.unused_here.map(|why| why.to_string()),
    }
}
