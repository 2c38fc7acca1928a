//! The expected fate of a packet, derived from the API objects as simply as possible, and its
//! actual fate in nftables and IPVS. Neither uses the code under test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ipvs::VirtualServerKey;
use proxier::desired::{Config, FrontendKey};
use proxier::mode::ipvs::plan::{Audience, Element, NodeState, Purpose};
use proxier::mode::trace::{self, Origin, Packet, Trace};
use proxier::model::{Endpoint, EndpointSlice, Family, Service, ServicePort, TrafficPolicy};

/// The client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    Pod,
    /// A client outside of the cluster, in a source range or not.
    Outside {
        in_range: bool,
    },
}

pub(crate) const CLIENTS: [Client; 3] = [
    Client::Pod,
    Client::Outside { in_range: true },
    Client::Outside { in_range: false },
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Refused,
    Dropped,
    Served {
        by: BTreeSet<(IpAddr, u16)>,
        /// Whether the backend sees the node's address instead of the outside client's.
        masqueraded: bool,
    },
}

/// Every reachable frontend, with the result for each client.
pub(crate) type Reach = BTreeMap<FrontendKey, Vec<(Client, Outcome)>>;

impl Client {
    /// 198.18.7.7 or 2001:db8:1::7, the address of a client in range; a client in no range has
    /// another one.
    pub(crate) fn address(self, family: Family) -> IpAddr {
        let text = match (self, family) {
            (Self::Pod, Family::V4) => "10.244.0.77",
            (Self::Pod, Family::V6) => "fd00:10:244::77",
            (Self::Outside { in_range: true }, Family::V4) => "198.18.7.7",
            (Self::Outside { in_range: true }, Family::V6) => "2001:db8:1::7",
            (Self::Outside { in_range: false }, Family::V4) => "198.20.0.7",
            (Self::Outside { in_range: false }, Family::V6) => "2001:db8:2::7",
        };
        text.parse().unwrap()
    }

    pub(crate) fn is_outside(self) -> bool {
        self != Self::Pod
    }
}

/// The results that Services with their slices define.
pub(crate) fn expected<'a>(
    objects: impl IntoIterator<Item = (&'a Service, Vec<&'a EndpointSlice>)>,
    config: &Config,
) -> Reach {
    // The kind of address, age, Service and port decide which frontend gets a key.
    let mut claims = BTreeMap::new();
    for (service, slices) in objects {
        for (kind, address, number, port) in addresses(service, config) {
            let key = FrontendKey {
                protocol: port.protocol,
                address,
                port: number,
            };
            let age = service.created.unwrap_or(i64::MAX);
            let rank = (kind, age, service.name.clone(), port.name.clone());
            let outcome = |client| {
                let outcome = meets(service, &slices, port, kind, key, client, config);
                (client, outcome)
            };
            let of_all: Vec<_> = CLIENTS.map(outcome).into();
            let claim = claims
                .entry(key)
                .or_insert_with(|| (rank.clone(), of_all.clone()));
            if rank < claim.0 {
                *claim = (rank, of_all);
            }
        }
    }
    claims
        .into_iter()
        .map(|(key, (_, of_all))| (key, of_all))
        .collect()
}

const CLUSTER_IP: u8 = 0;
const LOAD_BALANCER: u8 = 1;
const EXTERNAL_IP: u8 = 2;
const NODE_PORT: u8 = 3;

fn addresses<'a>(
    service: &'a Service,
    config: &Config,
) -> Vec<(u8, IpAddr, std::num::NonZeroU16, &'a ServicePort)> {
    let is_excluded = |ip: &IpAddr| config.exclude_cidrs.iter().any(|cidr| cidr.contains(ip));
    let has_family = |ip: &IpAddr| {
        service
            .cluster_ips
            .iter()
            .any(|own| own.is_ipv4() == ip.is_ipv4())
    };
    let in_service_cidr = |ip: &IpAddr| config.service_cidrs.iter().any(|cidr| cidr.contains(ip));
    let mut all = Vec::new();
    for port in &service.ports {
        for ip in &service.cluster_ips {
            if !config.node_ips.contains(ip) && !is_excluded(ip) {
                all.push((CLUSTER_IP, *ip, port.port, port));
            }
            let any: IpAddr = if ip.is_ipv4() {
                [0; 4].into()
            } else {
                [0_u16; 8].into()
            };
            all.extend(port.node_port.map(|number| (NODE_PORT, any, number, port)));
        }
        for ip in &service.external_ips {
            let free = !in_service_cidr(ip) || service.cluster_ips.contains(ip);
            if free && has_family(ip) && !is_excluded(ip) {
                all.push((EXTERNAL_IP, *ip, port.port, port));
            }
        }
        for ip in &service.load_balancer_ips {
            if has_family(ip) && !is_excluded(ip) {
                all.push((LOAD_BALANCER, *ip, port.port, port));
            }
        }
    }
    all
}

fn meets(
    service: &Service,
    slices: &[&EndpointSlice],
    port: &ServicePort,
    kind: u8,
    key: FrontendKey,
    client: Client,
    config: &Config,
) -> Outcome {
    let source = client.address(key.family());
    let ranges = &service.load_balancer_source_ranges;
    let is_let_in = |range: &IpNet| range.contains(&source);
    if kind == LOAD_BALANCER && !ranges.is_empty() && !ranges.iter().any(is_let_in) {
        return Outcome::Dropped;
    }
    let endpoints = distinct(slices, port, key.family(), config);
    let cluster = chosen(&endpoints, |_| true, config, true);
    let on_node = |endpoint: &Endpoint| endpoint.node.as_deref() == Some("here");
    let local = chosen(&endpoints, on_node, config, false);
    let policies = [
        service.internal_traffic_policy,
        service.external_traffic_policy,
    ];
    let uses_local = policies.contains(&TrafficPolicy::Local);
    if cluster.is_empty() && (local.is_empty() || !uses_local) {
        return Outcome::Refused;
    }
    let only_local = match kind {
        CLUSTER_IP => service.internal_traffic_policy == TrafficPolicy::Local,
        _ => service.external_traffic_policy == TrafficPolicy::Local && client.is_outside(),
    };
    let by = if only_local { local } else { cluster };
    if by.is_empty() {
        return Outcome::Dropped;
    }
    let keeps_address = kind != CLUSTER_IP && only_local;
    let masqueraded = client.is_outside() && !keeps_address;
    Outcome::Served { by, masqueraded }
}

/// The endpoints by address and port; of duplicates, the ready one on this node.
type Found<'a> = BTreeMap<(IpAddr, u16), &'a Endpoint>;

fn distinct<'a>(
    slices: &[&'a EndpointSlice],
    port: &ServicePort,
    family: Family,
    config: &Config,
) -> Found<'a> {
    let rank = |e: &Endpoint| {
        let takes = e.conditions.serving && e.conditions.terminating;
        let here = e.node.as_deref() == Some(&*config.node_name);
        (
            !e.conditions.ready,
            !e.conditions.ready && !takes,
            !here,
            e.node.is_some(),
        )
    };
    let mut found: Found<'_> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        let mut ports = slice.ports.iter();
        let Some(target) = ports.find(|p| p.name == port.name && p.protocol == port.protocol)
        else {
            continue;
        };
        // With weight 0 it drains, as if it had left the slice.
        for endpoint in slice.endpoints.iter().filter(|e| e.weight > 0) {
            let place = found.entry((endpoint.address, target.port.get()));
            let place = place.or_insert(endpoint);
            if rank(endpoint) < rank(place) {
                *place = endpoint;
            }
        }
    }
    found
}

fn chosen(
    found: &Found<'_>,
    may: impl Fn(&Endpoint) -> bool,
    config: &Config,
    by_hints: bool,
) -> BTreeSet<(IpAddr, u16)> {
    let ready: Vec<_> = found.iter().filter(|(_, e)| e.conditions.ready).collect();
    let for_node = |e: &Endpoint| {
        let hints = e.hints.as_ref().map(|hints| &hints.nodes);
        hints
            .filter(|nodes| !nodes.is_empty())
            .map(|n| n.contains(&config.node_name))
    };
    let for_zone = |e: &Endpoint| {
        let hints = e.hints.as_ref().map(|hints| &hints.zones);
        let hints = hints.filter(|zones| !zones.is_empty());
        hints.map(|zones| {
            config
                .zone
                .as_ref()
                .is_some_and(|zone| zones.contains(zone))
        })
    };
    let counts = |hint: &dyn Fn(&Endpoint) -> Option<bool>| {
        ready.iter().all(|(_, e)| hint(e).is_some())
            && ready.iter().any(|(_, e)| hint(e) == Some(true))
    };
    let is_hinted = |e: &Endpoint| {
        if !by_hints {
            true
        } else if counts(&for_node) {
            for_node(e) == Some(true)
        } else if counts(&for_zone) {
            for_zone(e) == Some(true)
        } else {
            true
        }
    };
    let first: BTreeSet<_> = ready
        .iter()
        .filter(|(_, e)| may(e) && is_hinted(e))
        .map(|(at, _)| **at)
        .collect();
    if !first.is_empty() {
        return first;
    }
    let leaving = found
        .iter()
        .filter(|(_, e)| !e.conditions.ready && e.conditions.serving && e.conditions.terminating);
    leaving.filter(|(_, e)| may(e)).map(|(at, _)| *at).collect()
}

/// The packet of a client to a frontend; a node port is asked at the node's address.
pub(crate) fn packet(key: FrontendKey, client: Client, config: &Config) -> Packet {
    let family = key.family();
    let to = match key.is_node_port() {
        true => config.node_ip(family).unwrap(),
        false => key.address,
    };
    let origin = Origin::Interface("eth0".to_owned());
    Packet::new(client.address(family), to, key.protocol, key.port, origin)
}

/// The result of a trace, of which only clients outside see whether they are masqueraded.
pub(crate) fn traced(trace: &Trace, client: Client) -> Outcome {
    match &trace.outcome {
        trace::Outcome::Refused => Outcome::Refused,
        trace::Outcome::Dropped => Outcome::Dropped,
        trace::Outcome::Served(answers) => {
            let masqueraded = answers.iter().all(|answer| answer.masqueraded);
            let never = answers.iter().all(|answer| !answer.masqueraded);
            assert!(!client.is_outside() || masqueraded || never, "{trace:#?}");
            let by = answers.iter();
            Outcome::Served {
                by: by.map(|a| (a.endpoint.ip(), a.endpoint.port())).collect(),
                masqueraded: client.is_outside() && masqueraded,
            }
        }
        other => panic!("{other:?}: {trace:#?}"),
    }
}

/// The fate of a client's first packet, step by step through the hooks.
pub(crate) fn met(node: &NodeState, key: FrontendKey, client: Client, config: &Config) -> Outcome {
    let has = |element| node.elements.contains(&element);
    let outside = client.is_outside();
    let captured = node.elements.mark(key, Purpose::Capture);
    let is_delivered = match captured {
        Some(_) => {
            let mut rules = node.policy_routes.iter();
            rules.any(|rule| rule.family == key.family() && rule.mark == config.marks.own())
        }
        None => {
            let mut routes = node.routes.iter();
            key.is_node_port()
                || config.node_ips.contains(&key.address)
                || routes.any(|route| route.prefix.contains(&key.address))
        }
    };
    assert!(is_delivered, "{key} does not come here");

    let source = client.address(key.family());
    let may = |range: IpNet| range.contains(&source);
    if has(Element::Restricted(key)) && !node.elements.source_ranges(&key).any(may) {
        return Outcome::Dropped;
    }
    if has(Element::NoEndpoints(key)) {
        return Outcome::Refused;
    }
    if has(Element::Dropped(key, Audience::All))
        || (outside && has(Element::Dropped(key, Audience::External)))
    {
        return Outcome::Dropped;
    }
    let external = node
        .elements
        .mark(key, Purpose::External)
        .filter(|_| outside);
    let mark = external.or_else(|| node.elements.mark(key, Purpose::NodePort));
    let server = match mark {
        Some(mark) => VirtualServerKey::firewall_mark(mark, key.family()),
        None => {
            assert!(
                has(Element::VirtualServer(key)),
                "{key} is own and not recorded"
            );
            key.virtual_server().unwrap()
        }
    };
    let masquerade = |mark: u32| mark & config.marks.masquerade() != 0;
    let masqueraded = match (mark, captured) {
        (Some(mark), _) => masquerade(mark.get()),
        (None, Some(mark)) => masquerade(mark.get()),
        // The rule for packets from outside, if pods of this family are known.
        (None, None) => true,
    };
    let state = node.virtual_servers.get(&server);
    let state = state.unwrap_or_else(|| panic!("{key} leads to {server}, which is not there"));
    let takes_new = state.real_servers.iter().filter(|r| r.weight > 0);
    Outcome::Served {
        by: takes_new.map(|r| (r.key.address, r.key.port)).collect(),
        masqueraded: outside && masqueraded,
    }
}
