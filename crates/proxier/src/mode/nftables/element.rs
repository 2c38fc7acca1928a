//! Elements of the sets.
#![cfg_attr(
    not(feature = "nftables"),
    allow(dead_code, reason = "the encoding for the kernel uses it")
)]

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;

use foldhash::HashMap;
use ipnet::IpNet;
use ipvs::Family;

use super::{Choice, Set};
use crate::desired::{Backend, FrontendKey};
use crate::mode::ipvs::plan::{Audience, Comment};

/// The first number of endpoints for clients outside the cluster.
pub(super) const EXTERNAL: u32 = 1 << 31;
/// The first lasting number, in each audience.
pub(super) const LASTING: u32 = 1 << 30;

/// An endpoint's address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: NonZeroU16,
}

impl From<&Backend> for Target {
    fn from(backend: &Backend) -> Self {
        Self {
            address: backend.address,
            port: backend.port,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port.get()).fmt(f)
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Element {
    /// Only clients in a [`SourceRange`](Self::SourceRange) of this address may reach it.
    Restricted(FrontendKey),
    /// A network whose clients may reach a restricted address, of a length that the rules look up: a
    /// multiple of four.
    SourceRange(FrontendKey, IpNet),
    /// An endpoint by number, from 0 in each audience; with session affinity by lasting number.
    Endpoint {
        /// The destination.
        key: FrontendKey,
        /// The clients.
        audience: Audience,
        /// The number.
        number: u32,
        /// The endpoint.
        to: Target,
    },
    /// The lasting number of the endpoint that a number stands for.
    Number {
        /// The destination.
        key: FrontendKey,
        /// The clients.
        audience: Audience,
        /// The number, from 0 in each audience.
        number: u32,
        /// The lasting number.
        lasting: u32,
    },
    /// All connections to this destination are masqueraded.
    Masqueraded(FrontendKey),
    /// A destination with endpoints.
    Service {
        /// The destination.
        key: FrontendKey,
        /// The clients.
        audience: Audience,
        /// How an endpoint is chosen.
        choice: Choice,
    },
    /// No endpoints: reject.
    NoEndpoints(FrontendKey),
    /// No endpoints on this node: drop.
    Dropped(FrontendKey, Audience),
    /// An endpoint that may be on this node: masquerade its connections to itself.
    Hairpin(IpAddr),
    /// A network in which everything without a Service is rejected.
    ServiceCidr(IpNet),
    /// A network whose addresses on this node serve node ports.
    NodePortAddresses(IpNet),
    /// A health check node port, for packets of this family.
    HealthCheck(Family, NonZeroU16),
}

impl Element {
    /// The destination that it belongs to, if any.
    pub fn frontend(&self) -> Option<FrontendKey> {
        match self {
            Self::Restricted(key)
            | Self::SourceRange(key, _)
            | Self::Endpoint { key, .. }
            | Self::Number { key, .. }
            | Self::Masqueraded(key)
            | Self::Service { key, .. }
            | Self::NoEndpoints(key)
            | Self::Dropped(key, _) => Some(*key),
            _ => None,
        }
    }

    /// The family of its table.
    pub fn family(&self) -> Family {
        match self {
            Self::Hairpin(address) => Family::of(address),
            Self::ServiceCidr(network) | Self::NodePortAddresses(network) => {
                Family::of(&network.addr())
            }
            Self::HealthCheck(family, _) => *family,
            _ => self.frontend().map_or(Family::V4, |key| key.family()),
        }
    }

    /// Its set.
    pub fn set(&self) -> Set {
        match self {
            Self::Restricted(_) => Set::Restricted,
            Self::SourceRange(..) => Set::SourceRanges,
            Self::Endpoint { .. } => Set::Endpoints,
            Self::Number { .. } => Set::Numbers,
            Self::Masqueraded(_) => Set::Masqueraded,
            Self::Service {
                audience: Audience::All,
                ..
            } => Set::Services,
            Self::Service { .. } => Set::External,
            Self::NoEndpoints(_) => Set::NoEndpoints,
            Self::Dropped(_, Audience::All) => Set::Dropped,
            Self::Dropped(..) => Set::DroppedExternal,
            Self::Hairpin(_) => Set::Hairpin,
            Self::ServiceCidr(_) => Set::ServiceCidrs,
            Self::NodePortAddresses(_) => Set::NodePortAddresses,
            Self::HealthCheck(..) => Set::HealthChecks,
        }
    }

    /// The first element, in their order, that has the same key in the same map.
    pub(super) fn first_in_its_place(mut self) -> Self {
        match &mut self {
            Self::Endpoint { to, .. } => {
                *to = Target {
                    address: Ipv4Addr::UNSPECIFIED.into(),
                    port: NonZeroU16::MIN,
                };
            }
            Self::Number { lasting, .. } => *lasting = 0,
            Self::Service { choice, .. } => *choice = Choice::FIRST,
            _ => {}
        }
        self
    }

    /// Whether it is a network of the settings.
    pub(super) const fn is_network(&self) -> bool {
        matches!(self, Self::ServiceCidr(_) | Self::NodePortAddresses(_))
    }

    /// Whether both have the same key in the same map, so that one must go before the other comes.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Endpoint {
                    key,
                    audience,
                    number,
                    ..
                },
                Self::Endpoint {
                    key: k,
                    audience: a,
                    number: n,
                    ..
                },
            )
            | (
                Self::Number {
                    key,
                    audience,
                    number,
                    ..
                },
                Self::Number {
                    key: k,
                    audience: a,
                    number: n,
                    ..
                },
            ) => (key, audience, number) == (k, a, n),
            (
                Self::Service { key, audience, .. },
                Self::Service {
                    key: k,
                    audience: a,
                    ..
                },
            ) => (key, audience) == (k, a),
            _ => self == other,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.set().name();
        let of = |audience| match audience {
            Audience::External => "external ",
            Audience::All => "",
        };
        match self {
            Self::Restricted(key)
            | Self::Masqueraded(key)
            | Self::NoEndpoints(key)
            | Self::Dropped(key, _) => write!(f, "{name} {key}"),
            Self::SourceRange(key, network) => write!(f, "{name} {key} from {network}"),
            Self::Endpoint {
                key,
                audience,
                number,
                to,
            } => {
                let of = of(*audience);
                write!(f, "{name} {key} {of}{number}: {to}")
            }
            Self::Number {
                key,
                audience,
                number,
                lasting,
            } => {
                let of = of(*audience);
                write!(f, "{name} {key} {of}{number}: {lasting:#x}")
            }
            Self::Service { key, choice, .. } => write!(f, "{name} {key}: {choice}"),
            Self::Hairpin(address) => write!(f, "{name} {address}"),
            Self::ServiceCidr(network) | Self::NodePortAddresses(network) => {
                write!(f, "{name} {network}")
            }
            Self::HealthCheck(family, port) => write!(f, "{name} tcp {port} ({family})"),
        }
    }
}

/// The elements that a node has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elements {
    /// In order. A few elements in a vector take a third of the memory that a tree's smallest node
    /// takes.
    of_frontends: HashMap<FrontendKey, Vec<(Element, Comment)>>,
    others: BTreeMap<Element, Comment>,
}

impl Elements {
    /// Makes room for this many more destinations.
    pub(super) fn reserve(&mut self, destinations: usize) {
        self.of_frontends.reserve(destinations);
    }

    /// Adds an element, or changes its comment.
    pub fn insert(&mut self, element: Element, comment: Comment) {
        let Some(key) = element.frontend() else {
            self.others.insert(element, comment);
            return;
        };
        let of_key = self.of_frontends.entry(key).or_default();
        match place(of_key, &element) {
            Ok(at) => {
                if let Some((_, old)) = of_key.get_mut(at) {
                    *old = comment;
                }
            }
            Err(at) => of_key.insert(at, (element, comment)),
        }
    }

    /// Removes an element.
    pub fn remove(&mut self, element: &Element) {
        let Some(key) = element.frontend() else {
            self.others.remove(element);
            return;
        };
        let Some(of_key) = self.of_frontends.get_mut(&key) else {
            return;
        };
        if let Ok(at) = place(of_key, element) {
            of_key.remove(at);
        }
        if of_key.is_empty() {
            self.of_frontends.remove(&key);
        }
    }

    /// Changes elements of one destination, in this order: adds those with a comment, or changes their
    /// comments, and removes the others. Takes time in proportion to all elements of the destination.
    pub(super) fn change<'a>(
        &mut self,
        key: FrontendKey,
        changes: impl Iterator<Item = (&'a Element, Option<&'a Comment>)> + Clone,
    ) {
        let of_key = self.of_frontends.entry(key).or_default();
        // As a first sync adds them.
        let is_first = of_key.is_empty()
            && changes.clone().all(|(_, comment)| comment.is_some())
            && changes
                .clone()
                .is_sorted_by(|(one, _), (next, _)| one < next);
        if is_first {
            of_key.reserve_exact(changes.clone().count());
            let added = changes.filter_map(|(element, comment)| Some((*element, comment?.clone())));
            of_key.extend(added);
        } else {
            let mut tree: BTreeMap<_, _> = mem::take(of_key).into_iter().collect();
            for (element, comment) in changes {
                match comment {
                    Some(comment) => _ = tree.insert(*element, comment.clone()),
                    None => _ = tree.remove(element),
                }
            }
            *of_key = tree.into_iter().collect();
        }
        if of_key.is_empty() {
            self.of_frontends.remove(&key);
        }
    }

    /// The elements of a destination, in order.
    pub fn of(&self, key: &FrontendKey) -> impl Iterator<Item = (&Element, &Comment)> {
        let elements = self.of_frontends.get(key).into_iter().flatten();
        elements.map(|(element, comment)| (element, comment))
    }

    /// The elements of no destination, in order.
    pub fn others(&self) -> impl Iterator<Item = &Element> {
        self.others.keys()
    }

    /// Whether an element exists.
    pub fn contains(&self, element: &Element) -> bool {
        match element.frontend() {
            Some(key) => {
                let elements = self.of_frontends.get(&key);
                elements.is_some_and(|elements| place(elements, element).is_ok())
            }
            None => self.others.contains_key(element),
        }
    }

    /// The destinations that have elements, in no particular order.
    pub fn frontends(&self) -> impl Iterator<Item = &FrontendKey> {
        self.of_frontends.keys()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        let of_frontends = self.of_frontends.values().map(Vec::len);
        of_frontends.sum::<usize>() + self.others.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.of_frontends.is_empty() && self.others.is_empty()
    }
}

/// Where an element is among sorted ones, or belongs.
fn place(elements: &[(Element, Comment)], element: &Element) -> Result<usize, usize> {
    elements.binary_search_by(|(one, _)| one.cmp(element))
}

impl FromIterator<(Element, Comment)> for Elements {
    /// Elements in any order. Of an element that is there more than once, it keeps one.
    fn from_iter<I: IntoIterator<Item = (Element, Comment)>>(all: I) -> Self {
        let mut elements = Self::default();
        for (element, comment) in all {
            match element.frontend() {
                Some(key) => {
                    let of_key = elements.of_frontends.entry(key).or_default();
                    of_key.push((element, comment));
                }
                None => _ = elements.others.insert(element, comment),
            }
        }
        for of_key in elements.of_frontends.values_mut() {
            of_key.sort_unstable_by_key(|(one, _)| *one);
            of_key.dedup_by(|(one, _), (kept, _)| one == kept);
            of_key.shrink_to_fit();
        }
        elements
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn element(number: u32) -> Element {
        let key = FrontendKey {
            protocol: ipvs::Protocol::Tcp,
            address: [10, 96, 0, 1].into(),
            port: NonZeroU16::MIN,
        };
        let to = Target {
            address: [10, 244, 0, 1].into(),
            port: NonZeroU16::MIN,
        };
        Element::Endpoint {
            key,
            audience: Audience::All,
            number,
            to,
        }
    }

    proptest! {
        /// In whatever order elements come and go, they are those of a tree.
        #[test]
        fn elements_are_a_sorted_map(
            runs in proptest::collection::vec(
                proptest::collection::vec((0_u32..12, any::<bool>(), any::<bool>()), 0..8),
                0..8,
            ),
        ) {
            let key = element(0).frontend().unwrap();
            let (mut elements, mut tree) = (Elements::default(), BTreeMap::new());
            let mut one_by_one = Elements::default();
            for run in runs {
                let text = |is_set: bool| is_set.then(|| "shop/web".into());
                let changes: Vec<(Element, Option<Comment>)> = run
                    .into_iter()
                    .map(|(number, adds, is_set)| (element(number), adds.then(|| text(is_set))))
                    .collect();
                elements.change(key, changes.iter().map(|(one, comment)| (one, comment.as_ref())));
                for (one, comment) in changes {
                    match comment {
                        Some(comment) => {
                            one_by_one.insert(one, comment.clone());
                            tree.insert(one, comment);
                        }
                        None => {
                            one_by_one.remove(&one);
                            tree.remove(&one);
                        }
                    }
                }
                prop_assert!(elements.of(&key).eq(tree.iter()), "{elements:?} {tree:?}");
                prop_assert_eq!(&one_by_one, &elements);
                prop_assert_eq!(elements.is_empty(), tree.is_empty());
                let reversed = tree.iter().rev().map(|(one, of)| (*one, of.clone()));
                prop_assert_eq!(&reversed.collect::<Elements>(), &elements);
                for number in 0..12 {
                    let one = element(number);
                    prop_assert_eq!(elements.contains(&one), tree.contains_key(&one));
                }
            }
        }
    }
}
