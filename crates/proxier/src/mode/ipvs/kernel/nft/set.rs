//! Encodes sets for the kernel, and compares them with its listing.

use ipvs::Family;

use super::expression::Load;
use crate::mode::ipvs::rules::{Field, Set, TABLE};
use netlink::uapi::*;
use netlink::{Attributes, Malformed, Writer, user_data};

/// Bits per type in the number of a concatenated type (nft's `datatype.h`). The kernel only stores
/// these numbers, for nft.
const TYPE_BITS: u32 = 6;

pub(super) fn put_set(writer: &mut Writer, sequence: u32, set: Set) {
    let flags = NLM_F_REQUEST | NLM_F_CREATE;
    writer.message(NFT_MSG_NEWSET, flags, sequence, |w| {
        w.text(NFTA_SET_TABLE, TABLE);
        w.text(NFTA_SET_NAME, set.name());
        let definition = SetDefinition::of(set);
        w.number(NFTA_SET_FLAGS, definition.flags);
        w.number(NFTA_SET_KEY_TYPE, definition.key_type);
        w.number(NFTA_SET_KEY_LEN, definition.key_length);
        if let Some((data_type, length)) = definition.data {
            w.number(NFTA_SET_DATA_TYPE, data_type);
            w.number(NFTA_SET_DATA_LEN, length);
        }
        // The ID of the set within its transaction. The kernel requires it; svcproxy refers to sets
        // by name.
        w.number(NFTA_SET_ID, sequence);
        put_byte_orders(w, set);
    });
}

/// Without the byte orders, nft lists networks and marks with reversed bytes.
fn put_byte_orders(w: &mut Writer, set: Set) {
    const HOST: u32 = 1;
    const BIG_ENDIAN: u32 = 2;
    let (kind, order) = match set.fields() {
        _ if set.is_map() => (user_data::DATA_BYTE_ORDER, HOST),
        [_] if set.is_interval() => (user_data::KEY_BYTE_ORDER, BIG_ENDIAN),
        _ => return,
    };
    w.attribute(NFTA_SET_USERDATA, |w| {
        user_data::put(w, kind, &[&order.to_ne_bytes()]);
    });
}

/// The definition of a set in the kernel's listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SetDefinition {
    flags: u32,
    key_type: u32,
    key_length: u32,
    /// Type and length of a map's values.
    data: Option<(u32, u32)>,
}

impl SetDefinition {
    pub(super) fn of(set: Set) -> Self {
        let (fields, family) = (set.fields().iter(), set.family());
        let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
        Self {
            flags: flag(set.is_interval(), NFT_SET_INTERVAL) | flag(set.is_map(), NFT_SET_MAP),
            key_type: fields.clone().fold(0, |key, field| {
                key << TYPE_BITS | type_number(*field, family)
            }),
            key_length: fields
                .map(|field| Load::of(*field, family).register_length())
                .sum(),
            data: set.is_map().then_some((MARK_TYPE, MARK_LENGTH)),
        }
    }

    pub(super) fn parse(attributes: Attributes<'_>) -> Result<Self, Malformed> {
        let data_type = attributes.number(NFTA_SET_DATA_TYPE)?;
        Ok(Self {
            // Absent if there are no flags.
            flags: attributes.number(NFTA_SET_FLAGS)?.unwrap_or(0),
            key_type: attributes.require(NFTA_SET_KEY_TYPE)?.number()?,
            key_length: attributes.require(NFTA_SET_KEY_LEN)?.number()?,
            data: data_type.zip(attributes.number(NFTA_SET_DATA_LEN)?),
        })
    }
}

const MARK_TYPE: u32 = 19;
const MARK_LENGTH: u32 = 4;

const fn type_number(field: Field, family: Family) -> u32 {
    match (field, family) {
        (Field::Source | Field::Destination, Family::V4) => 7,
        (Field::Source | Field::Destination, Family::V6) => 8,
        (Field::Protocol, _) => 12,
        (Field::Port | Field::SourcePort, _) => 13,
    }
}
