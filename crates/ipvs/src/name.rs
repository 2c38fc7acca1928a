//! Short names as the kernel keeps them: a fixed number of bytes, no allocation.

use std::fmt;

use crate::ParseError;

/// A name of at most `N` bytes, held in place.
///
/// The kernel's names are C strings: no NUL inside. White space, control characters and `/` are
/// refused too, so that a name can stand in a module name, a path or a line of text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name<const N: usize>([u8; N]);

impl<const N: usize> Name<N> {
    /// `what` says in the error which kind of name was wanted.
    pub(crate) fn new(what: &'static str, text: &str) -> Result<Self, ParseError> {
        let refused = |c: char| c.is_whitespace() || c.is_control() || c == '/';
        let mut bytes = [0; N];
        match bytes.get_mut(..text.len()) {
            Some(place) if !text.is_empty() && !text.contains(refused) => {
                place.copy_from_slice(text.as_bytes());
                Ok(Self(bytes))
            }
            _ => Err(ParseError::new(what, text)),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().position(|&byte| byte == 0).unwrap_or(N);
        // `new` took the bytes from a `str`.
        self.0
            .get(..length)
            .and_then(|bytes| str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

impl<const N: usize> fmt::Display for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
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
}
