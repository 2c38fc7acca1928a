//! Any bytes as a list and a watch in Protocol Buffers: what is printed is safe to print, and it makes no
//! difference in which pieces they arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxier::source::kube::Encoding;

fuzz_target!(|data: &[u8]| fuzz::api::fuzz(Encoding::Protobuf, data));
