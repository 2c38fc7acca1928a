//! nftables' user data, which nft and svcproxy attach to the kernel's objects: values with a type
//! and a length of one byte each (libnftnl's `udata.c`).

use crate::Writer;

/// An element's comment, a C string; `NFTNL_UDATA_SET_ELEM_COMMENT`.
pub const COMMENT: u8 = 0;
/// The byte order of a set's keys; `NFTNL_UDATA_SET_KEYBYTEORDER`.
pub const KEY_BYTE_ORDER: u8 = 0;
/// The byte order of a map's values; `NFTNL_UDATA_SET_DATABYTEORDER`.
pub const DATA_BYTE_ORDER: u8 = 1;
/// svcproxy's tag of a rule; nft knows 0 and 1 there and skips others.
pub const RULE_TAG: u8 = 0x73;
/// The longest value.
pub const MAX: usize = 254;

/// Writes a value, given in parts of at most [`MAX`] bytes together.
pub fn put(writer: &mut Writer, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    writer.raw(&[kind, u8::try_from(length).unwrap_or(u8::MAX)]);
    parts.iter().for_each(|part| writer.raw(part));
}

/// The first value of a kind.
pub fn get(mut bytes: &[u8], kind: u8) -> Option<&[u8]> {
    loop {
        let [found, length, rest @ ..] = bytes else {
            return None;
        };
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *found == kind {
            return Some(value);
        }
        bytes = rest;
    }
}
