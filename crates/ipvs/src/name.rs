//! Short names as the kernel stores them: a fixed number of bytes, no allocation.

use std::fmt::{self, Write};

use crate::ParseError;

/// A name of 1 to `N` bytes, stored in place.
///
/// The kernel's names are C strings of any bytes but NUL. Parsed from text, a name has no white
/// space, control characters or `/`, so that it can be part of a module name, a path or a line
/// of text. Read from the kernel, it can be anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name<const N: usize>([u8; N]);

impl<const N: usize> Name<N> {
    /// Parses what `Display` writes. `what` names the kind of name in the error.
    pub(crate) fn new(what: &'static str, text: &str) -> Result<Self, ParseError> {
        let invalid = |c: char| c.is_whitespace() || c.is_control() || c == '/';
        match Self::from_bytes(&unescape(text)) {
            Some(name) if !text.contains(invalid) => Ok(name),
            _ => Err(ParseError::new(what, text)),
        }
    }

    /// A name from the kernel. `None` if it is empty, too long, or has a NUL.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut name = [0; N];
        if bytes.is_empty() || bytes.contains(&0) {
            return None;
        }
        name.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self(name))
    }

    /// The bytes, without a NUL.
    pub fn as_bytes(&self) -> &[u8] {
        let length = self.0.iter().position(|&byte| byte == 0).unwrap_or(N);
        self.0.get(..length).unwrap_or_default()
    }

    /// The name as text; U+FFFD if it is not UTF-8, for which see [`as_bytes`](Self::as_bytes).
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or("\u{fffd}")
    }
}

/// Bytes that are no printable UTF-8, spaces, slashes and backslashes are written as `\xNN`, so that
/// every name can be parsed back.
impl<const N: usize> fmt::Display for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_whitespace() || c.is_control() || matches!(c, '\\' | '/') {
                    let mut bytes = [0; 4];
                    for byte in c.encode_utf8(&mut bytes).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                } else {
                    f.write_char(c)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl<const N: usize> fmt::Debug for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Replaces `\xNN` by the byte: the inverse of [`Name`]'s `Display`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.strip_prefix(b"x").and_then(|tail| tail.first_chunk());
        let escaped = digits.and_then(|&[high, low]: &[u8; 2]| {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(high)? * 16 + digit(low)?).ok()
        });
        match escaped {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_up_to_n_bytes() {
        for text in ["a", "fifteen-letters", "ä"] {
            assert_eq!(Name::<15>::new("name", text).unwrap().as_str(), text);
        }
        for text in ["", "sixteen-letters!", "a b", "a\n", "a\0", "../x"] {
            assert!(Name::<15>::new("name", text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn any_bytes_have_a_text() {
        for bytes in [
            &b"\xff\xfeeth"[..],
            b"a b",
            b"\\x41",
            b"\\",
            b"v\xc3",
            b"\xc3\xa4",
        ] {
            let name = Name::<15>::from_bytes(bytes).unwrap();
            assert_eq!(name.as_bytes(), bytes);
            assert_eq!(unescape(&name.to_string()), bytes, "{name}");
        }
        assert_eq!(
            Name::<15>::from_bytes(b"\xff").unwrap().as_str(),
            "\u{fffd}"
        );
        assert_eq!(
            format!("{:?}", Name::<15>::from_bytes(b"e\xff").unwrap()),
            r#""e\xff""#
        );
    }
}
