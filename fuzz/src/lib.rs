//! Common parts of the fuzz targets.

pub mod values;

use ipvs::Message;
use netlink_packet_core::Emitable;

/// The bytes of a message, over a buffer of 0xFF.
pub fn emit(message: &Message) -> Vec<u8> {
    let mut buffer = vec![0xff; message.buffer_len()];
    message.emit(&mut buffer);
    buffer
}
