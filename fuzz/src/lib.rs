//! Common parts of the fuzz targets.

pub mod api;
pub mod values;

use ipvs::Message;
use netlink_packet_core::Emitable;

/// The bytes of a message, over a buffer of 0xFF.
pub fn emit(message: &Message) -> Vec<u8> {
    let mut buffer = vec![0xff; message.buffer_len()];
    message.emit(&mut buffer);
    buffer
}

/// Characters that end a line, control a terminal, or change the direction of text.
fn is_dangerous(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Checks that a text is safe to print.
pub fn check(text: &str) {
    assert!(!text.contains(is_dangerous), "{text:?}");
}
