//! Arbitrary bytes as a message: no panic, memory bounded by a small multiple of the input, and a
//! decoded message is the same after encoding and decoding it again.
#![no_main]

use fuzz::emit;
use ipvs::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [command, bytes @ ..] = data else { return };
    let mut parsed = None;
    let info = allocation_counter::measure(|| parsed = Some(Message::parse(*command, bytes)));
    let allocated = usize::try_from(info.bytes_total).unwrap_or(usize::MAX);
    // An unknown attribute takes 4 bytes in the message and 32 in memory, in a list that grows by
    // doubling.
    assert!(
        allocated <= 1024 + 32 * bytes.len(),
        "{allocated} bytes for {}",
        bytes.len()
    );
    // A longer message may not fit into an attribute again, because encoding adds attributes that
    // were absent.
    if let Some(Ok(message)) = parsed
        && bytes.len() < 32 * 1024
    {
        assert_eq!(
            Message::parse(message.command(), &emit(&message)),
            Ok(message)
        );
    }
});
