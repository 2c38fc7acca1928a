//! Elements of the nftables sets.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use foldhash::HashMap;
use ipnet::IpNet;
use ipvs::{Family, VirtualServerKey};

use crate::desired::FrontendKey;

/// The comment of an element, for people and for `status`: the Service port that it belongs to.
pub type Comment = Option<Arc<str>>;

/// An element of an nftables set or map. The rules themselves do not change with Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Element {
    /// Only clients in a [`SourceRange`](Self::SourceRange) of this address may reach it.
    Restricted(FrontendKey),
    /// A network whose clients may reach a restricted address. It is a whole source range, or a
    /// part of one, of a length that the rules look up: a multiple of four.
    SourceRange(FrontendKey, IpNet),
    /// svcproxy owns the virtual server of this address. The element is added before the virtual
    /// server and deleted after it, so the set is a complete record of ownership whenever svcproxy
    /// is killed.
    VirtualServer(FrontendKey),
    /// No endpoints: reject before IPVS sees the packet.
    NoEndpoints(FrontendKey),
    /// No endpoints on this node: drop.
    Dropped(FrontendKey, Audience),
    /// Packets to this address get this mark.
    Mark {
        /// The address.
        key: FrontendKey,
        /// The purpose of the mark.
        purpose: Purpose,
        /// The mark.
        mark: NonZeroU32,
    },
    /// An address with captured ports: ICMP errors about their connections are captured too.
    CapturedAddress(IpAddr),
    /// A backend that may be on this node: masquerade its connections to itself.
    Hairpin(IpAddr),
    /// A network in which everything without a virtual server is rejected.
    ServiceCidr(IpNet),
    /// A network whose addresses on this node serve node ports.
    NodePortAddresses(IpNet),
    /// A health check node port, for packets of this family.
    HealthCheck(Family, NonZeroU16),
}

/// The purpose of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Deliver the packet to this node, although the address may be another node's.
    Capture,
    /// Select the virtual server of a node port. Like [`Element::VirtualServer`], this records
    /// svcproxy's ownership.
    NodePort,
    /// Select the virtual server for clients from outside the cluster, which has only backends on
    /// this node.
    External,
}

/// The clients that an element applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Audience {
    /// All clients.
    All,
    /// Clients from outside the cluster.
    External,
}

impl Element {
    /// The frontend that it belongs to, if any.
    pub fn frontend(&self) -> Option<FrontendKey> {
        match self {
            Self::Restricted(key)
            | Self::SourceRange(key, _)
            | Self::VirtualServer(key)
            | Self::NoEndpoints(key)
            | Self::Dropped(key, _)
            | Self::Mark { key, .. } => Some(*key),
            _ => None,
        }
    }

    /// The virtual server whose ownership this element records.
    pub fn recorded(&self) -> Option<VirtualServerKey> {
        match self {
            Self::VirtualServer(key) => key.virtual_server(),
            Self::Mark {
                key,
                purpose: Purpose::NodePort | Purpose::External,
                mark,
            } => Some(VirtualServerKey::firewall_mark(*mark, key.family())),
            _ => None,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restricted(key) => write!(f, "restricted {key}"),
            Self::SourceRange(key, network) => write!(f, "source-ranges {key} from {network}"),
            Self::VirtualServer(key) => write!(f, "virtual-servers {key}"),
            Self::NoEndpoints(key) => write!(f, "no-endpoints {key}"),
            Self::Dropped(key, Audience::All) => write!(f, "dropped {key}"),
            Self::Dropped(key, Audience::External) => write!(f, "dropped-external {key}"),
            Self::Mark { key, purpose, mark } => {
                let name = match purpose {
                    Purpose::Capture => "captured",
                    Purpose::NodePort => "node-ports",
                    Purpose::External => "external",
                };
                write!(f, "{name} {key} mark {mark:#010x}")
            }
            Self::CapturedAddress(address) => write!(f, "captured-addresses {address}"),
            Self::Hairpin(address) => write!(f, "hairpin {address}"),
            Self::ServiceCidr(cidr) => write!(f, "service-cidrs {cidr}"),
            Self::NodePortAddresses(cidr) => write!(f, "node-port-addresses {cidr}"),
            Self::HealthCheck(family, port) => write!(f, "health-checks tcp {port} ({family})"),
        }
    }
}

/// The elements that a node has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elements {
    comments: HashMap<Element, Comment>,
    marks: HashMap<(FrontendKey, Purpose), NonZeroU32>,
    /// The marks of virtual servers, and the frontends whose packets get them.
    numbers: HashMap<(Family, NonZeroU32), FrontendKey>,
    source_ranges: HashMap<FrontendKey, BTreeSet<IpNet>>,
}

impl Elements {
    /// Adds an element, or changes its comment.
    pub fn insert(&mut self, element: Element, comment: Comment) {
        match element {
            Element::Mark { key, purpose, mark } => {
                if let Some(old) = self.mark(key, purpose).filter(|old| *old != mark) {
                    let mark = old;
                    self.remove(&Element::Mark { key, purpose, mark });
                }
                self.marks.insert((key, purpose), mark);
                if purpose != Purpose::Capture {
                    self.numbers.insert((key.family(), mark), key);
                }
            }
            Element::SourceRange(key, network) => {
                self.source_ranges.entry(key).or_default().insert(network);
            }
            _ => {}
        }
        self.comments.insert(element, comment);
    }

    /// Removes an element. Returns whether it existed.
    pub fn remove(&mut self, element: &Element) -> bool {
        if self.comments.remove(element).is_none() {
            return false;
        }
        match element {
            Element::Mark { key, purpose, mark } => {
                self.marks.remove(&(*key, *purpose));
                self.numbers.remove(&(key.family(), *mark));
            }
            Element::SourceRange(key, network) => {
                if let Some(networks) = self.source_ranges.get_mut(key) {
                    networks.remove(network);
                    if networks.is_empty() {
                        self.source_ranges.remove(key);
                    }
                }
            }
            _ => {}
        }
        true
    }

    /// Removes all elements.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The comment of an element, if the element exists.
    pub fn get(&self, element: &Element) -> Option<&Comment> {
        self.comments.get(element)
    }

    /// Whether an element exists.
    pub fn contains(&self, element: &Element) -> bool {
        self.comments.contains_key(element)
    }

    /// All elements, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = &Element> {
        self.comments.keys()
    }

    /// All elements with their comments, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&Element, &Comment)> {
        self.comments.iter()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.comments.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.comments.is_empty()
    }

    /// The mark that packets to an address get for a purpose.
    pub fn mark(&self, key: FrontendKey, purpose: Purpose) -> Option<NonZeroU32> {
        self.marks.get(&(key, purpose)).copied()
    }

    /// The frontend whose packets get the mark of a virtual server.
    pub fn marked(&self, family: Family, mark: NonZeroU32) -> Option<FrontendKey> {
        self.numbers.get(&(family, mark)).copied()
    }

    /// The number of firewall-mark virtual servers.
    pub(super) fn marked_count(&self) -> usize {
        self.numbers.len()
    }

    /// The source ranges of a restricted address.
    pub fn source_ranges(&self, key: &FrontendKey) -> impl Iterator<Item = IpNet> {
        self.source_ranges.get(key).into_iter().flatten().copied()
    }
}

impl FromIterator<(Element, Comment)> for Elements {
    fn from_iter<I: IntoIterator<Item = (Element, Comment)>>(elements: I) -> Self {
        let mut all = Self::default();
        all.extend(elements);
        all
    }
}

impl Extend<(Element, Comment)> for Elements {
    fn extend<I: IntoIterator<Item = (Element, Comment)>>(&mut self, elements: I) {
        for (element, comment) in elements {
            self.insert(element, comment);
        }
    }
}
