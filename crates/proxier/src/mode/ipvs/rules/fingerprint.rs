//! Identifies a ruleset, across versions of svcproxy.

use std::fmt;

use crate::hash::fnv1a;

/// The identity of a [`Ruleset`](super::Ruleset), which is in the user data of each of its rules.
///
/// It consists of the 64-bit FNV-1a hash of the ruleset's text, and the version of its encoding,
/// which the text does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    version: u8,
    hash: u64,
}

/// Increase it when the encoding of the same text changes.
const VERSION: u8 = 1;

impl Fingerprint {
    pub(super) fn of(text: &str) -> Self {
        Self {
            version: VERSION,
            hash: fnv1a(text.bytes()),
        }
    }

    /// The bytes: the version, then the hash in big-endian order.
    pub fn to_bytes(self) -> [u8; 9] {
        let mut bytes = [self.version; 9];
        if let Some((_, hash)) = bytes.split_first_mut() {
            hash.copy_from_slice(&self.hash.to_be_bytes());
        }
        bytes
    }

    /// The fingerprint with these bytes; `None` unless there are nine.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&version, hash) = bytes.split_first()?;
        let hash = u64::from_be_bytes(hash.try_into().ok()?);
        Some(Self { version, hash })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}", self.version, self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_bytes() {
        let fingerprint = Fingerprint::of("table inet svcproxy");
        let bytes = fingerprint.to_bytes();
        assert_eq!(Fingerprint::from_bytes(&bytes), Some(fingerprint));
        assert_eq!(Fingerprint::from_bytes(&bytes[..8]), None);
        assert_eq!(Fingerprint::from_bytes(&[]), None);
    }
}
