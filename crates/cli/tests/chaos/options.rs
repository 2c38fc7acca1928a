//! What `cargo xtask chaos` sets, and reproducible random numbers.

use std::env;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// How long a run takes; without it, a short form runs.
pub(crate) const MINUTES: &str = "SVCPROXY_CHAOS_MINUTES";

/// A number from the environment.
pub(crate) fn number<T: FromStr>(variable: &str) -> Option<T> {
    let text = env::var(variable).ok()?;
    let number = text.parse().ok();
    Some(number.unwrap_or_else(|| panic!("{variable}={text} is not a number")))
}

/// The seed of this run: the given one, or a new one.
pub(crate) fn seed() -> u64 {
    number("SVCPROXY_CHAOS_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) ^ u64::from(std::process::id())
    })
}

/// SplitMix64: small, and the same numbers on every machine for a seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, stream: usize) -> Self {
        let stream = u64::try_from(stream).unwrap();
        let mut random = Self(seed);
        random.0 ^= Self(stream).next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}
