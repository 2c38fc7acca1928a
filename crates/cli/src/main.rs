//! The svcproxy binary.

fn main() {}
