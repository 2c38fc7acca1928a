//! Names of objects and ports, and UIDs, valid by construction.

use std::fmt;
use std::sync::Arc;

/// Longest DNS label, RFC 1123.
const MAX_LABEL: usize = 63;
/// Longest DNS subdomain: the API server's limit on object names.
const MAX_SUBDOMAIN: usize = 253;

/// A namespace and a name, displayed as `namespace/name`.
///
/// Both parts are DNS names in lower case. They contain no quote, space, slash or line break, so an
/// `ObjectName` needs no escaping in a rule's comment or a log line.
///
/// ```
/// use proxier::model::ObjectName;
///
/// let name = ObjectName::new("default", "web")?;
/// assert_eq!(name.to_string(), "default/web");
/// assert!(ObjectName::new("default", "web\nflush ruleset").is_err());
/// # Ok::<(), proxier::model::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// `namespace/name` in one allocation, because there are tens of thousands of names.
    text: Arc<str>,
}

impl ObjectName {
    /// Checks and joins a namespace (a DNS label) and a name (a DNS subdomain).
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the API server would reject either part in `metadata`.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        check_label("metadata.namespace", namespace)?;
        check_subdomain("metadata.name", name)?;
        Ok(Self {
            text: format!("{namespace}/{name}").into(),
        })
    }

    /// Like [`ObjectName::new`], for kinds whose name must be a single DNS label, such as Services.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if either part is not a DNS label.
    pub fn label(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        check_label("metadata.name", name)?;
        Self::new(namespace, name)
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.text
            .split_once('/')
            .map_or("", |(namespace, _)| namespace)
    }

    /// The name within the namespace.
    pub fn name(&self) -> &str {
        self.text.split_once('/').map_or("", |(_, name)| name)
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `namespace/name`, without a copy of the text.
    pub(crate) fn to_text(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The name of a port. It is empty for the only port of a Service or slice without port names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PortName(Option<Arc<str>>);

impl PortName {
    /// The empty name.
    pub const UNNAMED: Self = Self(None);

    /// Checks a port's name: empty, or a DNS label.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the text is neither.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        if name.is_empty() {
            return Ok(Self::UNNAMED);
        }
        check_label("name", name)?;
        Ok(Self(Some(name.into())))
    }

    /// The name, empty for an unnamed port.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }

    /// Whether the port has no name.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A name that the API server would reject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?} is not {expected}")]
#[non_exhaustive]
pub struct InvalidName {
    /// Path of the field from the root of the object, or of the port for a port's name.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What is valid there.
    pub expected: &'static str,
}

pub(crate) fn check_label(field: &'static str, value: &str) -> Result<(), InvalidName> {
    if value.len() <= MAX_LABEL && is_dns_label(value) {
        return Ok(());
    }
    Err(InvalidName {
        field,
        value: value.to_owned(),
        expected: "a DNS label (at most 63 of a-z, 0-9 and '-', a letter or digit at both ends)",
    })
}

/// Checks that a text is a DNS subdomain, as the names of most kinds must be.
pub(crate) fn check_subdomain(field: &'static str, value: &str) -> Result<(), InvalidName> {
    if value.len() <= MAX_SUBDOMAIN && value.split('.').all(is_dns_label) {
        return Ok(());
    }
    Err(InvalidName {
        field,
        value: value.to_owned(),
        expected: "a DNS subdomain (at most 253 of a-z, 0-9, '-' and '.', a letter or digit at both ends of each part)",
    })
}

fn is_dns_label(text: &str) -> bool {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let bytes = text.as_bytes();
    bytes.iter().all(inner)
        && !bytes.is_empty()
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let name = ObjectName::new("kube-system", "kube-dns-x7.v1").unwrap();
        assert_eq!(
            (name.namespace(), name.name()),
            ("kube-system", "kube-dns-x7.v1")
        );
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a b",
            "a/b",
            "a\"b",
            "a\nb",
            "a..b",
            "ä",
            &"a".repeat(254),
        ] {
            let error = ObjectName::new("default", bad).unwrap_err();
            assert_eq!(error.field, "metadata.name", "{bad:?}");
        }
        assert_eq!(
            ObjectName::new("a.b", "web").unwrap_err().field,
            "metadata.namespace"
        );
        assert!(ObjectName::label("default", "a.b").is_err());
    }

    #[test]
    fn port_names_are_checked() {
        assert!(PortName::new("").unwrap().is_unnamed());
        assert_eq!(PortName::new("dns-tcp").unwrap().as_str(), "dns-tcp");
        assert!(PortName::new("dns tcp").is_err());
    }
}
