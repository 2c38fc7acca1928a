//! Under construction.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use ipnet::IpNet;

/// The rules.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ruleset {
    cluster_cidrs: Vec<IpNet>,
}

/// Tells one ruleset from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Ruleset {
    /// The rules for these pod networks.
    pub fn new(cluster_cidrs: Vec<IpNet>) -> Self {
        Self { cluster_cidrs }
    }

    /// The fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        Fingerprint(hasher.finish())
    }
}
