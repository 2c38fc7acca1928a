//! Shows on a terminal that long work goes on.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::Shown;

/// Work that takes no longer is not shown.
const FIRST: Duration = Duration::from_secs(1);
/// How often the line is drawn.
const PERIOD: Duration = Duration::from_millis(250);
/// How long to wait for the line to be removed: the terminal may be stopped.
const PATIENCE: Duration = Duration::from_millis(200);
/// The longest text, so that it fits into a line of a terminal and a line of the log covers it.
const LONGEST: usize = 60;

const TURNS: [char; 4] = ['|', '/', '-', '\\'];

/// A line at the end of the terminal while this is alive: what is done, and for how long. Without a
/// terminal it does nothing.
#[derive(Debug)]
pub(crate) struct Progress(Option<(Sender<()>, Receiver<()>)>);

impl Progress {
    /// Begins. `what` is asked again for each drawing.
    pub(crate) fn start(what: impl Fn() -> String + Send + 'static) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let (end, ended) = mpsc::channel();
        let (remove, removed) = mpsc::channel();
        let drawing = thread::Builder::new().name("progress".to_owned());
        let drawing = drawing.spawn(move || {
            draw(&mut io::stderr(), &ended, FIRST, &what);
            // Nobody waits any more.
            let _ = remove.send(());
        });
        // Without the thread, nothing is shown.
        Self(drawing.ok().map(|_| (end, removed)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, removed)) = self.0.take() {
            drop(end);
            let _ = removed.recv_timeout(PATIENCE);
        }
    }
}

/// Draws the line until the other end of the channel is gone, and then removes it. The cursor stays at its
/// beginning, so that a line of the log overwrites it.
fn draw(out: &mut impl Write, ended: &Receiver<()>, first: Duration, what: &dyn Fn() -> String) {
    let begun = Instant::now();
    let mut wait = first;
    for turn in TURNS.into_iter().cycle() {
        match ended.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
        wait = PERIOD;
        let seconds = begun.elapsed().as_secs();
        let text = Shown(&what()).to_string();
        let text: String = text.chars().take(LONGEST).collect();
        let drawn = write!(out, "\r{turn} {text}, {seconds} s\u{1b}[K\r");
        if drawn.and_then(|()| out.flush()).is_err() {
            return;
        }
    }
    if wait == PERIOD {
        let _ = write!(out, "\u{1b}[K").and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_work_is_not_shown() {
        let (end, ended) = mpsc::channel();
        drop(end);
        let mut out = Vec::new();
        draw(&mut out, &ended, Duration::from_secs(60), &String::new);
        assert_eq!(out, b"");
    }

    #[test]
    fn long_work_is_drawn_on_one_line_that_is_removed() {
        let (end, ended) = mpsc::channel::<()>();
        let (asked, is_asked) = mpsc::channel();
        let drawing = thread::spawn(move || {
            let mut out = Vec::new();
            let what = || {
                let _ = asked.send(());
                format!("reading \u{1b}[2J{}", "x".repeat(200))
            };
            draw(&mut out, &ended, Duration::ZERO, &what);
            String::from_utf8(out).unwrap()
        });
        is_asked.recv().unwrap();
        is_asked.recv().unwrap();
        drop(end);
        let text = drawing.join().unwrap();
        assert!(text.starts_with("\r| reading \\u{1b}[2Jxxx"), "{text:?}");
        assert!(text.contains("\r/ reading "), "{text:?}");
        assert!(text.ends_with("\u{1b}[K"), "{text:?}");
        assert!(!text.contains('\n'), "{text:?}");
        let longest = text.split('\r').map(|line| line.chars().count()).max();
        assert!(longest.unwrap() < 80, "{text:?}");
    }
}
