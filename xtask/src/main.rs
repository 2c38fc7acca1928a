//! Set-up, demo, tests and the kernel VM.

fn main() {}
