//! Elements of sets, written for the kernel and read back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use ipnet::IpNet;
use ipvs::{Family, Protocol};

use super::wire::uapi::*;
use super::wire::{Attributes, Writer, user_data};
use crate::desired::FrontendKey;
use crate::netfilter::Set;
use crate::plan::{Comment, Element};

/// The longest comment that fits.
pub(super) const MAX_COMMENT: usize = user_data::MAX - 1;

/// The set an element is of.
pub(super) fn set_of(element: &Element) -> Set {
    let (of_family, address): (fn(Family) -> Set, _) = match element {
        Element::VirtualServer(key) => (Set::VirtualServers, key.address),
        Element::NoEndpoints(key) => (Set::NoEndpoints, key.address),
        Element::Hairpin(address) => (Set::Hairpin, *address),
        Element::ServiceCidr(network) => (Set::ServiceCidrs, network.addr()),
    };
    of_family(Family::of(&address))
}

/// Whether the kernel and nft will read a comment as it is written: as one C string that fits.
pub(super) fn is_valid_comment(comment: &str) -> bool {
    comment.len() <= MAX_COMMENT && !comment.contains('\0')
}

/// Writes an element of a list, or two: a network is its first address and the one after its
/// last.
pub(super) fn put_element(w: &mut Writer, element: &Element, comment: Option<&str>) {
    put_part(w, &Key::of(element), 0, comment);
    if let Element::ServiceCidr(network) = element
        && let Some(end) = address_after(*network)
    {
        put_part(w, &Key::address(end), NFT_SET_ELEM_INTERVAL_END, None);
    }
}

fn put_part(w: &mut Writer, key: &Key, flags: u32, comment: Option<&str>) {
    w.nested(NFTA_LIST_ELEM, |w| {
        w.nested(NFTA_SET_ELEM_KEY, |w| w.put(NFTA_DATA_VALUE, key.bytes()));
        if flags != 0 {
            w.number(NFTA_SET_ELEM_FLAGS, flags);
        }
        if let Some(comment) = comment {
            // A C string, whose NUL counts.
            let parts = [comment.as_bytes(), &[0]];
            w.attribute(NFTA_SET_ELEM_USERDATA, |w| {
                user_data::put(w, user_data::COMMENT, &parts)
            });
        }
    });
}

/// The first address behind a network; none behind the last of all.
fn address_after(network: IpNet) -> Option<IpAddr> {
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

/// A key as the kernel has it: the fields one after another, each in as many registers of 4
/// bytes as it needs.
struct Key {
    bytes: [u8; 32],
    length: usize,
}

impl Key {
    fn of(element: &Element) -> Self {
        match element {
            Element::VirtualServer(key) | Element::NoEndpoints(key) => {
                let number = key.protocol.number().to_be_bytes()[1];
                let port = key.port.get().to_be_bytes();
                Self::address(key.address)
                    .with(&[number, 0, 0, 0])
                    .with(&port)
                    .with(&[0; 2])
            }
            Element::Hairpin(IpAddr::V4(address)) => {
                Self::address((*address).into()).with(&address.octets())
            }
            Element::Hairpin(IpAddr::V6(address)) => {
                Self::address((*address).into()).with(&address.octets())
            }
            Element::ServiceCidr(network) => Self::address(network.network()),
        }
    }

    fn address(address: IpAddr) -> Self {
        let empty = Self {
            bytes: [0; 32],
            length: 0,
        };
        match address {
            IpAddr::V4(address) => empty.with(&address.octets()),
            IpAddr::V6(address) => empty.with(&address.octets()),
        }
    }

    fn with(mut self, field: &[u8]) -> Self {
        let end = self.length + field.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(field);
            self.length = end;
        }
        self
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// An element of a list, as read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    key: &'a [u8],
    is_end: bool,
    user_data: &'a [u8],
}

impl<'a> Part<'a> {
    /// `None` for what is no element with a key.
    pub(super) fn parse(attributes: Attributes<'a>) -> Option<Self> {
        let key = attributes.nested(NFTA_SET_ELEM_KEY)?.get(NFTA_DATA_VALUE)?;
        let flags = attributes.number(NFTA_SET_ELEM_FLAGS).unwrap_or(0);
        Some(Self {
            key,
            is_end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
            user_data: attributes.get(NFTA_SET_ELEM_USERDATA).unwrap_or_default(),
        })
    }

    /// Its comment, if it is one as we write it.
    fn comment(&self) -> Comment {
        let bytes = user_data::get(self.user_data, user_data::COMMENT)?;
        let text = str::from_utf8(bytes.strip_suffix(&[0])?).ok()?;
        Some(text.into())
    }

    /// The element of a set whose elements stand for themselves; `None` for one we cannot have
    /// written.
    pub(super) fn element(&self, set: Set) -> Option<(Element, Comment)> {
        let (address, rest) = split_address(self.key, set.family())?;
        let element = match set {
            Set::VirtualServers(_) => Element::VirtualServer(frontend(address, rest)?),
            Set::NoEndpoints(_) => Element::NoEndpoints(frontend(address, rest)?),
            Set::Hairpin(family) => {
                let (destination, []) = split_address(rest, family)? else {
                    return None;
                };
                (address == destination).then_some(Element::Hairpin(address))?
            }
            _ => return None,
        };
        Some((element, self.comment()))
    }
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

fn frontend(address: IpAddr, rest: &[u8]) -> Option<FrontendKey> {
    let [number, 0, 0, 0, high, low, 0, 0] = *rest else {
        return None;
    };
    Some(FrontendKey {
        protocol: Protocol::from_number(u16::from(number)),
        address,
        port: NonZeroU16::new(u16::from_be_bytes([high, low]))?,
    })
}

/// The networks of a set of intervals, from its elements in any order; what is no network, and
/// so not ours, is left out.
pub(super) fn networks(mut parts: Vec<Part<'_>>, family: Family) -> Vec<(Element, Comment)> {
    // Where one network ends the next may begin; its end comes first.
    parts.sort_unstable_by_key(|part| (part.key, !part.is_end));
    let mut networks = Vec::new();
    let mut parts = parts.into_iter().peekable();
    while let Some(start) = parts.next() {
        if start.is_end {
            continue;
        }
        let end = parts.next_if(|part| part.is_end);
        let end = end.and_then(|part| split_address(part.key, family));
        let network = split_address(start.key, family)
            .and_then(|(start, _)| network(start, end.map(|(end, _)| end)));
        networks.extend(network.map(|network| (Element::ServiceCidr(network), start.comment())));
    }
    networks
}

/// The network from an address up to, and without, another.
fn network(start: IpAddr, end: Option<IpAddr>) -> Option<IpNet> {
    let max = if start.is_ipv4() { 32 } else { 128 };
    let networks = (0..=max).filter_map(|length| IpNet::new(start, length).ok());
    networks
        .into_iter()
        .find(|net| net.network() == start && address_after(*net) == end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_back(element: &Element, comment: Option<&str>) -> Vec<(Element, Comment)> {
        let mut w = Writer::default();
        put_element(&mut w, element, comment);
        let parts: Vec<_> = Attributes(w.bytes())
            .map(|(kind, value)| {
                assert_eq!(kind, NFTA_LIST_ELEM);
                Part::parse(Attributes(value)).unwrap()
            })
            .collect();
        match set_of(element) {
            Set::ServiceCidrs(family) => networks(parts, family),
            set => parts
                .iter()
                .map(|part| part.element(set).unwrap())
                .collect(),
        }
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<Ipv4Addr>().prop_map(IpAddr::from),
            any::<Ipv6Addr>().prop_map(IpAddr::from),
        ]
    }

    fn element() -> impl Strategy<Value = Element> {
        let protocol = prop_oneof![
            Just(Protocol::Tcp),
            Just(Protocol::Udp),
            Just(Protocol::Sctp)
        ];
        let key = (protocol, address(), any::<NonZeroU16>());
        let key = key.prop_map(|(protocol, address, port)| FrontendKey {
            protocol,
            address,
            port,
        });
        let network = (address(), 0..=128u8).prop_map(|(address, length)| {
            let length = if address.is_ipv4() {
                length % 33
            } else {
                length
            };
            IpNet::new(address, length).unwrap().trunc()
        });
        prop_oneof![
            (key, any::<bool>()).prop_map(|(key, refused)| match refused {
                true => Element::NoEndpoints(key),
                false => Element::VirtualServer(key),
            }),
            address().prop_map(Element::Hairpin),
            network.prop_map(Element::ServiceCidr),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(element in element(), comment in "[^\0]{0,63}") {
            prop_assert!(is_valid_comment(&comment));
            let comment = Comment::Some(comment.into());
            let read = read_back(&element, comment.as_deref());
            prop_assert_eq!(read, vec![(element, comment)]);
            prop_assert_eq!(read_back(&element, None), vec![(element, None)]);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let parts: Vec<_> = Attributes(&bytes)
                .filter_map(|(_, value)| Part::parse(Attributes(value)))
                .chain(Part::parse(Attributes(&bytes)))
                .chain([Part { key: &bytes, is_end: false, user_data: &bytes }])
                .collect();
            for set in Set::ALL {
                for part in &parts {
                    let _ = part.element(set);
                }
                let _ = networks(parts.clone(), set.family());
            }
        }
    }

    #[test]
    fn neighbouring_networks_are_told_apart() {
        let cidrs = [
            "10.0.0.0/32",
            "10.0.0.1/32",
            "10.0.0.2/31",
            "255.255.255.254/31",
        ];
        let cidrs = cidrs.map(|cidr| Element::ServiceCidr(cidr.parse().unwrap()));
        let mut w = Writer::default();
        cidrs
            .iter()
            .rev()
            .for_each(|cidr| put_element(&mut w, cidr, None));
        let parts = Attributes(w.bytes()).filter_map(|(_, value)| Part::parse(Attributes(value)));
        let read = networks(parts.collect(), Family::V4);
        assert_eq!(
            read.into_iter().map(|(cidr, _)| cidr).collect::<Vec<_>>(),
            cidrs
        );
    }

    #[test]
    fn what_is_no_network_is_left_out() {
        assert_eq!(
            network([10, 0, 0, 1].into(), Some([10, 0, 0, 4].into())),
            None
        );
        assert_eq!(network([10, 0, 0, 0].into(), None), None);
        assert_eq!(
            network([0, 0, 0, 0].into(), None),
            Some("0.0.0.0/0".parse().unwrap())
        );
    }

    #[test]
    fn comments_that_do_not_fit_are_refused() {
        assert!(is_valid_comment(&"x".repeat(MAX_COMMENT)));
        assert!(!is_valid_comment(&"x".repeat(MAX_COMMENT + 1)));
        assert!(!is_valid_comment("web\0"));
    }
}
