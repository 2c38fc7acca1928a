//! Decodes netlink messages and attributes.
//!
//! Decoding is strict: a malformed message or attribute is an error with its place. A decoder that
//! stopped silently would take half a list for a complete one, and svcproxy would "repair" rules
//! that are in place.

use crate::error::{Flaw, Malformed, Place};

const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSG_HEADER: usize = 16;
const NLA_HEADER: usize = 4;
pub(crate) const NFGEN_HEADER: usize = 4;
pub(crate) const ALIGN: usize = 4;

/// A message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// `nlmsg_pid`: the port of the socket that gets the answer, or that made the change.
    pub port: u32,
    /// The bytes after the header.
    pub payload: &'a [u8],
    /// The place of the payload.
    place: Place,
}

/// The messages of a datagram. The iterator ends after the first malformed one.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Messages<'a> {
    /// The messages of a datagram.
    pub const fn new(datagram: &'a [u8]) -> Self {
        let offset = 0;
        Self {
            rest: datagram,
            offset,
        }
    }

    fn read(&mut self) -> Result<Message<'a>, Malformed> {
        let left = self.rest.len();
        let malformed = |kind, flaw| Malformed {
            place: Place::message(kind, self.offset),
            flaw,
        };
        let Some(header) = self.rest.first_chunk::<NLMSG_HEADER>() else {
            return Err(malformed(None, Flaw::MessageHeader { left }));
        };
        let [l0, l1, l2, l3, k0, k1, f0, f1, rest @ ..] = *header;
        let [s0, s1, s2, s3, p0, p1, p2, p3] = rest;
        let kind = u16::from_ne_bytes([k0, k1]);
        let length = u32::from_ne_bytes([l0, l1, l2, l3]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length < NLMSG_HEADER {
            return Err(malformed(Some(kind), Flaw::MessageTooShort { length }));
        }
        let Some(payload) = self.rest.get(NLMSG_HEADER..length) else {
            return Err(malformed(Some(kind), Flaw::MessageTooLong { length, left }));
        };
        let place = Place::message(Some(kind), self.offset + NLMSG_HEADER);
        let next = length.next_multiple_of(ALIGN);
        self.rest = self.rest.get(next..).unwrap_or_default();
        self.offset += next;
        Ok(Message {
            kind,
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
            payload,
            place,
        })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.rest = &[];
        }
        Some(read)
    }
}

impl<'a> Message<'a> {
    /// The errno of an `NLMSG_ERROR` or `NLMSG_DONE`; 0 is success.
    ///
    /// # Errors
    ///
    /// If the payload is too short.
    pub fn errno(&self) -> Result<i32, Malformed> {
        let number = self.payload.first_chunk::<4>();
        let number = number.ok_or_else(|| self.too_short(4))?;
        Ok(i32::from_ne_bytes(*number).wrapping_neg())
    }

    /// The attributes of a message of netfilter, which follow its `struct nfgenmsg`.
    ///
    /// # Errors
    ///
    /// If one of them is malformed.
    pub fn attributes(&self) -> Result<Attributes<'a>, Malformed> {
        self.attributes_behind(NFGEN_HEADER)
    }

    /// The attributes after a header of this length.
    ///
    /// # Errors
    ///
    /// If one of them is malformed.
    pub fn attributes_behind(&self, header: usize) -> Result<Attributes<'a>, Malformed> {
        let attributes = self.payload.get(header..);
        let attributes = attributes.ok_or_else(|| self.too_short(header))?;
        Attributes::checked(attributes, self.place.at(self.place.offset + header))
    }

    const fn too_short(&self, needed: usize) -> Malformed {
        let length = self.payload.len();
        Malformed {
            place: self.place,
            flaw: Flaw::Payload { length, needed },
        }
    }
}

/// Attributes of one level, with valid headers.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    place: Place,
}

/// An attribute.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    /// `nla_type`, without flags.
    pub kind: u16,
    /// The bytes after the header.
    pub value: &'a [u8],
    /// The place of the value.
    place: Place,
}

impl<'a> Attributes<'a> {
    /// Parses attributes outside of a message.
    ///
    /// # Errors
    ///
    /// If one of them is malformed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::checked(bytes, Place::default())
    }

    fn checked(bytes: &'a [u8], place: Place) -> Result<Self, Malformed> {
        let attributes = Self { bytes, place };
        for attribute in attributes.walk() {
            attribute?;
        }
        Ok(attributes)
    }

    fn walk(self) -> impl Iterator<Item = Result<Attribute<'a>, Malformed>> {
        let Self { mut bytes, place } = self;
        let mut offset = place.offset;
        std::iter::from_fn(move || {
            if bytes.is_empty() {
                return None;
            }
            let read = split(bytes, place.at(offset));
            match read {
                Ok(attribute) => {
                    let next = (NLA_HEADER + attribute.value.len()).next_multiple_of(ALIGN);
                    bytes = bytes.get(next..).unwrap_or_default();
                    offset += next;
                }
                Err(_) => bytes = &[],
            }
            Some(read)
        })
    }

    /// The attributes of this level.
    pub fn iter(self) -> impl Iterator<Item = Attribute<'a>> {
        // Checked at construction.
        self.walk().filter_map(Result::ok)
    }

    /// The bytes, with the headers.
    pub const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The first attribute of a kind.
    pub fn get(self, kind: u16) -> Option<Attribute<'a>> {
        self.iter().find(|attribute| attribute.kind == kind)
    }

    /// The first attribute of a kind, which is mandatory.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn require(self, kind: u16) -> Result<Attribute<'a>, Malformed> {
        self.get(kind).ok_or(Malformed {
            place: self.place,
            flaw: Flaw::Missing { kind },
        })
    }

    /// The value of the first attribute of a kind.
    pub fn value(self, kind: u16) -> Option<&'a [u8]> {
        self.get(kind).map(|attribute| attribute.value)
    }

    /// The attributes inside of the first one of a kind.
    ///
    /// # Errors
    ///
    /// If one of them is malformed.
    pub fn nested(self, kind: u16) -> Result<Option<Self>, Malformed> {
        self.get(kind).map(Attribute::attributes).transpose()
    }

    /// The attributes inside of the first one of a kind; none if it is missing.
    ///
    /// # Errors
    ///
    /// If one of them is malformed.
    pub fn list(self, kind: u16) -> Result<impl Iterator<Item = Attribute<'a>>, Malformed> {
        let list = self.nested(kind)?;
        Ok(list.into_iter().flat_map(Self::iter))
    }

    /// A big-endian number, as nf_tables has them.
    ///
    /// # Errors
    ///
    /// If it has not four bytes.
    pub fn number(self, kind: u16) -> Result<Option<u32>, Malformed> {
        self.get(kind).map(Attribute::number).transpose()
    }

    /// A C string. `None` if it is missing or not UTF-8.
    pub fn text(self, kind: u16) -> Option<&'a str> {
        self.get(kind)?.text()
    }
}

impl<'a> Attribute<'a> {
    /// The attributes inside of this one.
    ///
    /// # Errors
    ///
    /// If one of them is malformed.
    pub fn attributes(self) -> Result<Attributes<'a>, Malformed> {
        Attributes::checked(self.value, self.place)
    }

    /// The value as an array.
    ///
    /// # Errors
    ///
    /// If the length differs.
    pub fn array<const N: usize>(self) -> Result<[u8; N], Malformed> {
        self.value.try_into().map_err(|_| Malformed {
            place: self.place,
            flaw: Flaw::Value {
                length: self.value.len(),
                expected: N,
            },
        })
    }

    /// A big-endian number, as nf_tables has them.
    ///
    /// # Errors
    ///
    /// If it has not four bytes.
    pub fn number(self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// A C string; `None` if it is not UTF-8.
    pub fn text(self) -> Option<&'a str> {
        let value = self.value;
        str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }
}

/// Splits off the first attribute.
fn split(bytes: &[u8], place: Place) -> Result<Attribute<'_>, Malformed> {
    let left = bytes.len();
    let [l0, l1, k0, k1, ..] = *bytes else {
        let flaw = Flaw::AttributeHeader { left };
        return Err(Malformed { place, flaw });
    };
    let kind = u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK;
    let length = usize::from(u16::from_ne_bytes([l0, l1]));
    let flaw = match bytes.get(NLA_HEADER..length) {
        Some(value) => {
            let place = place.at(place.offset + NLA_HEADER).within(kind);
            return Ok(Attribute { kind, value, place });
        }
        None if length < NLA_HEADER => Flaw::AttributeTooShort { length },
        None => Flaw::AttributeTooLong { length, left },
    };
    let place = place.within(kind);
    Err(Malformed { place, flaw })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Writer;

    /// A message of type 0x0a0d with a nested list of two numbers, and one behind it.
    fn datagram() -> Vec<u8> {
        let mut writer = Writer::default();
        for sequence in [7, 8] {
            writer.packet(0x0a0d, 0, sequence, [1, 0, 0, 0], |w| {
                w.text(1, "svcproxy");
                w.nested(3, |w| {
                    w.nested(1, |w| w.number(2, 5));
                    w.nested(1, |w| w.number(2, 6));
                });
            });
        }
        writer.bytes().to_vec()
    }

    /// Reads everything that [`datagram`] has.
    fn read(datagram: &[u8]) -> Result<Vec<u32>, Malformed> {
        let mut numbers = Vec::new();
        for message in Messages::new(datagram) {
            let attributes = message?.attributes()?;
            for element in attributes.list(3)? {
                numbers.push(element.attributes()?.require(2)?.number()?);
            }
        }
        Ok(numbers)
    }

    fn flaw(bytes: &[u8]) -> (Flaw, usize, Vec<u16>) {
        let Malformed { flaw, place } = read(bytes).unwrap_err();
        (flaw, place.offset, place.path().to_vec())
    }

    #[test]
    fn well_formed_messages_are_read_whole() {
        assert_eq!(read(&datagram()), Ok(vec![5, 6, 5, 6]));
        assert_eq!(read(&[]), Ok(vec![]));
    }

    #[test]
    fn every_truncation_but_between_messages_is_an_error() {
        let whole = datagram();
        let first = whole.len() / 2;
        for end in 1..whole.len() {
            let read = read(&whole[..end]);
            if end == first {
                assert_eq!(read, Ok(vec![5, 6]));
            } else {
                assert!(read.is_err(), "{end}: {read:?}");
            }
        }
    }

    #[test]
    fn message_lengths_are_checked() {
        let mut bytes = datagram();
        let length = bytes.len();
        let first = length / 2;
        bytes[first..first + 4].copy_from_slice(&15u32.to_ne_bytes());
        let short = Flaw::MessageTooShort { length: 15 };
        assert_eq!(flaw(&bytes), (short, first, vec![]));
        bytes[first..first + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
        let long = Flaw::MessageTooLong {
            length: usize::try_from(u32::MAX).unwrap(),
            left: first,
        };
        assert_eq!(flaw(&bytes), (long, first, vec![]));
        let error = read(&bytes).unwrap_err();
        assert_eq!(error.place.message_type, Some(0x0a0d));
        let left = Flaw::MessageHeader { left: 3 };
        assert_eq!(flaw(&bytes[..first + 3]), (left, first, vec![]));
    }

    #[test]
    fn attribute_lengths_are_checked_at_every_level() {
        // Header of the message 20, text 16, header of the list 4, of its first element 4.
        let (list, element, number) = (36, 40, 44);
        for (at, path) in [(list, &[3][..]), (element, &[3, 1]), (number, &[3, 1, 2])] {
            for length in [0u16, 3] {
                let mut bytes = datagram();
                bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
                let length = usize::from(length);
                let short = Flaw::AttributeTooShort { length };
                assert_eq!(flaw(&bytes), (short, at, path.to_vec()));
            }
            let mut bytes = datagram();
            bytes[at..at + 2].copy_from_slice(&400u16.to_ne_bytes());
            let (found, offset, found_path) = flaw(&bytes);
            assert!(matches!(found, Flaw::AttributeTooLong { length: 400, .. }));
            assert_eq!((offset, &*found_path), (at, path));
        }
        let mut bytes = datagram();
        bytes[number..number + 2].copy_from_slice(&6u16.to_ne_bytes());
        let value = Flaw::Value {
            length: 2,
            expected: 4,
        };
        assert_eq!(flaw(&bytes), (value, number + 4, vec![3, 1, 2]));
        bytes[number + 2] = 9;
        let missing = Flaw::Missing { kind: 2 };
        assert_eq!(flaw(&bytes), (missing, number, vec![3, 1]));
    }

    #[test]
    fn an_error_names_the_place_in_one_sentence() {
        let mut bytes = datagram();
        bytes[44] = 3;
        assert_eq!(
            read(&bytes).unwrap_err().to_string(),
            "malformed netlink message: attribute length 3 is less than its header at byte 44 \
             (message type 0x0a0d, attribute 3/1/2)"
        );
    }

    #[test]
    fn an_errno_takes_four_bytes() {
        let mut writer = Writer::default();
        writer.packet(2, 0, 1, (-17i32).to_ne_bytes(), |_| {});
        let mut bytes = writer.bytes().to_vec();
        let errno = |bytes: &[u8]| Messages::new(bytes).next().unwrap().unwrap().errno();
        assert_eq!(errno(&bytes), Ok(17));
        bytes.truncate(18);
        bytes[0] = 18;
        assert!(errno(&bytes).is_err());
    }
}
