//! Encodes and decodes sets and their elements.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;
use ipvs::{Family, Protocol};
use netlink::uapi::*;
use netlink::{Attributes, Malformed, Writer, user_data};

use crate::desired::FrontendKey;
use crate::mode::ipvs::kernel::nft::{address_after, comment, paired, put_part, put_value_with};
use crate::mode::ipvs::plan::{Audience, Comment};
use crate::mode::ipvs::rules::{Field, range_tag, untagged_range};
use crate::mode::nftables::element::EXTERNAL;
use crate::mode::nftables::set::{Data, Part};
use crate::mode::nftables::{Choice, Element, Set, Target};

/// Bits per type in the number of a concatenated type (nft's `datatype.h`). The kernel only stores
/// these numbers, for nft.
const TYPE_BITS: u32 = 6;
/// The type of a packet's priority, which nft calls `classid`.
const CLASS: u32 = 23;
const ADDRESS_V4: u32 = 7;
const ADDRESS_V6: u32 = 8;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;

/// The definition of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Definition {
    flags: u32,
    key_type: u32,
    key_length: u32,
    /// Type and length of a map's values; of chains the type only.
    data: Option<(u32, u32)>,
}

const fn type_of(part: Part, family: Family) -> u32 {
    match (part, family) {
        (Part::Number, _) => CLASS,
        (Part::Field(Field::Source | Field::Destination), Family::V4) => ADDRESS_V4,
        (Part::Field(Field::Source | Field::Destination), Family::V6) => ADDRESS_V6,
        (Part::Field(Field::Protocol), _) => PROTOCOL,
        (Part::Field(_), _) => PORT,
    }
}

impl Definition {
    pub(super) fn of(set: Set, family: Family) -> Self {
        let key = set.key().iter();
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let address = Part::Field(Field::Destination);
        let data = match set.data() {
            Data::None => None,
            Data::Number => Some((CLASS, 4)),
            Data::Target => {
                let kind = type_of(address, family) << TYPE_BITS | PORT;
                Some((kind, address.length(family) + 4))
            }
            Data::Chain => Some((NFT_DATA_VERDICT, 0)),
        };
        Self {
            flags: flag(set.is_interval(), NFT_SET_INTERVAL)
                | flag(data.is_some(), NFT_SET_MAP)
                | flag(set.is_dynamic(), NFT_SET_TIMEOUT | NFT_SET_EVAL),
            key_type: key
                .clone()
                .fold(0, |all, part| all << TYPE_BITS | type_of(*part, family)),
            key_length: key.map(|part| part.length(family)).sum(),
            data,
        }
    }

    pub(super) fn parse(attributes: Attributes<'_>) -> Result<Self, Malformed> {
        let kind = attributes.number(NFTA_SET_DATA_TYPE)?;
        let length = attributes.number(NFTA_SET_DATA_LEN)?.unwrap_or(0);
        Ok(Self {
            // Absent if there are no flags.
            flags: attributes.number(NFTA_SET_FLAGS)?.unwrap_or(0),
            key_type: attributes.require(NFTA_SET_KEY_TYPE)?.number()?,
            key_length: attributes.require(NFTA_SET_KEY_LEN)?.number()?,
            data: kind.map(|kind| match kind {
                NFT_DATA_VERDICT => (kind, 0),
                _ => (kind, length),
            }),
        })
    }
}

/// Writes the content of a message that creates a set; `id` is its number in the transaction.
pub(super) fn put_set(w: &mut Writer, set: Set, family: Family, table: &str, id: u32) {
    let definition = Definition::of(set, family);
    w.text(NFTA_SET_TABLE, table);
    w.text(NFTA_SET_NAME, set.name());
    w.number(NFTA_SET_FLAGS, definition.flags);
    w.number(NFTA_SET_KEY_TYPE, definition.key_type);
    w.number(NFTA_SET_KEY_LEN, definition.key_length);
    if let Some((kind, length)) = definition.data {
        w.number(NFTA_SET_DATA_TYPE, kind);
        if length > 0 {
            w.number(NFTA_SET_DATA_LEN, length);
        }
    }
    w.number(NFTA_SET_ID, id);
    if set.is_dynamic() {
        w.nested(NFTA_SET_DESC, |w| {
            w.number(NFTA_SET_DESC_SIZE, Set::MOST_CLIENTS)
        });
    }
    // Without it, nft lists networks with reversed bytes.
    if set.is_interval() {
        const BIG_ENDIAN: u32 = 2;
        w.attribute(NFTA_SET_USERDATA, |w| {
            user_data::put(w, user_data::KEY_BYTE_ORDER, &[&BIG_ENDIAN.to_ne_bytes()]);
        });
    }
}

// Parts of a key or value in the kernel's encoding: one after another, each padded to registers of 4
// bytes. They go straight into the message: a first sync writes hundreds of thousands.

fn put_address(w: &mut Writer, address: IpAddr) {
    match address {
        IpAddr::V4(address) => w.raw(&address.octets()),
        IpAddr::V6(address) => w.raw(&address.octets()),
    }
}

fn put_number(w: &mut Writer, number: u32) {
    w.raw(&number.to_ne_bytes());
}

/// `tag` flips some bits of the protocol.
fn put_frontend(w: &mut Writer, key: &FrontendKey, tag: u8) {
    put_address(w, key.address);
    let [_, protocol] = key.protocol.number().to_be_bytes();
    let [high, low] = key.port.get().to_be_bytes();
    w.raw(&[protocol ^ tag, 0, 0, 0, high, low, 0, 0]);
}

fn put_target(w: &mut Writer, to: Target) {
    put_address(w, to.address);
    let [high, low] = to.port.get().to_be_bytes();
    w.raw(&[high, low, 0, 0]);
}

/// The number of an endpoint in its key.
const fn numbered(audience: Audience, number: u32) -> u32 {
    match audience {
        Audience::External => number | EXTERNAL,
        Audience::All => number,
    }
}

/// The audience and the number of an endpoint in a key.
const fn split(numbered: u32) -> (Audience, u32) {
    match numbered & EXTERNAL {
        0 => (Audience::All, numbered),
        _ => (Audience::External, numbered & !EXTERNAL),
    }
}

fn put_key(w: &mut Writer, element: &Element) {
    match element {
        Element::Restricted(key)
        | Element::Masqueraded(key)
        | Element::Service { key, .. }
        | Element::NoEndpoints(key)
        | Element::Dropped(key, _) => put_frontend(w, key, 0),
        Element::SourceRange(key, network) => {
            let tag = range_tag(key.family(), network.prefix_len());
            put_frontend(w, key, tag);
            put_address(w, network.network());
        }
        Element::Endpoint {
            key,
            audience,
            number,
            ..
        }
        | Element::Number {
            key,
            audience,
            number,
            ..
        } => {
            put_frontend(w, key, 0);
            put_number(w, numbered(*audience, *number));
        }
        Element::Hairpin(address) => {
            put_address(w, *address);
            put_address(w, *address);
        }
        Element::ServiceCidr(network) | Element::NodePortAddresses(network) => {
            put_address(w, network.network());
        }
        Element::HealthCheck(_, port) => {
            let [_, protocol] = Protocol::Tcp.number().to_be_bytes();
            let [high, low] = port.get().to_be_bytes();
            w.raw(&[protocol, 0, 0, 0, high, low, 0, 0]);
        }
    }
}

/// Writes an element of a list; two for a network: its first address, and the address after its
/// last one.
pub(super) fn put_element(w: &mut Writer, element: &Element, comment: Option<&str>) {
    put_part(w, comment, |w| {
        put_value_with(w, NFTA_SET_ELEM_KEY, |w| put_key(w, element));
        let value = NFTA_SET_ELEM_DATA;
        match element {
            Element::Endpoint { to, .. } => put_value_with(w, value, |w| put_target(w, *to)),
            Element::Number {
                audience, lasting, ..
            } => put_value_with(w, value, |w| put_number(w, numbered(*audience, *lasting))),
            Element::Service { choice, .. } => {
                put_value_with(w, value, |w| put_number(w, choice.number()));
            }
            _ => {}
        }
    });
    if let Element::ServiceCidr(network) | Element::NodePortAddresses(network) = element
        && let Some(end) = address_after(*network)
    {
        put_part(w, None, |w| {
            put_value_with(w, NFTA_SET_ELEM_KEY, |w| put_address(w, end));
            w.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        });
    }
}

/// Writes an element of a map of chains.
pub(super) fn put_chooser(w: &mut Writer, choice: Choice, chain: &str) {
    put_part(w, None, |w| {
        put_value_with(w, NFTA_SET_ELEM_KEY, |w| put_number(w, choice.number()));
        w.nested(NFTA_SET_ELEM_DATA, |w| {
            w.nested(NFTA_DATA_VERDICT, |w| {
                w.put(NFTA_VERDICT_CODE, &NFT_GOTO.to_be_bytes());
                w.text(NFTA_VERDICT_CHAIN, chain);
            });
        });
    });
}

/// An element of a listing.
#[derive(Debug)]
pub(super) struct Listed {
    key: Vec<u8>,
    data: Option<Vec<u8>>,
    /// The chain of a map of chains.
    pub(super) chain: Option<String>,
    is_end: bool,
    comment: Comment,
}

impl Listed {
    /// `None` for an element without a key: the catch-all element (`*`).
    pub(super) fn parse(attributes: Attributes<'_>) -> Result<Option<Self>, Malformed> {
        let value = |kind| {
            let data = attributes.nested(kind)?;
            Ok(data
                .and_then(|data| data.value(NFTA_DATA_VALUE))
                .map(<[u8]>::to_vec))
        };
        let flags = attributes.number(NFTA_SET_ELEM_FLAGS)?.unwrap_or(0);
        let Some(key) = value(NFTA_SET_ELEM_KEY)? else {
            return Ok(None);
        };
        let chain = match attributes.nested(NFTA_SET_ELEM_DATA)? {
            Some(data) => data.nested(NFTA_DATA_VERDICT)?,
            None => None,
        };
        let user_data = attributes.value(NFTA_SET_ELEM_USERDATA).unwrap_or_default();
        Ok(Some(Self {
            key,
            data: value(NFTA_SET_ELEM_DATA)?,
            chain: chain.and_then(|chain| chain.text(NFTA_VERDICT_CHAIN).map(str::to_owned)),
            is_end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
            comment: comment(user_data),
        }))
    }

    /// The choice of a map of chains.
    pub(super) fn choice(&self) -> Option<Choice> {
        Choice::from_number(Reader(&self.key).number()?)
    }

    /// The element; `None` for one that svcproxy cannot have written, or of a network.
    fn element(&self, set: Set, family: Family) -> Option<Element> {
        let mut bytes = Reader(&self.key);
        let element = match set {
            Set::Restricted => Element::Restricted(bytes.frontend(family)?),
            Set::Masqueraded => Element::Masqueraded(bytes.frontend(family)?),
            Set::NoEndpoints => Element::NoEndpoints(bytes.frontend(family)?),
            Set::Dropped => Element::Dropped(bytes.frontend(family)?, Audience::All),
            Set::DroppedExternal => Element::Dropped(bytes.frontend(family)?, Audience::External),
            Set::Services | Set::External => {
                let number = Reader(self.data.as_deref()?).number()?;
                let choice = Choice::from_number(number)?;
                let audience = match set {
                    Set::External => Audience::External,
                    _ => Audience::All,
                };
                let key = bytes.frontend(family)?;
                Element::Service {
                    key,
                    audience,
                    choice,
                }
            }
            Set::Endpoints | Set::Numbers => {
                let key = bytes.frontend(family)?;
                let (audience, number) = split(bytes.number()?);
                let mut data = Reader(self.data.as_deref()?);
                match set {
                    Set::Endpoints => Element::Endpoint {
                        key,
                        audience,
                        number,
                        to: data.target(family)?,
                    },
                    _ => Element::Number {
                        key,
                        audience,
                        number,
                        lasting: split(data.number()?).1,
                    },
                }
            }
            Set::SourceRanges => {
                let (key, address) = (bytes.frontend(family)?, bytes.address(family)?);
                let number = u8::try_from(key.protocol.number()).ok()?;
                let (protocol, length) = untagged_range(family, number)?;
                let network = IpNet::new(address, length).ok()?;
                let element = Element::SourceRange(FrontendKey { protocol, ..key }, network);
                (network.trunc() == network).then_some(element)?
            }
            Set::Hairpin => {
                let address = bytes.address(family)?;
                (bytes.address(family)? == address).then_some(Element::Hairpin(address))?
            }
            Set::HealthChecks => {
                let protocol = bytes.protocol()?;
                let port = bytes.port()?;
                (protocol == Protocol::Tcp).then_some(Element::HealthCheck(family, port))?
            }
            _ => return None,
        };
        bytes.0.is_empty().then_some(element)
    }
}

/// The elements of a set, from its listing. What is not svcproxy's is left out.
pub(super) fn elements(listed: Vec<Listed>, set: Set, family: Family) -> Vec<(Element, Comment)> {
    let network: fn(IpNet) -> Element = match set {
        Set::ServiceCidrs => Element::ServiceCidr,
        Set::NodePortAddresses => Element::NodePortAddresses,
        _ => {
            let listed = listed.into_iter();
            let elements = listed.filter_map(|one| Some((one.element(set, family)?, one.comment)));
            return elements.collect();
        }
    };
    let parts = listed.into_iter().filter_map(|part| {
        let address = Reader(&part.key).address(family)?;
        Some((address, part.is_end, part.comment))
    });
    let networks = paired(parts.collect()).into_iter();
    let elements = networks.map(|(of, comment)| (network(of), comment));
    elements.collect()
}

/// Reads the parts of a key or value.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn address(&mut self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.take::<4>().map(IpAddr::from),
            Family::V6 => self.take::<16>().map(IpAddr::from),
        }
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let [number, ..] = self.take::<4>()?;
        Some(Protocol::from_number(number.into()))
    }

    fn port(&mut self) -> Option<NonZeroU16> {
        let [high, low, ..] = self.take::<4>()?;
        NonZeroU16::new(u16::from_be_bytes([high, low]))
    }

    fn frontend(&mut self, family: Family) -> Option<FrontendKey> {
        Some(FrontendKey {
            address: self.address(family)?,
            protocol: self.protocol()?,
            port: self.port()?,
        })
    }

    fn target(&mut self, family: Family) -> Option<Target> {
        Some(Target {
            address: self.address(family)?,
            port: self.port()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_as_written() {
        for (address, target) in [("10.96.0.1", "10.244.1.7"), ("fd00::1", "fd00:10::7")] {
            let key = FrontendKey {
                protocol: Protocol::Udp,
                address: address.parse().unwrap(),
                port: NonZeroU16::new(53).unwrap(),
            };
            let to = Target {
                address: target.parse().unwrap(),
                port: NonZeroU16::new(5353).unwrap(),
            };
            let choice = Choice::from_number(3 << 17 | 10_800).unwrap();
            let audience = Audience::External;
            let family = key.family();
            let network = IpNet::new(key.address, 24).unwrap().trunc();
            for element in [
                Element::Restricted(key),
                Element::SourceRange(key, network),
                Element::SourceRange(key, key.address.into()),
                Element::Endpoint {
                    key,
                    audience,
                    number: 7,
                    to,
                },
                Element::Endpoint {
                    key,
                    audience: Audience::All,
                    number: 0,
                    to,
                },
                Element::Number {
                    key,
                    audience,
                    number: 7,
                    lasting: 1 << 30 | 5,
                },
                Element::Masqueraded(key),
                Element::Service {
                    key,
                    audience,
                    choice,
                },
                Element::NoEndpoints(key),
                Element::Dropped(key, audience),
                Element::Hairpin(to.address),
                Element::ServiceCidr(network),
                Element::NodePortAddresses("::/0".parse().unwrap()),
                Element::HealthCheck(family, to.port),
            ] {
                let mut writer = Writer::default();
                put_element(&mut writer, &element, Some("shop/web"));
                // Each is an attribute of the list.
                let parts = Attributes::parse(writer.bytes()).unwrap();
                let listed: Vec<_> = parts
                    .iter()
                    .filter_map(|part| Listed::parse(part.attributes().unwrap()).unwrap())
                    .collect();
                let set = element.set();
                let family = element.family();
                let read = elements(listed, set, family);
                assert_eq!(read, [(element, Some("shop/web".into()))]);
            }
        }
    }
}
