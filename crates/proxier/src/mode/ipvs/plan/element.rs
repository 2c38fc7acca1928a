//! Elements of the packet filter's sets.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use foldhash::HashMap;
use ipnet::IpNet;
use ipvs::{Family, VirtualServerKey};

use crate::desired::FrontendKey;

/// A word beside an element for people and for `status`: the Service port it is there for.
pub type Comment = Option<Arc<str>>;

/// One element of one of the packet filter's sets and maps; the rules themselves never change with
/// the Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Element {
    /// Who is in no [`SourceRange`](Self::SourceRange) of this address may not reach it.
    Restricted(FrontendKey),
    /// Who may reach a restricted address.
    SourceRange(FrontendKey, IpNet),
    /// The virtual server of this address is there and is ours. Present before its virtual server
    /// and gone after it, so that the set is also the record of what we own, whenever we are
    /// killed.
    VirtualServer(FrontendKey),
    /// Nobody answers here: refuse before IPVS sees it.
    NoEndpoints(FrontendKey),
    /// Nobody on this node answers: drop.
    Dropped(FrontendKey, Audience),
    /// Packets to this address get this mark.
    Mark {
        /// The address.
        key: FrontendKey,
        /// What for.
        purpose: Purpose,
        /// The mark.
        mark: NonZeroU32,
    },
    /// An address of which something is captured: ICMP errors about that are taken too.
    CapturedAddress(IpAddr),
    /// A backend that may be on this node and so its own client: masquerade that.
    Hairpin(IpAddr),
    /// Addresses in which all that is no virtual server is refused.
    ServiceCidr(IpNet),
    /// Networks whose addresses on this node serve node ports.
    NodePortAddresses(IpNet),
}

/// What a packet is marked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// To be delivered to this node, whoever's the address is.
    Capture,
    /// To be taken by the virtual server of the mark, which serves a node port. Like
    /// [`Element::VirtualServer`] this is the record of its being ours.
    NodePort,
    /// The same for clients from outside of the cluster, whom only backends on this node serve.
    External,
}

/// Who is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Audience {
    /// Everyone.
    All,
    /// Clients from outside of the cluster.
    External,
}

impl Element {
    /// The frontend that it is there for, if it is for one.
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

    /// The virtual server that this element is the record of.
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
        }
    }
}

/// The elements that a node has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elements {
    comments: HashMap<Element, Comment>,
    marks: HashMap<(FrontendKey, Purpose), NonZeroU32>,
    /// Marks of virtual servers, and what gets them.
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

    /// Removes an element; whether it was there.
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

    /// Removes all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// An element's comment, if the element is there.
    pub fn get(&self, element: &Element) -> Option<&Comment> {
        self.comments.get(element)
    }

    /// Whether an element is there.
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.comments.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.comments.is_empty()
    }

    /// The mark that packets to an address get for a purpose.
    pub fn mark(&self, key: FrontendKey, purpose: Purpose) -> Option<NonZeroU32> {
        self.marks.get(&(key, purpose)).copied()
    }

    /// The address whose packets get the mark of a virtual server.
    pub fn marked(&self, family: Family, mark: NonZeroU32) -> Option<FrontendKey> {
        self.numbers.get(&(family, mark)).copied()
    }

    /// How many virtual servers of marks there are.
    pub(super) fn marked_count(&self) -> usize {
        self.numbers.len()
    }

    /// Who may reach an address, where that is restricted.
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
