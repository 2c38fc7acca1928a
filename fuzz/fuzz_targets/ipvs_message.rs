//! Any bytes as a message: no panic, no more memory than a small multiple of them, and what is
//! understood is the same when written and read again.
#![no_main]

use fuzz::emit;
use ipvs::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [command, bytes @ ..] = data else { return };
    let mut parsed = None;
    let info = allocation_counter::measure(|| parsed = Some(Message::parse(*command, bytes)));
    let allocated = usize::try_from(info.bytes_total).unwrap_or(usize::MAX);
    // An unknown attribute takes 4 bytes there and 32 here, in a list that grows by doubling.
    assert!(
        allocated <= 1024 + 32 * bytes.len(),
        "{allocated} bytes for {}",
        bytes.len()
    );
    // Beyond this a message may not fit into an attribute again: it writes what was left out.
    if let Some(Ok(message)) = parsed
        && bytes.len() < 32 * 1024
    {
        assert_eq!(
            Message::parse(message.command(), &emit(&message)),
            Ok(message)
        );
    }
});
