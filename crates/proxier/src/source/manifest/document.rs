//! The documents of a file.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use serde_saphyr::{
    Error, Localizer, Location, SnippetMode, UserMessageFormatter, alias_limits, budget, options,
    render_options,
};

use super::lines::Lines;

/// Maximum size of a file. A file of 10,000 Services with 3 endpoints each has some 10 MB.
pub(super) const MAX_FILE_BYTES: usize = 64 << 20;

/// Maximum number of nodes that aliases may add to a document: a few lines of nested aliases can
/// expand to billions.
const MAX_ALIASED_NODES: usize = 100_000;

/// One document's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    pub(super) text: &'a str,
    pub(super) format: Format,
    /// Line of the file on which the text begins, from 1.
    pub(super) first_line: usize,
    /// Line of the file on which its content begins, from 1.
    pub(super) line: usize,
}

/// The format of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A subset of YAML, but some ten times faster to parse. The text is valid.
    Json,
    /// A text among others that are JSON, and is not.
    BrokenJson,
    Yaml,
}

/// Why a document cannot be parsed, with the line in the file.
#[derive(Debug)]
pub(super) struct ParseError {
    pub(super) message: String,
    pub(super) line: Option<usize>,
}

/// Splits a file at its `---` lines, and a part that consists of JSON texts into these. In column
/// 0, `---` has no other meaning in YAML, and it cannot occur in JSON. Each document is parsed
/// separately, so that a broken one does not affect the others. Empty ones are left out.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut start, mut first_line, mut end) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line, "---") || is_marker(line, "...") {
            add(&mut documents, document(text.get(start..end), first_line));
            (start, first_line) = (end, index + 1);
        }
        end += line.len();
    }
    add(&mut documents, document(text.get(start..), first_line));
    documents
}

fn add<'a>(documents: &mut Vec<Document<'a>>, document: Option<Document<'a>>) {
    let Some(document) = document else { return };
    match json_texts(&document) {
        Some(texts) => documents.extend(texts),
        None => documents.push(document),
    }
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn document(text: Option<&str>, first_line: usize) -> Option<Document<'_>> {
    // An end marker belongs to the previous document; at the head of the next one it is ignored.
    let text = text?;
    let (text, first_line) = match text.split_once('\n') {
        Some((marker, rest)) if is_marker(marker, "...") => (rest, first_line + 1),
        None if is_marker(text, "...") => return None,
        _ => (text, first_line),
    };
    let offset = text
        .lines()
        .position(|line| !matches!(content(line).chars().next(), None | Some('#' | '%')))?;
    Some(Document {
        text,
        format: Format::Yaml,
        first_line,
        line: first_line + offset,
    })
}

/// A line without its marker and leading white space.
fn content(line: &str) -> &str {
    let line = if is_marker(line, "---") {
        line.trim_start_matches('-')
    } else {
        line
    };
    line.trim_start()
}

/// The consecutive JSON texts of a document. None if it is not JSON; a broken text among others
/// counts as one.
fn json_texts<'a>(document: &Document<'a>) -> Option<Vec<Document<'a>>> {
    let mut line = document.first_line;
    let mut rest = document.text;
    while line < document.line {
        rest = rest.split_once('\n')?.1;
        line += 1;
    }
    rest = content(rest);
    if !rest.starts_with(['{', '[']) {
        return None;
    }
    let mut texts = Vec::new();
    let mut any_good = false;
    while !rest.is_empty() {
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
        let (text, end, format) = match stream.next()? {
            Ok(text) => {
                any_good = true;
                (text.get(), stream.byte_offset(), Format::Json)
            }
            // After a broken text, the next one begins at the start of a line.
            Err(_) => {
                let next = rest.get(1..).and_then(|rest| rest.find("\n{"));
                let end = next.map_or(rest.len(), |at| at + 2);
                (rest.get(..end)?, end, Format::BrokenJson)
            }
        };
        texts.push(Document {
            text,
            format,
            first_line: line,
            line,
        });
        let (read, after) = rest.split_at_checked(end)?;
        let after_space = after.trim_start();
        let space = after.get(..after.len() - after_space.len())?;
        line += lines_in(read) + lines_in(space);
        rest = after_space;
    }
    any_good.then_some(texts)
}

/// The number of line ends in a text.
pub(super) fn lines_in(text: &str) -> usize {
    memchr::memchr_iter(b'\n', text.as_bytes()).count()
}

impl Document<'_> {
    /// Parses the document as YAML into JSON values, so that types are checked as by the API
    /// server, to which kubectl sends JSON.
    pub(super) fn parse(&self) -> Result<Value, ParseError> {
        deserialize(self.text).map_err(|error| ParseError {
            line: error
                .location()
                .and_then(|place| self.line_of(place.line())),
            message: message(&error),
        })
    }

    /// The positions of fields, by path from the document's root.
    pub(super) fn lines(&self) -> Option<Lines> {
        match self.format {
            Format::Yaml => deserialize(self.text).ok(),
            Format::Json | Format::BrokenJson => Lines::of_json(self.text),
        }
    }

    /// The line of the file for a line of the document.
    pub(super) fn line_of(&self, line: u64) -> Option<usize> {
        let line = usize::try_from(line).ok()?;
        Some(self.first_line + line.checked_sub(1)?)
    }

    /// Whether a number may be written in octal, as in `port: 0120`.
    pub(super) fn may_have_octal(&self) -> bool {
        let mut zeros = self.text.match_indices(": 0");
        zeros.any(|(at, found)| {
            let next = self.text.as_bytes().get(at + found.len());
            next.is_some_and(u8::is_ascii_digit)
        })
    }

    /// The first template expression in braces, and its line in the file.
    pub(super) fn template(&self) -> Option<(&str, usize)> {
        let mut lines = self.text.lines().enumerate();
        lines.find_map(|(index, line)| {
            let line = line.split(" #").next()?;
            let start = line.find("{{")?;
            let rest = line.get(start..)?;
            let end = rest.find("}}").map_or(rest.len(), |end| end + 2);
            let is_comment = line.trim_start().starts_with('#');
            let found = rest.get(..end).filter(|_| !is_comment)?;
            Some((found, self.first_line + index))
        })
    }
}

/// Parses YAML as kubectl does, which reads 0120 as an octal number.
fn deserialize<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let options = options! {
        // The size of the file bounds everything except aliases.
        budget: budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: MAX_FILE_BYTES,
        },
        alias_limits: alias_limits! { max_total_replayed_events: MAX_ALIASED_NODES },
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
}

/// The parser's message without the position, which is reported as a line of the file.
fn message(error: &Error) -> String {
    struct WithoutPlace;
    impl Localizer for WithoutPlace {
        fn attach_location<'a>(
            &self,
            message: std::borrow::Cow<'a, str>,
            _: Location,
        ) -> std::borrow::Cow<'a, str> {
            message
        }
    }
    let formatter = UserMessageFormatter.with_localizer(&WithoutPlace);
    error.render_with_options(render_options! {
        formatter: &formatter,
        snippets: SnippetMode::Off,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_texts_one_after_another_are_documents() {
        let texts = |text: &str| -> Vec<_> {
            let documents = split(text).into_iter();
            let json = documents.map(|d| (d.line, d.format != Format::Yaml, d.text.to_owned()));
            json.collect()
        };
        let json = |line, text: &str| (line, true, text.to_owned());
        assert_eq!(
            texts("{\"a\": 1}\n{\n \"b\": 2\n}{\"c\": 3}\n\n[4]\n"),
            [
                json(1, "{\"a\": 1}"),
                json(2, "{\n \"b\": 2\n}"),
                json(4, "{\"c\": 3}"),
                json(6, "[4]")
            ]
        );
        assert_eq!(
            texts("# head\n--- {\"a\": 1}\n---\nb: 2\n---\n\n{\"c\": 3}\n"),
            [
                json(2, "{\"a\": 1}"),
                (4, false, "---\nb: 2\n".to_owned()),
                json(7, "{\"c\": 3}")
            ]
        );
        // A broken text does not affect the others.
        assert_eq!(
            texts("{\"a\": 1}\n{\"b\": \n{\"c\": 3}\n"),
            [
                json(1, "{\"a\": 1}"),
                json(2, "{\"b\": \n"),
                json(3, "{\"c\": 3}")
            ]
        );
        // A flow mapping of YAML is not JSON.
        assert!(texts("{a: 1}\n").iter().all(|(_, is_json, _)| !is_json));
    }

    #[test]
    fn numbers_are_those_of_kubectl() {
        let value = split("a: 0120\nb: 080\nc: 0x50\nd: '0120'\n")[0].parse();
        let expected = serde_json::json!({"a": 80, "b": 80.0, "c": 80, "d": "0120"});
        assert_eq!(value.unwrap(), expected);
        assert!(split("a: 0120\n")[0].may_have_octal());
        assert!(!split("a: 0\nb: 120\nc: 10.0.0.1\n")[0].may_have_octal());
        let document = &split("---\na: 0120\nb: [0x50, yes]\n")[0];
        let lines = document.lines().unwrap();
        assert_eq!(lines.written("a", document.text), Some("0120"));
        assert_eq!(lines.written("b[0]", document.text), Some("0x50"));
        assert_eq!(lines.written("b[1]", document.text), Some("yes"));
        assert_eq!(lines.written("b", document.text), None);
    }

    fn lines(text: &str) -> Vec<(usize, &str)> {
        let documents = split(text);
        documents.iter().map(|d| (d.line, d.text)).collect()
    }

    #[test]
    fn documents_know_their_lines() {
        assert_eq!(lines("a: 1\n---\nb: 2"), [(1, "a: 1\n"), (3, "---\nb: 2")]);
        assert_eq!(
            lines("\u{feff}# head\n%YAML 1.2\n--- # note\r\n\r\nb: 2\r\n---\n---\n"),
            [(5, "--- # note\r\n\r\nb: 2\r\n")]
        );
        assert_eq!(
            lines("--- {a: 1}\n...\n# between\nb: 2\n...\n"),
            [(1, "--- {a: 1}\n"), (4, "# between\nb: 2\n")]
        );
        assert_eq!(lines(""), []);
        assert_eq!(lines("---"), []);
        assert_eq!(lines("a: |\n  ---\n  b\n----\n").len(), 1);
    }

    #[test]
    fn the_line_of_an_error_is_the_files() {
        let text = "a: 1\n---\nb: 2\nc: [\n---\nd: 3\n";
        let documents = split(text);
        assert!(documents[0].parse().is_ok());
        let error = documents[1].parse().unwrap_err();
        assert!(matches!(error.line, Some(4 | 5)), "{error:?}");
        assert!(!error.message.contains("line"), "{error:?}");
        assert!(documents[2].parse().is_ok());
    }

    #[test]
    fn values_are_those_of_json() {
        let value = split("a: 80\nb: \"80\"\nc: &x {d: http}\ne: *x\n")[0].parse();
        let expected =
            serde_json::json!({"a": 80, "b": "80", "c": {"d": "http"}, "e": {"d": "http"}});
        assert_eq!(value.unwrap(), expected);
        assert!(split("a: 1\na: 2\n")[0].parse().is_err(), "a key twice");
        assert!(
            split("\t{\"a\":\t1}\n")[0].parse().is_ok(),
            "JSON with tabs"
        );
    }

    #[test]
    fn alias_bombs_are_rejected() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..20 {
            let alias = format!("*a{}, ", level - 1).repeat(10);
            bomb += &format!("a{level}: &a{level} [{alias}]\n");
        }
        assert!(split(&bomb)[0].parse().is_err());
        let long = format!(
            "a: &a {}\nb: [{}]\n",
            "x".repeat(1 << 20),
            "*a, ".repeat(1000)
        );
        assert!(split(&long)[0].parse().is_err());
        let deep = "[".repeat(100_000);
        assert!(split(&deep)[0].parse().is_err());
    }
}
