//! Interned names of nodes and zones: each is kept once, however many endpoints have it.

use std::collections::HashSet;
use std::fmt::{Arguments, Display};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::super::api::Loose;
use super::Findings;
use crate::model::{InvalidName, check_subdomain};

/// Maximum length of a label value.
const MAX_LABEL_VALUE: usize = 63;
/// Minimum number of names before a search for unused ones.
const FEW: usize = 1024;

/// Hundreds of thousands of endpoints are on a few thousand nodes. Each slice contains only a few
/// of these names, so they must be shared across slices.
static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

/// The shared copy of a name.
pub(super) fn intern(name: &str) -> Arc<str> {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names.intern(name)
}

/// Why a name is invalid, without its field.
pub(super) fn reason(error: &InvalidName) -> impl Display + use<> {
    if error.value.is_empty() {
        return "missing".to_owned();
    }
    format!("{:?} is not {}", error.value, error.expected)
}

#[derive(Debug, Default)]
struct Names {
    known: HashSet<Arc<str>>,
    /// At this number of names, unused ones are dropped. So at most half are unused.
    sweep_at: usize,
}

impl Names {
    fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(name) = self.known.get(name) {
            return name.clone();
        }
        if self.known.len() >= self.sweep_at.max(FEW) {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.sweep_at = self.known.len() * 2;
        }
        let name: Arc<str> = name.into();
        self.known.insert(name.clone());
        name
    }
}

impl Findings {
    /// A node's name; an invalid one is left out.
    pub(super) fn node_name(
        &mut self,
        written: Option<&Loose<String>>,
        field: Arguments<'_>,
    ) -> Option<Arc<str>> {
        let name = self.text(written, field).ok()??;
        match check_node_name(name) {
            Ok(()) => Some(intern(name)),
            Err(error) => {
                self.left_out(field, reason(&error));
                None
            }
        }
    }

    /// The zone of a node or an endpoint. The API server does not check an endpoint's zone, so an
    /// invalid one is noted and ignored.
    pub(super) fn zone(&mut self, name: Option<&str>, field: Arguments<'_>) -> Option<Arc<str>> {
        let name = name.filter(|name| !name.is_empty())?;
        match check_zone_name(name) {
            Ok(()) => Some(intern(name)),
            Err(error) => {
                self.note(field, format_args!("not used: {}", reason(&error)));
                None
            }
        }
    }
}

pub(super) fn check_node_name(name: &str) -> Result<(), InvalidName> {
    check_subdomain("nodeName", name)
}

/// A zone's name is the value of a label, `topology.kubernetes.io/zone`.
pub(super) fn check_zone_name(name: &str) -> Result<(), InvalidName> {
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if bytes.len() <= MAX_LABEL_VALUE
        && bytes.iter().all(inner)
        && ends
            .iter()
            .all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
    {
        return Ok(());
    }
    Err(InvalidName {
        field: "zone",
        value: name.to_owned(),
        expected: "the value of a label (at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', a letter or digit at both ends)",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_only_while_it_is_used() {
        let mut names = Names::default();
        let kept = names.intern("kept");
        assert!(Arc::ptr_eq(&kept, &names.intern("kept")));
        for number in 0..100_000 {
            names.intern(&number.to_string());
        }
        assert!(names.known.len() <= FEW, "{}", names.known.len());
        assert!(Arc::ptr_eq(&kept, &names.intern("kept")));
        let many: Vec<_> = (0..5_000).map(|n| names.intern(&n.to_string())).collect();
        assert!(names.known.len() > many.len());
    }

    #[test]
    fn zone_names_are_values_of_labels() {
        for good in ["a", "eu-west-1a", "Zone_1.B", &"z".repeat(63)] {
            assert_eq!(check_zone_name(good), Ok(()));
        }
        for bad in [
            "",
            "-a",
            "a-",
            "a b",
            "a/b",
            "zürich",
            "a\n",
            &"z".repeat(64),
        ] {
            assert!(check_zone_name(bad).is_err(), "{bad:?}");
        }
    }
}
