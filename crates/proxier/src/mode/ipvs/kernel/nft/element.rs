//! Encodes and decodes elements of sets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;
use ipvs::{Family, Protocol};

use crate::desired::FrontendKey;
use crate::mode::ipvs::plan::{Audience, Comment, Element, Purpose};
use crate::mode::ipvs::rules::{Field, Set, range_tag, untagged_range};
use netlink::uapi::*;
use netlink::{Attributes, Malformed, Writer, user_data};

/// The longest comment that fits.
pub(super) const MAX_COMMENT: usize = user_data::MAX - 1;

/// The set of an element.
pub(super) fn set_of(element: &Element) -> Set {
    let at = |key: &FrontendKey, address: fn(Family) -> Set, node_port: fn(Family) -> Set| {
        let of_family = if key.is_node_port() {
            node_port
        } else {
            address
        };
        of_family(key.family())
    };
    match element {
        Element::Restricted(key) => Set::Restricted(key.family()),
        Element::SourceRange(key, _) => Set::SourceRanges(key.family()),
        Element::VirtualServer(key) => Set::VirtualServers(key.family()),
        Element::NoEndpoints(key) => at(key, Set::NoEndpoints, Set::NoEndpointsNodePorts),
        Element::Dropped(key, Audience::All) => Set::Dropped(key.family()),
        Element::Dropped(key, Audience::External) => {
            at(key, Set::DroppedExternal, Set::DroppedExternalNodePorts)
        }
        Element::Mark { key, purpose, .. } => match purpose {
            Purpose::Capture => Set::Captured(key.family()),
            Purpose::NodePort => Set::NodePorts(key.family()),
            Purpose::External => at(key, Set::External, Set::ExternalNodePorts),
        },
        Element::CapturedAddress(address) => Set::CapturedAddresses(Family::of(address)),
        Element::Hairpin(address) => Set::Hairpin(Family::of(address)),
        Element::ServiceCidr(network) => Set::ServiceCidrs(Family::of(&network.addr())),
        Element::NodePortAddresses(network) => Set::NodePortAddresses(Family::of(&network.addr())),
        Element::HealthCheck(family, _) => Set::HealthChecks(*family),
    }
}

/// Whether a set's elements are networks, each of which is a pair of elements in the kernel.
pub(super) fn is_network_set(set: Set) -> bool {
    set.is_interval() && matches!(set.fields(), [_])
}

/// Whether a comment is a valid C string that fits, so that the kernel and nft read it back
/// unchanged.
pub(super) fn is_valid_comment(comment: &str) -> bool {
    comment.len() <= MAX_COMMENT && !comment.contains('\0')
}

/// Writes an element of a list; two for a network: its first address, and the address after its
/// last one.
pub(super) fn put_element(w: &mut Writer, element: &Element, comment: Option<&str>) {
    put_part(w, comment, |w| {
        let key = Key::of(element);
        put_value(w, NFTA_SET_ELEM_KEY, key.bytes());
        if let Element::Mark { mark, .. } = element {
            put_value(w, NFTA_SET_ELEM_DATA, &mark.get().to_ne_bytes());
        }
    });
    if let Element::ServiceCidr(network) | Element::NodePortAddresses(network) = element
        && let Some(end) = address_after(*network)
    {
        put_part(w, None, |w| {
            let key = Key::default().with_address(end);
            put_value(w, NFTA_SET_ELEM_KEY, key.bytes());
            w.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        });
    }
}

/// Writes one element of a list: what `content` writes, and the comment as nft writes it.
pub(crate) fn put_part(w: &mut Writer, comment: Option<&str>, content: impl FnOnce(&mut Writer)) {
    w.nested(NFTA_LIST_ELEM, |w| {
        content(w);
        if let Some(comment) = comment {
            // A C string, including the NUL.
            let parts = [comment.as_bytes(), &[0]];
            w.attribute(NFTA_SET_ELEM_USERDATA, |w| {
                user_data::put(w, user_data::COMMENT, &parts)
            });
        }
    });
}

/// Writes a key or the value of a map.
pub(crate) fn put_value(w: &mut Writer, attribute: u16, value: &[u8]) {
    put_value_with(w, attribute, |w| w.raw(value));
}

/// Writes a key or the value of a map, with the bytes from `content`.
pub(crate) fn put_value_with(w: &mut Writer, attribute: u16, content: impl FnOnce(&mut Writer)) {
    w.nested(attribute, |w| w.attribute(NFTA_DATA_VALUE, content));
}

/// The first address after a network; none after the last address of the family.
pub(crate) fn address_after(network: IpNet) -> Option<IpAddr> {
    match network.broadcast() {
        IpAddr::V4(last) => {
            let next = last.to_bits().checked_add(1)?;
            Some(Ipv4Addr::from_bits(next).into())
        }
        IpAddr::V6(last) => {
            let next = last.to_bits().checked_add(1)?;
            Some(Ipv6Addr::from_bits(next).into())
        }
    }
}

/// A key in the kernel's encoding: the fields one after another, each padded to registers of 4
/// bytes.
#[derive(Default)]
struct Key {
    bytes: [[u8; 20]; 2],
    length: usize,
}

impl Key {
    fn of(element: &Element) -> Self {
        match element {
            Element::Restricted(key)
            | Element::VirtualServer(key)
            | Element::NoEndpoints(key)
            | Element::Dropped(key, _)
            | Element::Mark { key, .. } => {
                let has_address = set_of(element).has_address();
                if has_address {
                    Self::frontend(key)
                } else {
                    Self::default().with_port(key)
                }
            }
            Element::SourceRange(key, network) => {
                let tag = range_tag(key.family(), network.prefix_len());
                let of = Self::default().with_address(key.address);
                of.with_tagged_port(key, tag)
                    .with_address(network.network())
            }
            Element::CapturedAddress(address) => Self::default().with_address(*address),
            Element::HealthCheck(family, port) => {
                Self::default().with_port(&FrontendKey::node_port(Protocol::Tcp, *family, *port))
            }
            Element::Hairpin(address) => Self::default()
                .with_address(*address)
                .with_address(*address),
            Element::ServiceCidr(network) | Element::NodePortAddresses(network) => {
                Self::default().with_address(network.network())
            }
        }
    }

    fn frontend(key: &FrontendKey) -> Self {
        Self::default().with_address(key.address).with_port(key)
    }

    fn with_address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.with(&address.octets()),
            IpAddr::V6(address) => self.with(&address.octets()),
        }
    }

    fn with_port(self, key: &FrontendKey) -> Self {
        self.with_tagged_port(key, 0)
    }

    /// With some bits of the protocol flipped.
    fn with_tagged_port(self, key: &FrontendKey, tag: u8) -> Self {
        let [_, number] = key.protocol.number().to_be_bytes();
        let [high, low] = key.port.get().to_be_bytes();
        self.with(&[number ^ tag, 0, 0, 0]).with(&[high, low, 0, 0])
    }

    fn with(mut self, field: &[u8]) -> Self {
        let end = self.length + field.len();
        if let Some(place) = self.bytes.as_flattened_mut().get_mut(self.length..end) {
            place.copy_from_slice(field);
            self.length = end;
        }
        self
    }

    fn bytes(&self) -> &[u8] {
        let bytes = self.bytes.as_flattened();
        bytes.get(..self.length).unwrap_or_default()
    }
}

/// A decoded element of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    key: &'a [u8],
    data: Option<&'a [u8]>,
    is_end: bool,
    user_data: &'a [u8],
}

impl<'a> Part<'a> {
    /// `None` for an element without a key: the catch-all element (`*`).
    pub(super) fn parse(attributes: Attributes<'a>) -> Result<Option<Self>, Malformed> {
        let value = |kind| {
            let data = attributes.nested(kind)?;
            Ok(data.and_then(|data| data.value(NFTA_DATA_VALUE)))
        };
        let flags = attributes.number(NFTA_SET_ELEM_FLAGS)?.unwrap_or(0);
        let Some(key) = value(NFTA_SET_ELEM_KEY)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            key,
            data: value(NFTA_SET_ELEM_DATA)?,
            is_end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
            user_data: attributes.value(NFTA_SET_ELEM_USERDATA).unwrap_or_default(),
        }))
    }

    fn comment(&self) -> Comment {
        comment(self.user_data)
    }

    /// The element of a set without networks; `None` for one that svcproxy cannot have written.
    pub(super) fn element(&self, set: Set) -> Option<(Element, Comment)> {
        Some((self.bare_element(set)?, self.comment()))
    }

    fn bare_element(&self, set: Set) -> Option<Element> {
        let frontend = || {
            let (key, rest) = split_frontend(self.key, set)?;
            rest.is_empty().then_some(key)
        };
        let marked = |purpose| {
            let mark = u32::from_ne_bytes(self.data?.try_into().ok()?);
            let (key, mark) = (frontend()?, NonZeroU32::new(mark)?);
            Some(Element::Mark { key, purpose, mark })
        };
        match set {
            Set::VirtualServers(_) => frontend().map(Element::VirtualServer),
            Set::NoEndpoints(_) | Set::NoEndpointsNodePorts(_) => {
                frontend().map(Element::NoEndpoints)
            }
            Set::Restricted(_) => frontend().map(Element::Restricted),
            Set::Dropped(_) => Some(Element::Dropped(frontend()?, Audience::All)),
            Set::DroppedExternal(_) | Set::DroppedExternalNodePorts(_) => {
                Some(Element::Dropped(frontend()?, Audience::External))
            }
            Set::Captured(_) => marked(Purpose::Capture),
            Set::NodePorts(_) => marked(Purpose::NodePort),
            Set::External(_) | Set::ExternalNodePorts(_) => marked(Purpose::External),
            Set::SourceRanges(family) => self.source_range(family, set),
            Set::CapturedAddresses(family) => match split_address(self.key, family)? {
                (address, []) => Some(Element::CapturedAddress(address)),
                _ => None,
            },
            Set::Hairpin(family) => {
                let (source, rest) = split_address(self.key, family)?;
                (split_address(rest, family)? == (source, &[][..]))
                    .then_some(Element::Hairpin(source))
            }
            Set::HealthChecks(family) => match frontend()? {
                FrontendKey {
                    protocol: Protocol::Tcp,
                    port,
                    ..
                } => Some(Element::HealthCheck(family, port)),
                _ => None,
            },
            Set::ServiceCidrs(_) | Set::NodePortAddresses(_) => None,
        }
    }

    fn source_range(&self, family: Family, set: Set) -> Option<Element> {
        let (key, rest) = split_frontend(self.key, set)?;
        let number = u8::try_from(key.protocol.number()).ok()?;
        let (protocol, length) = untagged_range(family, number)?;
        match split_address(rest, family)? {
            (address, []) => {
                let network = IpNet::new(address, length).ok()?;
                let is_network = network.trunc() == network;
                is_network.then_some(Element::SourceRange(
                    FrontendKey { protocol, ..key },
                    network,
                ))
            }
            _ => None,
        }
    }
}

/// The comment in an element's user data, if it has svcproxy's format.
pub(crate) fn comment(user_data: &[u8]) -> Comment {
    let bytes = user_data::get(user_data, user_data::COMMENT)?;
    let text = str::from_utf8(bytes.strip_suffix(&[0])?).ok()?;
    Some(text.into())
}

fn split_address(bytes: &[u8], family: Family) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::V4 => {
            let (octets, rest) = bytes.split_first_chunk::<4>()?;
            Some(((*octets).into(), rest))
        }
        Family::V6 => {
            let (octets, rest) = bytes.split_first_chunk::<16>()?;
            Some(((*octets).into(), rest))
        }
    }
}

/// Splits off address, protocol and port; in sets without addresses, protocol and port.
fn split_frontend(bytes: &[u8], set: Set) -> Option<(FrontendKey, &[u8])> {
    let family = set.family();
    let (address, rest) = match set.fields() {
        [Field::Protocol, ..] => (None, bytes),
        _ => {
            let (address, rest) = split_address(bytes, family)?;
            (Some(address), rest)
        }
    };
    let ([number, 0, 0, 0, high, low, 0, 0], rest) = rest.split_first_chunk()? else {
        return None;
    };
    let protocol = Protocol::from_number(u16::from(*number));
    let port = NonZeroU16::new(u16::from_be_bytes([*high, *low]))?;
    let node_port = FrontendKey::node_port(protocol, family, port);
    let address = address.unwrap_or(node_port.address);
    Some((
        FrontendKey {
            address,
            ..node_port
        },
        rest,
    ))
}

/// The elements of a set of networks, from its parts in any order. Ranges that are no networks are
/// not svcproxy's, and are left out.
pub(super) fn networks(parts: Vec<Part<'_>>, set: Set) -> Vec<(Element, Comment)> {
    let element = match set {
        Set::NodePortAddresses(_) => Element::NodePortAddresses,
        _ => Element::ServiceCidr,
    };
    let parts = parts.into_iter().filter_map(|part| {
        let (address, _) = split_address(part.key, set.family())?;
        Some((address, part.is_end, part.comment()))
    });
    let networks = paired(parts.collect()).into_iter();
    let elements = networks.map(|(network, comment)| (element(network), comment));
    elements.collect()
}

/// The networks of a set, from its elements in any order: the first address of each, and the address
/// after its last one, which is an end. Leaves out ranges that are no networks.
pub(crate) fn paired(mut parts: Vec<(IpAddr, bool, Comment)>) -> Vec<(IpNet, Comment)> {
    // A network may begin where another one ends; the end sorts first.
    parts.sort_unstable_by_key(|(address, is_end, _)| (*address, !is_end));
    let mut networks = Vec::new();
    let mut parts = parts.into_iter().peekable();
    while let Some((start, is_end, comment)) = parts.next() {
        if is_end {
            continue;
        }
        let end = parts.next_if(|(_, is_end, _)| *is_end);
        let end = end.map(|(address, ..)| address);
        let network = network_from(start, |network| address_after(*network) == end);
        networks.extend(network.map(|network| (network, comment)));
    }
    networks
}

/// The network that begins with an address and has a matching end.
fn network_from(start: IpAddr, ends: impl Fn(&IpNet) -> bool) -> Option<IpNet> {
    let max = if start.is_ipv4() { 32 } else { 128 };
    (0..=max)
        .filter_map(|length| IpNet::new(start, length).ok())
        .find(|network| network.network() == start && ends(network))
}

#[cfg(test)]
mod tests;
