//! Any bytes as messages of the kernel's packet filter and connection tracking: each is read to its end, or
//! is malformed at a place inside of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netlink::conntrack::Entry;
use netlink::{Attributes, Messages, Writer};

/// Reads attributes in attributes, as far down as the kernel nests them.
fn read(attributes: Attributes<'_>, depth: u8) {
    for attribute in attributes.iter() {
        let _ = (
            attribute.number(),
            attribute.text(),
            attribute.array::<16>(),
        );
        if depth > 0
            && let Ok(nested) = attribute.attributes()
        {
            read(nested, depth - 1);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    for message in Messages::new(data) {
        let Ok(message) = message else { break };
        let _ = message.errno();
        for attributes in [message.attributes(), message.attributes_behind(4)]
            .into_iter()
            .flatten()
        {
            read(attributes, 8);
            if let Ok(Some(entry)) = Entry::parse(attributes) {
                // What was read can be named again.
                let mut writer = Writer::default();
                entry.name().write_delete(&mut writer, 0, 1);
                assert!(writer.bytes().len() >= 20);
            }
        }
    }
});
