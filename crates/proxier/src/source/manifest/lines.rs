//! On which line of a document a field stands.
//!
//! The values of JSON have no places, so a document with an error is parsed once more, with them.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A document's values, reduced to their places.
#[derive(Debug)]
pub(super) struct Lines {
    /// From 1, within the document.
    line: u64,
    children: Children,
}

#[derive(Debug)]
enum Children {
    Mapping(HashMap<String, Lines>),
    Sequence(Vec<Lines>),
    Scalar,
}

impl Lines {
    /// The line of `path` or, where that is not there, of the last part of it that is.
    pub(super) fn line(&self, path: &str) -> u64 {
        let mut at = self;
        for step in path.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
            let next = match &at.children {
                Children::Mapping(entries) => entries.get(step),
                Children::Sequence(items) => step
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get(index)),
                Children::Scalar => None,
            };
            let Some(next) = next else { break };
            at = next;
        }
        at.line
    }
}

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let children = Spanned::<Children>::deserialize(deserializer)?;
        Ok(Self {
            line: children.referenced.line(),
            children: children.value,
        })
    }
}

impl<'de> Deserialize<'de> for Children {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChildrenVisitor)
    }
}

struct ChildrenVisitor;

impl<'de> Visitor<'de> for ChildrenVisitor {
    type Value = Children;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Children, A::Error> {
        let mut entries = HashMap::new();
        while let Some((key, value)) = map.next_entry()? {
            entries.insert(key, value);
        }
        Ok(Children::Mapping(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Children, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Children::Sequence(items))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Children, E> {
        Ok(Children::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Children, E> {
        Ok(Children::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Children, E> {
        Ok(Children::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Children, E> {
        Ok(Children::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Children, E> {
        Ok(Children::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Children, E> {
        Ok(Children::Scalar)
    }
}
