//! Netlink attributes: a checked reader, and a writer that allocates nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Family, UnknownAttribute};

/// A message that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It ends in the middle of this part.
    #[error("{0} is cut off")]
    Truncated(&'static str),
    /// An attribute has the wrong length.
    #[error("{attribute} has the wrong length of {length} bytes")]
    Length {
        /// The attribute.
        attribute: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// An attribute is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An attribute has a value without a meaning.
    #[error("{attribute} has the invalid value {value}")]
    Value {
        /// The attribute.
        attribute: &'static str,
        /// Its value.
        value: u32,
    },
    /// A text is not a valid name.
    #[error("{0} is not a valid name")]
    Text(&'static str),
    /// The message has an unexpected command.
    #[error("unexpected command {0}")]
    Command(u8),
}

pub(super) type Decoded<T> = Result<T, DecodeError>;

const HEADER: usize = 4;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLA_F_NESTED: u16 = 0x8000;

/// The number of bytes up to the next multiple of 4.
const fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

/// One attribute.
#[derive(Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub(super) kind: u16,
    pub(super) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value, which must have exactly `N` bytes.
    pub(super) fn array<const N: usize>(&self, attribute: &'static str) -> Decoded<[u8; N]> {
        let length = self.value.len();
        self.value
            .try_into()
            .map_err(|_| DecodeError::Length { attribute, length })
    }

    pub(super) fn u8(&self, attribute: &'static str) -> Decoded<u8> {
        self.array(attribute).map(u8::from_ne_bytes)
    }

    pub(super) fn u16(&self, attribute: &'static str) -> Decoded<u16> {
        self.array(attribute).map(u16::from_ne_bytes)
    }

    pub(super) fn be16(&self, attribute: &'static str) -> Decoded<u16> {
        self.array(attribute).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&self, attribute: &'static str) -> Decoded<u32> {
        self.array(attribute).map(u32::from_ne_bytes)
    }

    /// A counter of 32 or 64 bits.
    pub(super) fn counter(&self, attribute: &'static str) -> Decoded<u64> {
        match self.value.len() {
            4 => self.u32(attribute).map(u64::from),
            _ => self.array(attribute).map(u64::from_ne_bytes),
        }
    }

    /// A C string, up to its NUL if it has one.
    pub(super) fn c_string(&self) -> &'a [u8] {
        let length = self.value.iter().position(|&byte| byte == 0);
        let length = length.unwrap_or(self.value.len());
        self.value.get(..length).unwrap_or_default()
    }

    /// A C string that must be UTF-8, with or without its NUL.
    pub(super) fn text(&self, attribute: &'static str) -> Decoded<&'a str> {
        let bytes = self.value.strip_suffix(&[0]).unwrap_or(self.value);
        str::from_utf8(bytes).map_err(|_| DecodeError::Text(attribute))
    }

    /// An address: 16 bytes whatever the family, of which IPv4 uses the first 4.
    pub(super) fn address(&self, family: Family, attribute: &'static str) -> Decoded<IpAddr> {
        let length = self.value.len();
        let error = DecodeError::Length { attribute, length };
        match family {
            Family::V4 if length == 4 || length == 16 => {
                let octets = self.value.first_chunk::<4>().ok_or(error)?;
                Ok(Ipv4Addr::from(*octets).into())
            }
            Family::V4 => Err(error),
            Family::V6 => self
                .array::<16>(attribute)
                .map(|octets| Ipv6Addr::from(octets).into()),
        }
    }

    /// The attributes nested in this one.
    pub(super) fn nested(&self, name: &'static str) -> Attributes<'a> {
        Attributes {
            rest: self.value,
            name,
        }
    }
}

/// Iterates over attributes. A malformed one is an error and the last item.
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
    name: &'static str,
}

impl<'a> Attributes<'a> {
    pub(super) const fn new(bytes: &'a [u8], name: &'static str) -> Self {
        Self { rest: bytes, name }
    }

    fn split(&mut self) -> Option<Attribute<'a>> {
        let [l0, l1, k0, k1, ..] = *self.rest else {
            return None;
        };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = self.rest.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK;
        // The last attribute may lack its padding.
        self.rest = self
            .rest
            .get(length + padding(length)..)
            .unwrap_or_default();
        Some(Attribute { kind, value })
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Decoded<Attribute<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let attribute = self.split();
        if attribute.is_none() {
            self.rest = &[];
        }
        Some(attribute.ok_or(DecodeError::Truncated(self.name)))
    }
}

/// A destination of bytes.
pub(crate) trait Sink {
    /// The number of bytes so far.
    fn position(&self) -> usize;
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]);
    /// Overwrites earlier bytes.
    fn patch(&mut self, position: usize, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn position(&self) -> usize {
        self.len()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn patch(&mut self, position: usize, bytes: &[u8]) {
        if let Some(place) = self.get_mut(position..position + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// A given slice. Bytes beyond its end are dropped: [`Length`] says how long it must be.
#[cfg(any(feature = "netlink-packet", test))]
pub(super) struct Slice<'a> {
    pub(super) buffer: &'a mut [u8],
    pub(super) position: usize,
}

#[cfg(any(feature = "netlink-packet", test))]
impl Sink for Slice<'_> {
    fn position(&self) -> usize {
        self.position
    }

    fn put(&mut self, bytes: &[u8]) {
        self.patch(self.position, bytes);
        self.position += bytes.len();
    }

    fn patch(&mut self, position: usize, bytes: &[u8]) {
        if let Some(place) = self.buffer.get_mut(position..position + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// Counts the bytes.
#[cfg(any(feature = "netlink-packet", test))]
pub(super) struct Length(pub(super) usize);

#[cfg(any(feature = "netlink-packet", test))]
impl Sink for Length {
    fn position(&self) -> usize {
        self.0
    }

    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn patch(&mut self, _: usize, _: &[u8]) {}
}

/// The longest value that [`put_fixed`] takes: an address.
const LONGEST_FIXED: usize = 16;

/// Writes an attribute of known length in one piece.
#[inline]
pub(super) fn put_fixed<S: Sink, const N: usize>(sink: &mut S, kind: u16, value: [u8; N]) {
    const { assert!(N <= LONGEST_FIXED) };
    let mut bytes = [0; HEADER + LONGEST_FIXED];
    let [l0, l1, k0, k1, rest @ ..] = &mut bytes;
    [*l0, *l1] = u16::try_from(HEADER + N).unwrap_or_default().to_ne_bytes();
    [*k0, *k1] = kind.to_ne_bytes();
    for (place, byte) in rest.iter_mut().zip(value) {
        *place = byte;
    }
    sink.put(bytes.get(..HEADER + N + padding(N)).unwrap_or_default());
}

/// Writes an attribute.
pub(super) fn put<S: Sink>(sink: &mut S, kind: u16, value: &[u8]) {
    let start = open(sink, kind);
    sink.put(value);
    close(sink, start);
}

/// Writes a C string.
pub(super) fn put_text<S: Sink>(sink: &mut S, kind: u16, text: &[u8]) {
    let start = open(sink, kind);
    sink.put(text);
    sink.put(&[0]);
    close(sink, start);
}

/// Writes an address as the kernel does: 16 bytes.
pub(super) fn put_address<S: Sink>(sink: &mut S, kind: u16, address: IpAddr) {
    let octets = match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    };
    put_fixed(sink, kind, octets);
}

/// Writes an attribute that holds others.
pub(super) fn put_nested<S: Sink>(sink: &mut S, kind: u16, content: impl FnOnce(&mut S)) {
    let start = open(sink, kind | NLA_F_NESTED);
    content(sink);
    close(sink, start);
}

fn open<S: Sink>(sink: &mut S, kind: u16) -> usize {
    let start = sink.position();
    let [k0, k1] = kind.to_ne_bytes();
    sink.put(&[0, 0, k0, k1]);
    start
}

/// Sets the length and pads. An attribute holds at most 64 KiB: this crate's have a few hundred
/// bytes, and unknown ones were read from an attribute.
fn close<S: Sink>(sink: &mut S, start: usize) {
    let length = sink.position() - start;
    let field = u16::try_from(length).unwrap_or(u16::MAX);
    sink.patch(start, &field.to_ne_bytes());
    sink.put([0; 4].get(..padding(length)).unwrap_or_default());
}

#[cfg(feature = "netlink-packet")]
impl From<DecodeError> for netlink_packet_core::DecodeError {
    fn from(error: DecodeError) -> Self {
        Self::from(error.to_string())
    }
}

pub(super) fn keep_unknown(unknown: &mut Vec<UnknownAttribute>, attribute: Attribute<'_>) {
    let Attribute { kind, value } = attribute;
    unknown.push(UnknownAttribute {
        kind,
        value: value.to_vec(),
    });
}

pub(super) fn put_unknown<S: Sink>(sink: &mut S, unknown: &[UnknownAttribute]) {
    for UnknownAttribute { kind, value } in unknown {
        put(sink, *kind, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mut bytes = Vec::new();
        put_text(&mut bytes, 7, b"wrr");
        put_nested(&mut bytes, 9, |sink| put(sink, 1, &[1, 2, 3]));
        let all: Vec<_> = Attributes::new(&bytes, "test")
            .map(Result::unwrap)
            .collect();
        assert_eq!(all[0].text("name"), Ok("wrr"));
        assert_eq!(all[1].kind, 9);
        let inner: Vec<_> = all[1].nested("inner").map(Result::unwrap).collect();
        assert_eq!(inner[0].value, [1, 2, 3]);
        assert_eq!(all.len() + inner.len(), 3);
    }

    #[test]
    fn malformed_attributes_are_errors() {
        for bytes in [&[1u8][..], &[3, 0, 1, 0], &[8, 0, 1, 0, 0], &[0, 0, 0, 0]] {
            let read: Vec<_> = Attributes::new(bytes, "test").collect();
            assert_eq!(read.len(), 1);
            assert_eq!(
                read[0].as_ref().err(),
                Some(&DecodeError::Truncated("test"))
            );
        }
    }

    #[test]
    fn every_sink_agrees() {
        let write = |sink: &mut Vec<u8>| put_text(sink, 3, b"abcd");
        let mut vec = Vec::new();
        write(&mut vec);
        let mut length = Length(0);
        put_text(&mut length, 3, b"abcd");
        let mut buffer = [0xff; 12];
        put_text(
            &mut Slice {
                buffer: &mut buffer,
                position: 0,
            },
            3,
            b"abcd",
        );
        assert_eq!((vec.as_slice(), vec.len()), (&buffer[..], length.0));
    }
}
