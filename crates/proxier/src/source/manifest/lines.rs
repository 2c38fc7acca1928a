//! The line and the source text of each field of a document.
//!
//! Decoded values have no positions, so a document with an error is parsed again, with positions.
//! YAML by its parser, and JSON by a scanner, which is some hundred times faster.

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
    /// The positions in a valid JSON text. `None` if it is not JSON.
    pub(super) fn of_json(text: &str) -> Option<Self> {
        let mut scanner = Scanner {
            text,
            at: 0,
            line: 1,
        };
        let lines = scanner.value(0)?;
        scanner.skip_space();
        (scanner.at == text.len()).then_some(lines)
    }

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

/// Maximum depth of a JSON text, as in `serde_json`.
const DEPTH: usize = 128;

/// Finds the positions in a JSON text. It need not understand numbers and words.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    line: u64,
}

impl<'a> Scanner<'a> {
    fn next(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(byte @ (b' ' | b'\n' | b'\r' | b'\t')) = self.next() {
            self.line += u64::from(byte == b'\n');
            self.at += 1;
        }
    }

    /// The next byte after white space, if it is this one.
    fn skip(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        (self.next()? == byte).then(|| self.at += 1)
    }

    fn value(&mut self, depth: usize) -> Option<Lines> {
        self.skip_space();
        let (start, line) = (self.at, self.line);
        let children = match self.next()? {
            b'{' | b'[' if depth >= DEPTH => return None,
            b'{' => self.mapping(depth)?,
            b'[' => self.sequence(depth)?,
            b'"' => {
                self.string()?;
                Children::Scalar
            }
            _ => {
                let rest = self.text.get(start..)?;
                let ends = |c: char| matches!(c, ',' | ']' | '}') || c.is_ascii_whitespace();
                self.at += rest.find(ends).unwrap_or(rest.len());
                Children::Scalar
            }
        };
        let length = self.at.checked_sub(start).filter(|length| *length > 0)?;
        Some(Lines {
            line,
            span: Some((u64::try_from(start).ok()?, u64::try_from(length).ok()?)),
            children,
        })
    }

    fn mapping(&mut self, depth: usize) -> Option<Children> {
        let mut entries = HashMap::new();
        self.skip(b'{')?;
        if self.skip(b'}').is_some() {
            return Some(Children::Mapping(entries));
        }
        loop {
            self.skip_space();
            let key = serde_json::from_str(self.string()?).ok()?;
            self.skip(b':')?;
            entries.insert(key, self.value(depth + 1)?);
            if self.skip(b',').is_none() {
                self.skip(b'}')?;
                return Some(Children::Mapping(entries));
            }
        }
    }

    fn sequence(&mut self, depth: usize) -> Option<Children> {
        let mut items = Vec::new();
        self.skip(b'[')?;
        if self.skip(b']').is_some() {
            return Some(Children::Sequence(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.skip(b',').is_none() {
                self.skip(b']')?;
                return Some(Children::Sequence(items));
            }
        }
    }

    /// The text of a string, with its quotes.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.skip(b'"')?;
        loop {
            match self.next()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.text.get(start..self.at)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_positions_of_its_values() {
        let text = "\n{\"a\": [1, -2.5e3,\n {\"b\\\"c\": \"x\\\\\"}],\r\n\t\"d\" : null , \"e\":{}, \"f\":[]}\n";
        let lines = Lines::of_json(text).unwrap();
        for (path, line, written) in [
            ("", 2, None),
            ("a", 2, None),
            ("a[0]", 2, Some("1")),
            ("a[1]", 2, Some("-2.5e3")),
            ("a[2]", 3, None),
            ("a[2].b\"c", 3, Some("\"x\\\\\"")),
            ("d", 4, Some("null")),
            ("e", 4, None),
            ("f", 4, None),
            ("a[7].b", 2, None),
        ] {
            assert_eq!(lines.line(path), line, "{path}");
            assert_eq!(lines.written(path, text), written, "{path}");
        }
    }

    #[test]
    fn what_is_not_json_has_no_positions() {
        let deep = "[".repeat(DEPTH + 1);
        for text in [
            "", " ", "{", "[1", "{\"a\"}", "{\"a\":}", "[1]]", "\"a", "\"\\", "{a: 1}", &deep,
        ] {
            assert!(Lines::of_json(text).is_none(), "{text}");
        }
    }

    #[test]
    fn json_and_yaml_agree_on_positions() {
        let text = "{\"a\": [1, \"x\"],\n\"b\": {\n\"c\": true}}";
        let yaml: Lines = serde_saphyr::from_str(text).unwrap();
        let json = Lines::of_json(text).unwrap();
        for path in ["a", "a[0]", "a[1]", "b", "b.c"] {
            assert_eq!(yaml.line(path), json.line(path), "{path}");
            assert_eq!(yaml.written(path, text), json.written(path, text), "{path}");
        }
    }
}
