//! The documents of a file.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::{
    Error, Localizer, Location, SnippetMode, UserMessageFormatter, alias_limits, budget, options,
    render_options,
};

use super::lines::Lines;

/// Most that a file may hold. A file of 10,000 Services with 3 endpoints each has some 10 MB.
pub(super) const MAX_FILE_BYTES: usize = 64 << 20;

/// Most nodes that aliases may add to a document: a few lines of nested aliases can ask for
/// billions.
const MAX_ALIASED_NODES: usize = 100_000;

/// One document's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    pub(super) text: &'a str,
    /// Line of the file on which the text begins, from 1.
    first_line: usize,
    /// Line of the file on which its content begins, from 1.
    pub(super) line: usize,
}

/// Why a document is no YAML, and on which line of the file.
#[derive(Debug)]
pub(super) struct ParseError {
    pub(super) message: String,
    pub(super) line: Option<usize>,
}

/// Splits a file at its `---` lines, which YAML allows in column 0 for nothing else. Each document
/// is parsed by itself, so that a broken one takes no other with it. Empty ones are left out.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut start, mut first_line, mut end) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line, "---") || is_marker(line, "...") {
            documents.extend(document(text.get(start..end), first_line));
            (start, first_line) = (end, index + 1);
        }
        end += line.len();
    }
    documents.extend(document(text.get(start..), first_line));
    documents
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn document(text: Option<&str>, first_line: usize) -> Option<Document<'_>> {
    // An end marker closes the document before it, and means nothing at the head of the next.
    let text = text?;
    let (text, first_line) = match text.split_once('\n') {
        Some((marker, rest)) if is_marker(marker, "...") => (rest, first_line + 1),
        None if is_marker(text, "...") => return None,
        _ => (text, first_line),
    };
    let content = |line: &str| {
        let line = if is_marker(line, "---") {
            line.trim_start_matches('-')
        } else {
            line
        };
        !matches!(line.trim_start().chars().next(), None | Some('#' | '%'))
    };
    let offset = text.lines().position(content)?;
    Some(Document {
        text,
        first_line,
        line: first_line + offset,
    })
}

impl Document<'_> {
    /// Parses the document as YAML, of which JSON is a part, into the values of JSON: types are
    /// then told apart as the API server does, which sees nothing but JSON.
    pub(super) fn parse(&self) -> Result<Value, ParseError> {
        self.deserialize().map_err(|error| ParseError {
            line: error
                .location()
                .and_then(|place| self.line_of(place.line())),
            message: message(&error),
        })
    }

    /// The lines of the file on which fields stand, by path from the document's root.
    pub(super) fn lines(&self) -> impl Fn(&str) -> Option<usize> {
        let lines: Option<Lines> = self.deserialize().ok();
        move |path| self.line_of(lines.as_ref()?.line(path))
    }

    fn line_of(&self, line: u64) -> Option<usize> {
        let line = usize::try_from(line).ok()?;
        Some(self.first_line + line.checked_sub(1)?)
    }

    fn deserialize<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let options = options! {
            // The size of the file bounds what it can hold, but for aliases.
            budget: budget! {
                max_events: usize::MAX,
                max_nodes: usize::MAX,
                max_total_scalar_bytes: MAX_FILE_BYTES,
            },
            alias_limits: alias_limits! { max_total_replayed_events: MAX_ALIASED_NODES },
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options(self.text, options)
    }
}

/// The parser's message without the place, which is told in the file's lines.
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
    fn alias_bombs_are_refused() {
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
