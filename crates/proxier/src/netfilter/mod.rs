//! The packet-filter rules that IPVS mode needs, as a value.

mod ruleset;

pub use ruleset::{Fingerprint, Ruleset};
