//! Any message is the same after encoding and decoding; any key equals its parsed text.
#![no_main]

use arbitrary::Unstructured;
use fuzz::{emit, values};
use ipvs::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    if let Ok(message) = values::message(&mut u) {
        assert_eq!(
            Message::parse(message.command(), &emit(&message)),
            Ok(message)
        );
    }
    if let Ok(key) = values::key(&mut u) {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
});
