//! Names of chains, and of lists of clients.

use std::fmt::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// The prefix of the names of svcproxy's chains.
pub(super) const PREFIX: &str = "SVCPROXY-";
/// Maximum length in iptables: XT_EXTENSION_MAXNAMELEN without the NUL.
const MAX: usize = 28;
/// RFC 4648.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The name of a chain of svcproxy, or of a list of clients: `SVCPROXY-`, then letters, digits and
/// dashes; at most 28 characters.
///
/// A hashed name contains 80 bits of the SHA-256 of what it stands for. So it is the same on every
/// node and in every run, and an attacker cannot create a Service whose chain has the name of
/// another Service's chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// The hash of a text that becomes a name.
#[derive(Default)]
struct Hash(Sha256);

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}

/// The text is not a name of svcproxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name of svcproxy's")]
pub struct ForeignName;

impl Name {
    /// The name of a single chain of a table.
    pub(super) fn of(word: Word) -> Self {
        Self(format!("{PREFIX}{}", word.0).into())
    }

    /// The name of the member of a class that stands for `what`.
    pub(super) fn hashed(class: Class, what: impl fmt::Display) -> Self {
        let mut hash = Hash::default();
        // Writing to a hash cannot fail.
        let _ = write!(hash, "{what}");
        let digest = hash.0.finalize();
        let mut name = String::with_capacity(MAX);
        name.push_str(PREFIX);
        name.extend([class.letter(), '-']);
        for five in digest.chunks_exact(5).take(2) {
            let bits = five
                .iter()
                .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
            let letters = (0..8).rev().map(|place| bits >> (5 * place) & 31);
            let letters = letters.filter_map(|value| BASE32.get(usize::try_from(value).ok()?));
            name.extend(letters.map(|letter| char::from(*letter)));
        }
        Self(name.into())
    }

    /// The name of a chain of another program; none if it contains a character that would need
    /// quoting.
    #[cfg(all(feature = "ipvs", feature = "iptables"))]
    pub(crate) fn of_other(text: &str) -> Option<Self> {
        is_plain(text).then(|| Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it belongs to a class.
    pub(super) fn is_a(&self, class: Class) -> bool {
        let rest = self.0.strip_prefix(PREFIX);
        let rest = rest.and_then(|rest| rest.strip_prefix(class.letter()));
        rest.is_some_and(|rest| rest.starts_with('-'))
    }
}

impl FromStr for Name {
    type Err = ForeignName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix(PREFIX).ok_or(ForeignName)?;
        if rest.is_empty() || !is_plain(text) {
            return Err(ForeignName);
        }
        Ok(Self(text.into()))
    }
}

fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    text.len() <= MAX && text.bytes().all(plain)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A single chain of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(&'static str);

/// The entry for all first packets of connections.
pub(super) const SERVICES: Word = Word("SERVICES");
/// The tree of virtual IPs.
pub(super) const VIPS: Word = Word("VIPS");
/// The tree of node ports.
pub(super) const NODE_PORTS: Word = Word("NODE-PORTS");
/// Marks clients from outside of the cluster for masquerading.
pub(super) const OUTSIDE: Word = Word("OUTSIDE");
/// Source address translation.
pub(super) const POSTROUTING: Word = Word("POSTROUTING");
/// The tree of backends that may be their own clients.
pub(super) const HAIRPIN: Word = Word("HAIRPIN");
/// Packets that no rule has translated.
pub(super) const UNDELIVERED: Word = Word("UNDELIVERED");
/// Health check node ports.
pub(super) const HEALTH_CHECKS: Word = Word("HEALTH-CHECKS");
/// Forwarded packets.
pub(super) const FORWARD: Word = Word("FORWARD");

/// A class of chains or lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A branch of a tree.
    Branch,
    /// Applies the source ranges of a frontend.
    Restricted,
    /// Separates clients in the cluster from outside clients, and has the backends of the latter.
    External,
    /// A frontend's backends.
    Backends,
    /// A list of clients, not a chain.
    Clients,
}

impl Class {
    const fn letter(self) -> char {
        match self {
            Self::Branch => 'B',
            Self::Restricted => 'R',
            Self::External => 'X',
            Self::Backends => 'S',
            Self::Clients => 'C',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_change() {
        // A change would replace all chains of running nodes.
        let name = Name::hashed(Class::Backends, "tcp 10.96.0.1:443");
        // printf 'tcp 10.96.0.1:443' | sha256sum | cut -c-20 | xxd -r -p | base32
        assert_eq!(name.as_str(), "SVCPROXY-S-YFO3BWE45VN4PFDP");
        assert_eq!(name.as_str().parse(), Ok(name));
    }

    #[test]
    fn names_of_other_programs_are_recognised() {
        for foreign in [
            "PREROUTING",
            "KUBE-SERVICES",
            "SVCPROXY-",
            "SVCPROXY-A B",
            "SVCPROXY-AAAAAAAAAAAAAAAAAAAA",
        ] {
            assert_eq!(foreign.parse::<Name>(), Err(ForeignName));
        }
        let name: Name = "SVCPROXY-B-ABC".parse().unwrap();
        assert!(name.is_a(Class::Branch) && !name.is_a(Class::Backends));
    }
}
