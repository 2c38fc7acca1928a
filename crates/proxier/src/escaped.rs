//! Text of others, made fit to be shown: the one place where that is done.
//!
//! What an API server, a manifest or a program says may hold line breaks, which would forge log
//! lines, and a terminal's controls.

#[cfg(feature = "kube")]
use std::error::Error;
use std::fmt::{self, Write};

/// Text in one line, without controls. Escaping what is escaped already changes nothing.
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

/// An error and its causes in one sentence, without what an error repeats of its cause, and
/// [escaped](Escaped).
#[cfg(feature = "kube")]
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'static));

#[cfg(feature = "kube")]
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
    fn chains_are_one_line_and_say_nothing_twice() {
        for repeats in [true, false] {
            let source = io::Error::other("line\nbreak");
            let chain = Chain(&Outer { repeats, source }).to_string();
            assert_eq!(chain, r"outer\u{1b}[31m: line\nbreak");
            assert_eq!(Escaped(&chain).to_string(), chain);
        }
    }
}
