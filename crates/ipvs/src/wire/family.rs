//! The generic netlink controller, which resolves the family number.
//!
//! Written here because the controller parser of netlink-packet-generic 0.5.0 panics on malformed
//! input.

use super::attribute::{Attributes, DecodeError, Sink, put_text};
#[cfg(any(feature = "testing", test))]
use super::{
    attribute::put_fixed,
    netlink::{Header, put_packet},
};

/// The controller's own number: `GENL_ID_CTRL`.
pub(crate) const CONTROLLER: u16 = 16;

const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_CMD_NEWFAMILY: u8 = 1;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_VERSION: u8 = 1;

/// Writes the request, generic header included.
pub(crate) fn put_family_request<S: Sink>(sink: &mut S, name: &str) {
    sink.put(&[CTRL_CMD_GETFAMILY, CTRL_VERSION, 0, 0]);
    put_text(sink, CTRL_ATTR_FAMILY_NAME, name.as_bytes());
}

/// Writes the reply.
#[cfg(any(feature = "testing", test))]
pub(crate) fn put_family_reply<S: Sink>(sink: &mut S, request: Header, family: u16) {
    put_packet(
        sink,
        Header {
            flags: 0,
            ..request
        },
        |sink| {
            sink.put(&[CTRL_CMD_NEWFAMILY, CTRL_VERSION, 0, 0]);
            put_fixed(sink, CTRL_ATTR_FAMILY_ID, family.to_ne_bytes());
        },
    );
}

/// Reads the reply.
pub(crate) fn parse_family_id(command: u8, bytes: &[u8]) -> Result<u16, DecodeError> {
    if command != CTRL_CMD_NEWFAMILY {
        return Err(DecodeError::Command(command));
    }
    for attribute in Attributes::new(bytes, "family") {
        let attribute = attribute?;
        if attribute.kind == CTRL_ATTR_FAMILY_ID {
            return attribute.u16("family id");
        }
    }
    Err(DecodeError::Missing("family id"))
}
