//! Escapes everything that is logged: text from outside may contain line breaks, terminal control
//! sequences, or characters that reverse the direction of text.

use std::fmt::{self, Debug, Write};
use std::io;

use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

/// Whether a character would be invisible or misleading. Quotes and backslashes are not.
fn is_hidden(c: char) -> bool {
    !c.is_ascii_graphic() && c != ' ' && c.escape_debug().next() == Some('\\')
}

/// Writes text with its hidden characters escaped.
struct Escaping<'a, 'w>(&'a mut Writer<'w>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| {
            if is_hidden(c) {
                write!(self.0, "{}", c.escape_debug())
            } else {
                self.0.write_char(c)
            }
        })
    }
}

/// Displays text from outside on one line, with its hidden characters escaped.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| {
            if is_hidden(c) {
                write!(f, "{}", c.escape_debug())
            } else {
                f.write_char(c)
            }
        })
    }
}

/// Writes a field of an event, in the text format.
pub(crate) fn write_field(
    writer: &mut Writer<'_>,
    field: &Field,
    value: &dyn Debug,
) -> fmt::Result {
    match field.name() {
        "message" => {}
        // The source position of records of the crate `log`.
        name if name.starts_with("log.") => return Ok(()),
        name if writer.has_ansi_escapes() => {
            write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
        }
        name => write!(writer, "{name}=")?,
    }
    write!(Escaping(writer), "{value:?}")
}

/// Writes a line of the JSON format. Only its strings can contain hidden characters, so JSON
/// escapes can replace them.
pub(crate) fn write_json(out: &mut Vec<u8>, line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    for c in line.chars() {
        if !is_hidden(c) || c == '\n' {
            let mut bytes = [0; 4];
            out.extend_from_slice(c.encode_utf8(&mut bytes).as_bytes());
            continue;
        }
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            // Writing to a vector cannot fail.
            let _ = io::Write::write_fmt(out, format_args!("\\u{unit:04x}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::testing::Lines;

    const HOSTILE: &str =
        "a\nERROR forged \u{1b}[2J\u{7f}\u{9b}\u{202e}\u{2066}\u{200b}\r\tü \"q\" \\ é";

    #[test]
    fn text_from_outside_stays_on_its_line_and_is_seen_as_it_is() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry().with(lines.layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(reason = %HOSTILE, count = 3, "said: {HOSTILE}");
        });
        let escaped = "a\\nERROR forged \\u{1b}[2J\\u{7f}\\u{9b}\\u{202e}\\u{2066}\\u{200b}\\r\\tü \"q\" \\ é";
        let line = format!("WARN said: {escaped} reason={escaped} count=3");
        assert_eq!(lines.take(), [line]);
    }

    #[test]
    fn json_stays_json() {
        let text =
            serde_json::json!({"message": HOSTILE, "other": "\u{1f600}\u{e0001}"}).to_string();
        let mut line = Vec::new();
        write_json(&mut line, format!("{text}\n").as_bytes());
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line.chars().filter(|c| is_hidden(*c)).count(), 1);
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["message"], HOSTILE);
        assert_eq!(read["other"], "\u{1f600}\u{e0001}");
    }
}
