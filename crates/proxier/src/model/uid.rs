//! An object's `metadata.uid`.

use std::fmt;

/// `metadata.uid`: distinguishes an object from an earlier one with the same name. It is an RFC
/// 4122 UUID, as API servers create them.
///
/// ```
/// use proxier::model::Uid;
///
/// let text = "0b8b6f1c-1c9c-4b5e-9e0a-0c3f6f6f7a11";
/// assert_eq!(Uid::new(text).map(|uid| uid.to_string()), Some(text.to_owned()));
/// assert_eq!(Uid::new("web"), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid([u8; 16]);

/// Bytes between the hyphens.
const GROUPS: [usize; 5] = [4, 2, 2, 2, 6];

impl Uid {
    /// Parses a UUID in lower case. `None` for any other text.
    pub fn new(text: &str) -> Option<Self> {
        let digits: String = text.split('-').collect();
        let bytes = u128::from_str_radix(&digits, 16).ok()?.to_be_bytes();
        // Only the canonical form round-trips: hyphens in the right places, lower case, no sign.
        let uid = Self(bytes);
        (uid.to_string() == text).then_some(uid)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0.iter();
        for (index, length) in GROUPS.into_iter().enumerate() {
            if index > 0 {
                f.write_str("-")?;
            }
            for byte in bytes.by_ref().take(length) {
                write!(f, "{byte:02x}")?;
            }
        }
        Ok(())
    }
}
