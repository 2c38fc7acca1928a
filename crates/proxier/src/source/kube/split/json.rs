//! Splits JSON that arrives in pieces.

use memchr::memchr2;

use super::super::error::Failure;
use super::{LONGEST_ENVELOPE, LONGEST_OBJECT, LONGEST_OUTLINE, Text};

/// Maximum length of a string in an outline. Names have at most 253 bytes.
const LONGEST_STRING: usize = 1 << 10;
/// Maximum depth of an outline: `metadata` of the object in a line of a watch.
const OUTLINE_DEPTH: usize = 3;

/// The state of a JSON scanner: brackets and strings only.
#[derive(Debug, Default)]
struct Position {
    depth: usize,
    in_string: bool,
    after_backslash: bool,
}

/// The structural meaning of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Open,
    Close,
    /// A quote that begins or ends a string.
    Quote,
    Other,
}

impl Position {
    /// The number of bytes at the beginning of a piece that are inside of a string.
    fn plain(&self, piece: &[u8]) -> usize {
        if self.in_string && !self.after_backslash {
            memchr2(b'"', b'\\', piece).unwrap_or(piece.len())
        } else {
            0
        }
    }

    fn step(&mut self, byte: u8) -> Mark {
        if self.in_string {
            if self.after_backslash {
                self.after_backslash = false;
            } else if byte == b'\\' {
                self.after_backslash = true;
            } else if byte == b'"' {
                self.in_string = false;
                return Mark::Quote;
            }
            return Mark::Other;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                Mark::Quote
            }
            b'{' | b'[' => {
                self.depth += 1;
                Mark::Open
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                Mark::Close
            }
            _ => Mark::Other,
        }
    }
}

/// A page of a list that is arriving.
#[derive(Debug, Default)]
pub(in super::super) struct Page {
    position: Position,
    in_items: bool,
    /// The page without its objects: valid JSON once the page is complete.
    envelope: Vec<u8>,
    object: Object,
}

impl Page {
    /// As [`super::Page::feed`].
    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        mut take: impl FnMut(Text<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        // The start of the part of the piece that has not been kept yet.
        let mut from = 0;
        let mut next = 0;
        while let Some(rest) = piece.get(next..).filter(|rest| !rest.is_empty()) {
            let at = next + self.position.plain(rest);
            let Some(byte) = piece.get(at) else { break };
            next = at + 1;
            let mark = self.position.step(*byte);
            let depth = self.position.depth;
            match mark {
                Mark::Open if !self.in_items && depth == 2 && *byte == b'[' => {
                    self.keep(piece.get(from..=at).unwrap_or_default())?;
                    from = at + 1;
                    self.in_items = is_key_of_items(&self.envelope);
                }
                // Text between two objects is dropped.
                Mark::Open if self.in_items && depth == 3 => from = at,
                Mark::Close if self.in_items && depth == 2 => {
                    let end = piece.get(from..=at).unwrap_or_default();
                    self.object.end(end, &mut take)?;
                    from = at + 1;
                }
                Mark::Close if self.in_items && depth < 2 => {
                    self.in_items = false;
                    from = at;
                }
                _ => {}
            }
        }
        let rest = piece.get(from..).unwrap_or_default();
        if !self.in_items {
            self.keep(rest)
        } else if self.position.depth > 2 {
            self.object.feed(rest);
            Ok(())
        } else {
            Ok(())
        }
    }

    fn keep(&mut self, text: &[u8]) -> Result<(), Failure> {
        if self.envelope.len() + text.len() > LONGEST_ENVELOPE {
            return Err(Failure::TooLong("the list's metadata", LONGEST_ENVELOPE));
        }
        self.envelope.extend_from_slice(text);
        Ok(())
    }

    /// The page without its objects.
    pub(super) fn envelope(&self) -> &[u8] {
        &self.envelope
    }
}

fn is_key_of_items(text: &[u8]) -> bool {
    let text = text.strip_suffix(b"[").unwrap_or_default().trim_ascii_end();
    let text = text.strip_suffix(b":").unwrap_or_default();
    text.trim_ascii_end().ends_with(b"\"items\"")
}

/// An object that is arriving.
#[derive(Debug, Default)]
pub(in super::super) struct Object {
    text: Vec<u8>,
    /// Replaces the text once that is too long.
    outline: Option<Outline>,
}

impl Object {
    pub(super) fn feed(&mut self, piece: &[u8]) {
        if self.outline.is_none() && self.text.len() + piece.len() > LONGEST_OBJECT {
            let mut outline = Outline::default();
            outline.feed(&std::mem::take(&mut self.text));
            self.outline = Some(outline);
        }
        match &mut self.outline {
            Some(outline) => outline.feed(piece),
            None => self.text.extend_from_slice(piece),
        }
    }

    /// Processes the last piece, and passes the object to `take`.
    pub(super) fn end<T>(&mut self, piece: &[u8], take: impl FnOnce(Text<'_>) -> T) -> T {
        // Most objects arrive in one piece, and are not copied.
        if self.text.is_empty() && self.outline.is_none() && piece.len() <= LONGEST_OBJECT {
            return take(Text::Whole(piece));
        }
        self.feed(piece);
        let taken = match self.outline.take() {
            Some(outline) => take(Text::TooLong(&outline.text)),
            None => take(Text::Whole(&self.text)),
        };
        self.text.clear();
        taken
    }
}

/// The outline of an object that is too long: the short strings of its `metadata`, to name it.
/// Lists, long strings and deeper values are left empty.
#[derive(Debug, Default)]
struct Outline {
    position: Position,
    /// The depth of the list or object that is left empty.
    empty: Option<usize>,
    /// The start of the current string in the text.
    string: usize,
    /// Whether the rest of the current string is skipped.
    skips_string: bool,
    text: Vec<u8>,
}

impl Outline {
    fn feed(&mut self, piece: &[u8]) {
        let mut next = 0;
        while let Some(rest) = piece.get(next..).filter(|rest| !rest.is_empty()) {
            let (plain, rest) = rest.split_at(self.position.plain(rest));
            self.push_string(plain);
            let Some(byte) = rest.first() else { break };
            next += plain.len() + 1;
            let mark = self.position.step(*byte);
            let depth = self.position.depth;
            if let Some(empty) = self.empty {
                if mark == Mark::Close && depth < empty {
                    self.empty = None;
                    self.push(*byte);
                }
                continue;
            }
            match mark {
                Mark::Quote => {
                    self.skips_string = false;
                    self.push(*byte);
                    self.string = self.text.len();
                }
                Mark::Other if self.position.in_string => self.push_string(&[*byte]),
                Mark::Open => {
                    self.push(*byte);
                    if *byte == b'[' || depth > OUTLINE_DEPTH {
                        self.empty = Some(depth);
                    }
                }
                Mark::Close | Mark::Other => self.push(*byte),
            }
        }
    }

    fn push_string(&mut self, part: &[u8]) {
        if self.empty.is_some() || self.skips_string {
            return;
        }
        // A long string is emptied, not cut: the cut might fall inside an escape sequence.
        if self.text.len() - self.string + part.len() > LONGEST_STRING {
            self.text.truncate(self.string);
            self.skips_string = true;
        } else {
            part.iter().for_each(|byte| self.push(*byte));
        }
    }

    fn push(&mut self, byte: u8) {
        if self.text.len() < LONGEST_OUTLINE {
            self.text.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// The objects of a page that arrives in pieces of this size, and the rest of it.
    fn split(text: &str, piece: usize) -> (Vec<Value>, Value) {
        let (mut page, mut objects) = (Page::default(), Vec::new());
        for piece in text.as_bytes().chunks(piece) {
            let take = |text: Text<'_>| {
                let (Text::Whole(text) | Text::TooLong(text)) = text;
                objects.push(serde_json::from_slice(text).unwrap());
                Ok(())
            };
            page.feed(piece, take).unwrap();
        }
        (objects, serde_json::from_slice(page.envelope()).unwrap())
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "[\\PC\"\\\\{}\\[\\]:,\n]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("items|[a-z\"\\\\]{1,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn pages_split_as_a_parser_reads_them(
            objects in prop::collection::vec(
                prop::collection::hash_map("[a-z]{1,4}", any_value(), 0..4), 0..5),
            metadata in any_value(),
            piece in 1_usize..40,
            pretty: bool,
        ) {
            let page = json!({"items": objects, "kind": "List", "metadata": metadata});
            let text = if pretty {
                serde_json::to_string_pretty(&page).unwrap()
            } else {
                page.to_string()
            };
            let (split, envelope) = split(&text, piece);
            prop_assert_eq!(&json!(split), &page["items"]);
            let expected = json!({"items": [], "kind": "List", "metadata": metadata});
            prop_assert_eq!(envelope, expected);
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(text: Vec<u8>) {
            let mut page = Page::default();
            let _ = page.feed(&text, |_| Ok(()));
            let mut outline = Outline::default();
            outline.feed(&text);
        }

        #[test]
        fn outlines_are_json_and_keep_the_name(object in any_value(), name in "[\\PC\"\\\\]{0,20}") {
            let long = "\\\"é".repeat(LONGEST_STRING);
            let object = json!({
                "a": object, "long": long, "slices": [object],
                "object": {"metadata": {"long": long, "name": name, "z": {"name": object}}},
            });
            let mut outline = Outline::default();
            outline.feed(object.to_string().as_bytes());
            let read: Value = serde_json::from_slice(&outline.text).unwrap();
            prop_assert_eq!(&read["object"]["metadata"]["name"], &json!(name));
            prop_assert_eq!(read["long"].as_str(), Some(""));
            prop_assert_eq!(&read["slices"], &json!([]));
        }
    }

    #[test]
    fn an_object_that_is_too_long_is_outlined_and_the_others_are_whole() {
        let object = |name: &str, length| json!({"a": "x".repeat(length), "name": name});
        let page = json!({"items": [
            object("one", 1), object("two", LONGEST_OBJECT), object("three", 2),
        ]});
        let (objects, _) = split(&page.to_string(), 16 << 10);
        let expected = [object("one", 1), object("two", 0), object("three", 2)];
        assert_eq!(objects, expected);
    }
}
