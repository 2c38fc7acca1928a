//! Any bytes as a message: no panic, no more memory than a small multiple of them, and what is
//! understood is the same when written and read again.
#![no_main]

use fuzz::{allocated, emit};
use ipvs::Message;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: allocated::Counting = allocated::Counting;

fuzz_target!(|data: &[u8]| {
    let [command, bytes @ ..] = data else { return };
    let (allocated, parsed) = allocated::by(|| Message::parse(*command, bytes));
    // An unknown attribute takes 4 bytes there and 32 here, in a list that grows by doubling.
    assert!(
        allocated <= 1024 + 32 * bytes.len(),
        "{allocated} bytes for {}",
        bytes.len()
    );
    // Beyond this a message may not fit into an attribute again: it writes what was left out.
    if let Ok(message) = parsed
        && bytes.len() < 32 * 1024
    {
        assert_eq!(
            Message::parse(message.command(), &emit(&message)),
            Ok(message)
        );
    }
});
