//! Escapes text from outside. This is the only place that does it.
//!
//! Text from an API server, a manifest or a program may contain line breaks, which could forge log
//! lines, and terminal control sequences.

use std::error::Error;
use std::fmt::{self, Write};

/// Displays text on one line, without control characters. Escaping twice changes nothing more.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '"' | '\'' | '\\' => f.write_char(c)?,
                c => write!(f, "{}", c.escape_debug())?,
            }
        }
        Ok(())
    }
}

/// An error and its causes in one sentence, [escaped](Escaped), without repetitions.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut next = self.0.source();
        while let Some(error) = next {
            next = error.source();
            let cause = error.to_string();
            if !text.contains(&cause) {
                text = text + ": " + &cause;
            }
        }
        write!(f, "{}", Escaped(&text))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer\u{1b}[31m{}", if *.repeats { ": line\nbreak" } else { "" })]
    struct Outer {
        repeats: bool,
        source: io::Error,
    }

    #[test]
    fn chains_are_one_line_without_repetitions() {
        for repeats in [true, false] {
            let source = io::Error::other("line\nbreak");
            let chain = Chain(&Outer { repeats, source }).to_string();
            assert_eq!(chain, r"outer\u{1b}[31m: line\nbreak");
            assert_eq!(Escaped(&chain).to_string(), chain);
        }
    }
}
