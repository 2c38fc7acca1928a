//! The line and the source text of each field of a document.
//!
//! Decoded values have no positions, so a document with an error is parsed again, with positions.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A document's values, reduced to their positions.
#[derive(Debug)]
pub(super) struct Lines {
    /// From 1, within the document.
    line: u64,
    /// Byte offset and length within the document, if known.
    span: Option<(u64, u64)>,
    children: Children,
}

#[derive(Debug)]
enum Children {
    Mapping(HashMap<String, Lines>),
    Sequence(Vec<Lines>),
    Scalar,
}

impl Lines {
    /// The line of `path`, or of its longest existing prefix.
    pub(super) fn line(&self, path: &str) -> u64 {
        let mut at = self;
        for step in steps(path) {
            let Some(next) = at.child(step) else { break };
            at = next;
        }
        at.line
    }

    /// The source text of the scalar at `path`, where `document` is the text of the whole document.
    pub(super) fn written<'a>(&self, path: &str, document: &'a str) -> Option<&'a str> {
        let at = steps(path).try_fold(self, |at, step| at.child(step))?;
        at.scalar(document)
    }

    /// All scalars with their paths.
    pub(super) fn scalars<'a>(&self, document: &'a str, found: &mut dyn FnMut(&str, &'a str)) {
        self.scalars_at(&mut String::new(), document, found);
    }

    fn scalars_at<'a>(
        &self,
        path: &mut String,
        document: &'a str,
        found: &mut dyn FnMut(&str, &'a str),
    ) {
        let length = path.len();
        match &self.children {
            Children::Mapping(entries) => {
                for (name, value) in entries {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                    value.scalars_at(path, document, found);
                    path.truncate(length);
                }
            }
            Children::Sequence(items) => {
                for (index, value) in items.iter().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    value.scalars_at(path, document, found);
                    path.truncate(length);
                }
            }
            Children::Scalar => {
                if let Some(text) = self.scalar(document) {
                    found(path, text);
                }
            }
        }
    }

    fn scalar<'a>(&self, document: &'a str) -> Option<&'a str> {
        let Children::Scalar = self.children else {
            return None;
        };
        let (start, length) = self.span?;
        let start = usize::try_from(start).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        document.get(start..end).map(str::trim_end)
    }

    fn child(&self, step: &str) -> Option<&Self> {
        match &self.children {
            Children::Mapping(entries) => entries.get(step),
            Children::Sequence(items) => items.get(step.parse::<usize>().ok()?),
            Children::Scalar => None,
        }
    }
}

fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '[', ']']).filter(|step| !step.is_empty())
}

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let children = Spanned::<Children>::deserialize(deserializer)?;
        let span = children.referenced.span();
        Ok(Self {
            line: children.referenced.line(),
            span: span.byte_offset().zip(span.byte_len()),
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
