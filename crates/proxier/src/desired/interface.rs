//! Names of network interfaces.

use std::fmt;
use std::str::FromStr;

/// The name of a network interface, or a prefix of such names: 1 to 15 printable ASCII characters
/// without quotes, spaces, `/`, `:`, `*` and `\\`.
///
/// Stricter than the kernel's `dev_valid_name`, which rejects only spaces, `/` and `:`, so that it
/// needs no escaping in a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName {
    bytes: [u8; Self::MAX],
    length: u8,
}

/// A text that is not a valid interface name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an interface name: 1 to 15 letters, digits and punctuation, without quotes, spaces, '/', ':', '*', '\\'"
)]
pub struct InvalidInterfaceName;

impl InterfaceName {
    /// IFNAMSIZ without the NUL.
    const MAX: usize = 15;

    /// The name.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length));
        bytes
            .and_then(|bytes| str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidInterfaceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = |byte: u8| byte.is_ascii_graphic() && !b"\"'/:*\\".contains(&byte);
        let dots = [".", ".."].contains(&text);
        if text.is_empty() || dots || !text.bytes().all(valid) {
            return Err(InvalidInterfaceName);
        }
        let mut bytes = [0; Self::MAX];
        let place = bytes.get_mut(..text.len()).ok_or(InvalidInterfaceName)?;
        place.copy_from_slice(text.as_bytes());
        let length = u8::try_from(text.len()).map_err(|_| InvalidInterfaceName)?;
        Ok(Self { bytes, length })
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["cni0", "veth", "br-12ab", "eth0.100", "123456789012345"] {
            assert_eq!(name.parse::<InterfaceName>().unwrap().as_str(), name);
        }
        for bad in [
            "",
            ".",
            "a b",
            "a/b",
            "a:b",
            "a\"b",
            "cni*",
            "a\\",
            "ä",
            "1234567890123456",
        ] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
    }
}
