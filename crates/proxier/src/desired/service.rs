//! Maps one Service and its slices to frontends.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ipvs::{Family, Scheduler, Tunnel};

use super::endpoints::{Endpoints, Targets, endpoints, ready_on_this_node, refused};
use super::{
    Backend, Config, Frontend, FrontendKey, FrontendKind, HealthCheck, NoEndpoints, Problem,
    ServicePortName, Unanswered, WithoutBackends,
};
use crate::model::{Forwarding, Protocol, Service, ServicePort, TrafficPolicy, special};
use crate::notice::Reason;
use crate::store::ServiceView;

/// What one Service requests of the node, and what of it is impossible.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Sorted by key, without duplicate keys.
    pub(super) frontends: Vec<Arc<Frontend>>,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) problems: Vec<Problem>,
    /// Ports without a usable endpoint in a family.
    pub(super) unanswered: Vec<Unanswered>,
    /// The scheduler that the Service chose.
    pub(super) scheduler: Option<Scheduler>,
    /// The forwarding method that the Service chose.
    pub(super) forwarding: Option<Forwarding>,
    /// Whether its endpoints expect the PROXY protocol.
    pub(super) has_header: bool,
    /// Where the endpoints are.
    pub(super) location: Option<Location>,
    /// Endpoints in a Service CIDR, one for each.
    pub(super) captured: Vec<Captured>,
}

/// An address of a Service.
#[derive(Debug, Clone)]
struct Vip {
    address: IpAddr,
    kind: FrontendKind,
    source_ranges: Option<Arc<[IpNet]>>,
}

/// Where a Service's endpoints are, as far as they name a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// Some are on this node.
    Here,
    /// None is on this node, and some are on this one.
    Elsewhere(Arc<str>),
}

impl Location {
    fn of(view: ServiceView<'_>, config: &Config) -> Option<Self> {
        let endpoints = view.slices().flat_map(|slice| &slice.endpoints);
        let mut nodes = endpoints.filter_map(|endpoint| endpoint.node.as_ref());
        let first = nodes.next()?;
        let is_own = |node: &Arc<str>| *node == config.node_name;
        Some(match is_own(first) || nodes.any(is_own) {
            true => Self::Here,
            false => Self::Elsewhere(Arc::clone(first)),
        })
    }
}

/// An endpoint in a Service CIDR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Captured {
    pub(super) cidr: IpNet,
    pub(super) endpoint: FrontendKey,
}

/// The endpoints in Service CIDRs, whether these are captured as a whole or not.
fn captured(view: ServiceView<'_>, config: &Config) -> Vec<Captured> {
    let mut captured = Vec::new();
    for slice in view.slices() {
        for endpoint in &slice.endpoints {
            let address = endpoint.address;
            let mut cidrs = config.service_cidrs.iter().chain(&config.shared_cidrs);
            let Some(cidr) = cidrs.find(|cidr| cidr.contains(&address)) else {
                continue;
            };
            captured.extend(slice.ports.iter().map(|port| Captured {
                cidr: *cidr,
                endpoint: FrontendKey {
                    protocol: port.protocol,
                    address,
                    port: port.port,
                },
            }));
        }
    }
    captured
}

pub(super) fn wishes(view: ServiceView<'_>, config: &Config) -> Wishes {
    let service = view.service;
    let mut wishes = Wishes::default();
    let unusable = service.unusable.iter().map(|unusable| Problem {
        service: service.name.clone(),
        field: unusable.field.clone(),
        reason: unusable.reason,
        message: unusable.message.clone(),
    });
    wishes.problems.extend(unusable);
    let vips = vips(service, config, &mut wishes.problems);
    let uses_local = service.internal_traffic_policy == TrafficPolicy::Local
        || service.external_traffic_policy == TrafficPolicy::Local;
    wishes.problems.extend(refused(view, config));
    let targets = Targets::of(view);
    for (index, port) in service.ports.iter().enumerate() {
        if let Protocol::Other(number) = port.protocol {
            wishes.problems.push(Problem {
                service: service.name.clone(),
                field: format!("spec.ports[{index}].protocol"),
                reason: Reason::AddressRefused,
                message: format!("{number} is not the protocol TCP, UDP or SCTP by name"),
            });
            continue;
        }
        for family in families(service, config) {
            let endpoints = endpoints(&targets, port, family, uses_local, config);
            let why = |none: bool, local| {
                none.then(|| NoEndpoints::find(view, &targets, port, family, local, config))
            };
            let anywhere = why(endpoints.cluster.is_empty(), false);
            let here = why(uses_local && endpoints.local.is_empty(), true);
            if anywhere.is_some() || here.is_some() {
                wishes.unanswered.push(Unanswered {
                    port: port.name.clone(),
                    protocol: port.protocol,
                    family,
                    anywhere,
                    here,
                });
            }
            let of_family = vips.iter().filter(|vip| Family::of(&vip.address) == family);
            let at_vips = of_family.map(|vip| {
                let key = FrontendKey {
                    protocol: port.protocol,
                    address: vip.address,
                    port: port.port,
                };
                frontend(service, port, key, vip, &endpoints, config)
            });
            wishes.frontends.extend(at_vips.map(Arc::new));
            let node_port = port.node_port.map(|number| {
                let key = FrontendKey::node_port(port.protocol, family, number);
                let vip = Vip {
                    address: key.address,
                    kind: FrontendKind::NodePort,
                    source_ranges: None,
                };
                frontend(service, port, key, &vip, &endpoints, config)
            });
            wishes.frontends.extend(node_port.map(Arc::new));
        }
    }
    // An address can have several kinds: a load-balancer IP is often an external IP too.
    wishes
        .frontends
        .sort_by_key(|frontend| (frontend.key, frontend.kind));
    wishes.frontends.dedup_by_key(|frontend| frontend.key);
    if !wishes.frontends.is_empty() {
        let scheduler = service.scheduler.unwrap_or(config.scheduler);
        let has_flags = service
            .scheduler_flags
            .is_some_and(|flags| !flags.is_empty());
        wishes.scheduler = (scheduler != config.scheduler || has_flags).then_some(scheduler);
        wishes.has_header = service.proxy_protocol.is_some();
        wishes.forwarding = Some(service.forwarding).filter(|f| *f != Forwarding::Masquerade);
    }
    if wishes.forwarding.is_some() {
        let refusals = wishes.frontends.iter();
        let refusals = refusals.filter_map(|frontend| {
            let reason = cannot_forward(service.forwarding, frontend, config)?;
            Some(Problem {
                service: service.name.clone(),
                field: "forwarding".to_owned(),
                reason: Reason::ForwardingIgnored,
                message: format!("{} is served by masquerade: {reason}", frontend.key),
            })
        });
        wishes.problems.extend(refusals);
    }
    wishes.location = Location::of(view, config);
    wishes.captured = captured(view, config);
    wishes.health_check = service.health_check_node_port.map(|port| HealthCheck {
        service: service.name.clone(),
        port,
        local_endpoints: ready_on_this_node(view, config),
    });
    wishes
}

fn frontend(
    service: &Service,
    port: &ServicePort,
    key: FrontendKey,
    vip: &Vip,
    endpoints: &Endpoints,
    config: &Config,
) -> Frontend {
    let is_internal = vip.kind == FrontendKind::ClusterIp;
    let (backends, external) = match (
        is_internal,
        service.internal_traffic_policy,
        service.external_traffic_policy,
    ) {
        (true, TrafficPolicy::Local, _) => (&endpoints.local, None),
        (false, _, TrafficPolicy::Local) => (&endpoints.cluster, Some(&endpoints.local)),
        _ => (&endpoints.cluster, None),
    };
    let backends = Arc::clone(backends);
    let external = external.cloned();
    // The local endpoints may be terminating while others are ready, or the other way round.
    let none_anywhere = endpoints.cluster.is_empty() && endpoints.local.is_empty();
    let all = || {
        backends
            .iter()
            .chain(external.iter().flat_map(|all| all.iter()))
    };
    let scheduler = service
        .scheduler
        .unwrap_or_else(|| with_weights(config.scheduler, all()));
    let mut frontend = Frontend {
        key,
        owner: ServicePortName {
            service: service.name.clone(),
            port: port.name.clone(),
        },
        kind: vip.kind,
        scheduler,
        scheduler_flags: service.scheduler_flags.unwrap_or_default(),
        session_affinity: service.session_affinity,
        forwarding: Forwarding::Masquerade,
        proxy_protocol: service.proxy_protocol,
        backends,
        without_backends: if none_anywhere {
            WithoutBackends::Refuse
        } else {
            WithoutBackends::Drop
        },
        external: external.filter(|_| !none_anywhere),
        source_ranges: vip.source_ranges.clone(),
    };
    if cannot_forward(service.forwarding, &frontend, config).is_none() {
        frontend.forwarding = service.forwarding;
    }
    frontend
}

/// The scheduler that does the same as the default one, but follows weights, if these differ.
fn with_weights<'a>(
    default: Scheduler,
    mut backends: impl Iterator<Item = &'a Backend>,
) -> Scheduler {
    let first = backends.next().map(|backend| backend.weight);
    match default {
        Scheduler::RoundRobin | Scheduler::LeastConnection
            if backends.all(|backend| Some(backend.weight) == first) =>
        {
            default
        }
        Scheduler::RoundRobin => Scheduler::WeightedRoundRobin,
        Scheduler::LeastConnection => Scheduler::WeightedLeastConnection,
        default => default,
    }
}

/// Why a frontend's packets cannot be forwarded by this method.
fn cannot_forward(method: Forwarding, frontend: &Frontend, config: &Config) -> Option<String> {
    match method {
        Forwarding::Masquerade => return None,
        Forwarding::Tunnel(Tunnel::Gue { port: 0, .. }) => {
            return Some("the tunnel has port 0".to_owned());
        }
        Forwarding::Tunnel(Tunnel::Other { kind, .. }) => {
            return Some(format!("{kind} is not a known type of tunnel"));
        }
        Forwarding::Tunnel(_) | Forwarding::DirectRouting => {}
    }
    match frontend.kind {
        FrontendKind::NodePort => {
            return Some("an endpoint does not have the node's addresses".to_owned());
        }
        FrontendKind::ClusterIp if config.masquerades_outsiders(frontend.key.family()) => {
            return Some(
                "answers to clients that are masqueraded must come back through this node"
                    .to_owned(),
            );
        }
        _ => {}
    }
    let port = frontend.key.port;
    let external = frontend.external.iter().flat_map(|all| all.iter());
    let mut backends = frontend.backends.iter().chain(external);
    let other = backends.find(|backend| backend.port != port)?;
    Some(format!(
        "the port of endpoint {} is {}, not {port}",
        other.address, other.port
    ))
}

/// The addresses of a Service that this node can serve. As the API defines, a Service has the
/// families of its cluster IPs.
fn vips(service: &Service, config: &Config, problems: &mut Vec<Problem>) -> Vec<Vip> {
    let mut problem = |field: String, message: String| {
        problems.push(Problem {
            service: service.name.clone(),
            field,
            reason: Reason::AddressRefused,
            message,
        });
    };
    // A family that is left out is reported once, not for each Service.
    let all = |addresses: &[IpAddr]| {
        let addresses = addresses.iter().copied().enumerate();
        let wanted = addresses.filter(|(_, address)| !config.leaves_out(Family::of(address)));
        wanted.collect::<Vec<_>>()
    };
    let mut vips = Vec::with_capacity(service.cluster_ips.len());
    for (index, address) in all(&service.cluster_ips) {
        let own = config.node_ips.contains(&address);
        let own = own.then(|| format!("{address} is the node's own address"));
        match own.or_else(|| unusable(address, config)) {
            Some(message) => problem(format!("spec.clusterIPs[{index}]"), message),
            None => vips.push(Vip {
                address,
                kind: FrontendKind::ClusterIp,
                source_ranges: None,
            }),
        }
    }
    let denied = |address: IpAddr| {
        let denies = config.deny_external_ips && !service.cluster_ips.contains(&address);
        denies.then(|| format!("{address}: --deny-external-ips denies external IPs"))
    };
    let not_served = |address: IpAddr| {
        let family = Family::of(&address);
        if !service
            .cluster_ips
            .iter()
            .any(|ip| Family::of(ip) == family)
        {
            return Some(format!(
                "{address}: the Service has no cluster IP of this family"
            ));
        }
        let of_others = config.in_service_cidr(address) && !service.cluster_ips.contains(&address);
        of_others
            .then(|| format!("{address} lies in a Service CIDR, where only cluster IPs may be"))
    };
    for (index, address) in all(&service.external_ips) {
        let refusal = denied(address).or_else(|| not_served(address));
        match refusal.or_else(|| unusable(address, config)) {
            Some(message) => problem(format!("spec.externalIPs[{index}]"), message),
            None => vips.push(Vip {
                address,
                kind: FrontendKind::ExternalIp,
                source_ranges: None,
            }),
        }
    }
    for (index, address) in all(&service.load_balancer_ips) {
        match not_served(address).or_else(|| unusable(address, config)) {
            Some(message) => problem(format!("status.loadBalancer.ingress[{index}].ip"), message),
            None => vips.push(Vip {
                address,
                kind: FrontendKind::LoadBalancer,
                source_ranges: source_ranges(service, Family::of(&address)),
            }),
        }
    }
    vips
}

/// Why this node cannot serve an address as a VIP.
fn unusable(address: IpAddr, config: &Config) -> Option<String> {
    if let Some(special) = special(address) {
        return Some(format!("{address} is {special}"));
    }
    if let Some(cidr) = config
        .exclude_cidrs
        .iter()
        .find(|cidr| cidr.contains(&address))
    {
        return Some(format!(
            "{address} is in {cidr}, which --exclude-cidrs excludes"
        ));
    }
    if !config.serves(Family::of(&address)) {
        return Some(format!("{address}: the node has no address of this family"));
    }
    None
}

/// The networks that may reach a load-balancer IP, without overlaps; `None` means everyone. If
/// there are ranges, but none of this family, the result is empty; kube-proxy would allow everyone.
fn source_ranges(service: &Service, family: Family) -> Option<Arc<[IpNet]>> {
    let all = &service.load_balancer_source_ranges;
    if all.is_empty() {
        return None;
    }
    let of_family = all
        .iter()
        .filter(|range| Family::of(&range.addr()) == family);
    let ranges = IpNet::aggregate(&of_family.map(IpNet::trunc).collect());
    let everyone = ranges.iter().any(|range| range.prefix_len() == 0);
    (!everyone).then(|| ranges.into())
}

/// The families of a Service that the node serves.
fn families(service: &Service, config: &Config) -> impl Iterator<Item = Family> {
    let families = service.cluster_ips.iter().map(Family::of);
    families.filter(|family| config.serves(*family))
}

/// The precedence of Services that claim the same key: the smallest value wins. Older Services
/// first, then those of unknown age; ties are broken by name.
pub(super) fn seniority(service: &Service) -> i64 {
    service.created.unwrap_or(i64::MAX)
}
