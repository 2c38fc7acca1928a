//! The endpoints of a Service port, merged from its slices, and which of them this node may use; or
//! why it has none.

use std::cmp::Reverse;
use std::fmt;
use std::num::NonZeroU16;
use std::ptr;
use std::sync::Arc;

use ipvs::Family;

use super::{Backend, Config, Place, Problem};
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, PortName, Protocol, ServicePort, special,
};
use crate::notice::Reason;
use crate::store::ServiceView;

/// The backends of one port of a Service in one family. Each list is sorted, without duplicates.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    /// Under traffic policy `Cluster`.
    pub(super) cluster: Arc<[Backend]>,
    /// Under traffic policy `Local`.
    pub(super) local: Arc<[Backend]>,
}

/// A port of an endpoint, with everything that decides whether it is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    backend: Backend,
    state: Readiness,
    on_this_node: bool,
    for_node: Hint,
    for_zone: Hint,
}

/// Preferred ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Readiness {
    Ready,
    /// Terminating but still serving: used if no endpoint is ready (KEP-1669).
    Terminating,
}

/// How an endpoint's hints match this node or its zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    Missing,
    Elsewhere,
    Here,
}

/// The ports of a Service's slices, each with its slice, sorted: to find the endpoints of every port of
/// a Service costs no more than to sort them once, however many ports there are.
pub(super) struct Targets<'a>(Vec<(&'a EndpointPort, &'a EndpointSlice)>);

impl<'a> Targets<'a> {
    pub(super) fn of(view: ServiceView<'a>) -> Self {
        let slices = view.slices();
        let targets = slices.flat_map(|slice| slice.ports.iter().map(move |port| (port, slice)));
        let mut targets: Vec<_> = targets.collect();
        // Stable: of a slice that has a port twice, the first one counts.
        targets.sort_by_key(|(target, _)| (target.protocol, &target.name));
        targets.dedup_by(|(target, slice), (kept, of)| {
            ptr::eq(*slice, *of) && (target.protocol, &target.name) == (kept.protocol, &kept.name)
        });
        Self(targets)
    }

    /// The slices that have a port of this protocol and name.
    pub(super) fn named<'t>(
        &'t self,
        port: &'t ServicePort,
    ) -> impl Iterator<Item = (&'a EndpointPort, &'a EndpointSlice)> + 't {
        let from_here = self.not_before((port.protocol, &port.name));
        from_here
            .take_while(|(target, _)| target.name == port.name && target.protocol == port.protocol)
    }

    /// The ports of this protocol, by name.
    fn of_protocol(
        &self,
        protocol: Protocol,
    ) -> impl Iterator<Item = (&'a EndpointPort, &'a EndpointSlice)> {
        let from_here = self.not_before((protocol, &PortName::UNNAMED));
        from_here.take_while(move |(target, _)| target.protocol == protocol)
    }

    fn not_before(
        &self,
        first: (Protocol, &PortName),
    ) -> impl Iterator<Item = (&'a EndpointPort, &'a EndpointSlice)> + use<'a, '_> {
        let is_before =
            |(target, _): &(&EndpointPort, &EndpointSlice)| (target.protocol, &target.name) < first;
        let at = self.0.partition_point(is_before);
        self.0.iter().skip(at).copied()
    }
}

/// Merges the slices of a Service for one of its ports.
///
/// The port number is that of each slice, so it may differ between slices of one Service. The lists
/// are chosen independently (KEP-1669): per policy the ready endpoints, or, if there are none, the
/// terminating ones that still serve.
pub(super) fn endpoints(
    targets: &Targets<'_>,
    port: &ServicePort,
    family: Family,
    uses_local: bool,
    config: &Config,
) -> Endpoints {
    let mut candidates = Vec::new();
    let of_family = targets.named(port);
    for (target, slice) in of_family.filter(|(_, slice)| slice.family == family) {
        let usable = slice.endpoints.iter();
        let usable = usable.filter(|endpoint| refusal(endpoint, family, config).is_none());
        candidates.extend(usable.filter_map(|endpoint| candidate(endpoint, target, config)));
    }
    // An endpoint can be in two slices for a moment while it moves between them. If they disagree,
    // the ready one wins, then the one on this node, then the one with the greatest weight.
    candidates.sort_unstable_by_key(|c| {
        let Backend {
            address,
            port,
            place,
            weight,
        } = c.backend;
        let on_this_node = Reverse(c.on_this_node);
        (address, port, c.state, on_this_node, place, Reverse(weight))
    });
    candidates.dedup_by_key(|c| (c.backend.address, c.backend.port));

    let is_preferred = preference(&candidates);
    let cluster = usable(&candidates, |c| {
        c.state != Readiness::Ready || is_preferred(c)
    });
    let local = if uses_local {
        usable(&candidates, |c| c.on_this_node)
    } else {
        Arc::default()
    };
    Endpoints { cluster, local }
}

/// The number of a Service's ready endpoints on this node, for its health check. It counts
/// addresses, as kube-proxy does (`localReadyEndpoints` in its `endpoints.go`).
pub(super) fn ready_on_this_node(view: ServiceView<'_>, config: &Config) -> usize {
    let of_slice = |slice: &'_ EndpointSlice| {
        let ready = slice.endpoints.iter().filter(|endpoint| {
            endpoint.conditions.ready
                && endpoint.weight > 0
                && refusal(endpoint, slice.family, config).is_none()
        });
        let here = ready.filter(|endpoint| is_on(endpoint, config));
        here.map(|endpoint| endpoint.address).collect::<Vec<_>>()
    };
    let mut addresses: Vec<_> = view.slices().flat_map(of_slice).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.len()
}

/// Why an endpoint of a slice of this family cannot be a real server.
pub(super) fn refusal(endpoint: &Endpoint, family: Family, config: &Config) -> Option<String> {
    let address = endpoint.address;
    if Family::of(&address) != family {
        return Some(format!("{address} is not of the slice's family, {family}"));
    }
    if let Some(special) = special(address) {
        return Some(format!("{address} is {special}"));
    }
    let mut denied = config.deny_endpoints.iter();
    let cidr = denied.find(|cidr| cidr.contains(&address))?;
    Some(format!(
        "{address} is in {cidr}, which --deny-endpoints denies"
    ))
}

/// The endpoints that cannot be real servers: the first one of each slice, and how many more.
pub(super) fn refused(view: ServiceView<'_>, config: &Config) -> impl Iterator<Item = Problem> {
    view.slices().filter_map(move |slice| {
        let endpoints = slice.endpoints.iter().enumerate();
        let mut refused = endpoints.filter_map(|(index, endpoint)| {
            refusal(endpoint, slice.family, config).map(|reason| (index, reason))
        });
        let (index, mut message) = refused.next()?;
        match refused.count() {
            0 => {}
            more => message += &format!("; and {more} more of the slice's endpoints"),
        }
        Some(Problem {
            service: slice.service.clone(),
            field: format!("EndpointSlice {}: endpoints[{index}]", slice.name),
            reason: Reason::AddressRefused,
            message,
        })
    })
}

/// `None` for an endpoint that takes no connections at all.
pub(super) fn candidate(
    endpoint: &Endpoint,
    port: &EndpointPort,
    config: &Config,
) -> Option<Candidate> {
    let conditions = endpoint.conditions;
    let state = if conditions.ready {
        Readiness::Ready
    } else if conditions.serving && conditions.terminating {
        Readiness::Terminating
    } else {
        return None;
    };
    let weight = NonZeroU16::new(endpoint.weight)?;
    let hint = |names: &[Arc<str>], here: Option<&str>| match here {
        _ if names.is_empty() => Hint::Missing,
        Some(here) if names.iter().any(|name| **name == *here) => Hint::Here,
        _ => Hint::Elsewhere,
    };
    let (for_node, for_zone) = match &endpoint.hints {
        Some(hints) => (
            hint(&hints.nodes, Some(&config.node_name)),
            hint(&hints.zones, config.zone.as_deref()),
        ),
        None => (Hint::Missing, Hint::Missing),
    };
    Some(Candidate {
        backend: Backend {
            address: endpoint.address,
            port: port.port,
            place: place(endpoint, config),
            weight,
        },
        state,
        on_this_node: is_on(endpoint, config),
        for_node,
        for_zone,
    })
}

/// The ready endpoints that the hints select. Hints count only if every ready endpoint has them and
/// one matches this node or zone; nodes take precedence over zones (KEP-3015, KEP-2433).
fn preference(candidates: &[Candidate]) -> impl Fn(&Candidate) -> bool + use<> {
    let counts = |hint: fn(&Candidate) -> Hint| {
        let ready = || candidates.iter().filter(|c| c.state == Readiness::Ready);
        ready().all(|c| hint(c) != Hint::Missing) && ready().any(|c| hint(c) == Hint::Here)
    };
    let by_node = counts(|c| c.for_node);
    let by_zone = !by_node && counts(|c| c.for_zone);
    move |c| (!by_node || c.for_node == Hint::Here) && (!by_zone || c.for_zone == Hint::Here)
}

/// The ready endpoints, or the terminating ones if none is ready.
fn usable(candidates: &[Candidate], may: impl Fn(&Candidate) -> bool) -> Arc<[Backend]> {
    let in_state = |state| {
        let fit = candidates.iter().filter(move |c| c.state == state);
        fit.filter(|c| may(c)).map(|c| c.backend)
    };
    let ready: Arc<[Backend]> = in_state(Readiness::Ready).collect();
    if ready.is_empty() {
        in_state(Readiness::Terminating).collect()
    } else {
        ready
    }
}

fn is_on(endpoint: &Endpoint, config: &Config) -> bool {
    endpoint.node.as_deref() == Some(&*config.node_name)
}

fn place(endpoint: &Endpoint, config: &Config) -> Place {
    match &endpoint.node {
        _ if config.node_ips.contains(&endpoint.address) => Place::ThisNode,
        None => Place::Unknown,
        Some(node) if *node == config.node_name => Place::OnThisNode,
        Some(_) => Place::Elsewhere,
    }
}

/// Maximum number of port names listed.
const MAX_NAMES: usize = 5;

/// Why a port of a Service has no endpoints that this node may use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoEndpoints {
    /// The Service has no endpoint slice.
    NoSlice,
    /// All endpoint slices have the other address family.
    OtherFamily,
    /// The endpoint slices contain no endpoints.
    Empty,
    /// No slice has a port of this protocol with the name of the Service's port.
    NoSuchPort {
        /// Protocol of the Service's port.
        protocol: Protocol,
        /// Name of the Service's port.
        wanted: PortName,
        /// Names of the slices' ports of this protocol, at most five.
        found: Box<[PortName]>,
    },
    /// This many endpoints exist, all with addresses that are refused.
    Refused(usize),
    /// This many endpoints exist, none of them ready.
    NotReady(usize),
    /// This many endpoints exist, all of them terminating.
    Terminating(usize),
    /// This many ready endpoints exist, all with weight 0.
    WithoutWeight(usize),
    /// Traffic policy `Local`: this many endpoints are on other nodes.
    OnOtherNodes(usize),
    /// Traffic policy `Local`: this many endpoints have no node name.
    NodeUnknown(usize),
}

/// A port of a Service that has no endpoints in a family.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unanswered {
    /// Name of the Service's port.
    pub port: PortName,
    /// Protocol of the Service's port.
    pub protocol: Protocol,
    /// The family.
    pub family: Family,
    /// Why there are none at all; `None` if there are endpoints under traffic policy `Cluster`.
    pub anywhere: Option<NoEndpoints>,
    /// Why there are none on this node; `None` if there are, or if no traffic policy needs them.
    pub here: Option<NoEndpoints>,
}

impl NoEndpoints {
    /// Why no endpoint in the slices of this family can be used. `local` limits the search to
    /// endpoints on this node.
    pub(super) fn find(
        view: ServiceView<'_>,
        targets: &Targets<'_>,
        port: &ServicePort,
        family: Family,
        local: bool,
        config: &Config,
    ) -> Self {
        if view.slices().next().is_none() {
            return Self::NoSlice;
        }
        let is_of_family = |slice: &&EndpointSlice| slice.family == family;
        let mut slices = view.slices().filter(is_of_family).peekable();
        if slices.peek().is_none() {
            return Self::OtherFamily;
        }
        if slices.all(|slice| slice.endpoints.is_empty()) {
            return Self::Empty;
        }
        let with_port = targets.named(port).map(|(_, slice)| slice);
        let endpoints = with_port
            .filter(is_of_family)
            .flat_map(|slice| &slice.endpoints);
        let endpoints: Vec<_> = endpoints.collect();
        if endpoints.is_empty() {
            let of_protocol = targets.of_protocol(port.protocol);
            let ports = of_protocol.filter(|(_, slice)| is_of_family(slice));
            let mut found: Vec<PortName> = Vec::new();
            for (target, _) in ports {
                if found.last() != Some(&target.name) {
                    found.push(target.name.clone());
                }
                if found.len() == MAX_NAMES {
                    break;
                }
            }
            return Self::NoSuchPort {
                protocol: port.protocol,
                wanted: port.name.clone(),
                found: found.into(),
            };
        }
        let count = endpoints.len();
        let refused = |endpoint: &Endpoint| refusal(endpoint, family, config).is_some();
        let endpoints = endpoints.into_iter().filter(|endpoint| !refused(endpoint));
        let endpoints: Vec<_> = endpoints.collect();
        if endpoints.is_empty() {
            return Self::Refused(count);
        }
        let is_terminating = |endpoint: &&Endpoint| endpoint.conditions.terminating;
        let answers = endpoints.iter().filter(|endpoint| {
            let conditions = endpoint.conditions;
            conditions.ready || (conditions.serving && conditions.terminating)
        });
        let answers: Vec<_> = answers.collect();
        let here = |node: &str| node == &*config.node_name;
        let with_weight = answers.iter().filter(|endpoint| endpoint.weight > 0);
        if with_weight.count() == 0 && !answers.is_empty() {
            return Self::WithoutWeight(answers.len());
        }
        let elsewhere = answers.iter().filter(|endpoint| {
            let node = endpoint.node.as_deref();
            node.is_some_and(|node| !here(node))
        });
        match (answers.len(), elsewhere.count()) {
            (0, _) if endpoints.iter().all(is_terminating) => Self::Terminating(endpoints.len()),
            (0, _) => Self::NotReady(endpoints.len()),
            (_, count) if local && count > 0 => Self::OnOtherNodes(count),
            (count, _) if local => Self::NodeUnknown(count),
            (_, _) => Self::NotReady(endpoints.len()),
        }
    }
}

impl fmt::Display for NoEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlice => f.write_str("the Service has no endpoint slice"),
            Self::OtherFamily => f.write_str("its endpoint slices have the other address family"),
            Self::Empty => f.write_str("its endpoint slices are empty"),
            Self::NoSuchPort {
                protocol,
                wanted,
                found,
            } => {
                write!(f, "its endpoint slices have no {protocol} port ")?;
                match wanted.is_unnamed() {
                    true => f.write_str("without a name")?,
                    false => write!(f, "named {wanted:?}")?,
                }
                for (index, name) in found.iter().enumerate() {
                    f.write_str(if index == 0 { ", only: " } else { ", " })?;
                    match name.is_unnamed() {
                        true => f.write_str("unnamed")?,
                        false => write!(f, "{name:?}")?,
                    }
                }
                Ok(())
            }
            Self::Refused(count) => write!(f, "{count} with addresses that are refused"),
            Self::Terminating(count) => write!(f, "{count} terminating"),
            Self::NotReady(count) => write!(f, "{count} not ready"),
            Self::WithoutWeight(count) => write!(f, "{count} with weight 0"),
            Self::OnOtherNodes(count) => write!(f, "{count} on other nodes"),
            Self::NodeUnknown(count) => write!(f, "{count} without a node name"),
        }
    }
}
