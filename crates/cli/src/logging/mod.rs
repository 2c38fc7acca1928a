//! The log, on standard error.
//!
//! The log never blocks or ends the process. If the reader is gone, the disk is full or a pipe is
//! not read, lines are dropped and counted.

mod escape;
mod progress;
mod queue;

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{FilterExt, Targets};
use tracing_subscriber::fmt::{MakeWriter, format};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub(crate) use self::escape::{Shown, write_field, write_json};
pub(crate) use self::progress::Progress;
use self::queue::Queue;
pub(crate) use self::queue::lines_lost;
use crate::args::{Cli, Command, LogFormat};

/// How long the process waits at its end for lines to be written.
const FLUSH: Duration = Duration::from_secs(1);

const VARIABLE: &str = "SVCPROXY_LOG";

/// What happens if the reader of the log is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backpressure {
    /// The process waits; for commands that end by themselves.
    Block,
    /// Lines that do not fit into the queue are dropped and counted.
    Drop,
}

impl Backpressure {
    fn of(command: Option<&Command>) -> Self {
        match command {
            None | Some(Command::Cleanup(_)) => Self::Drop,
            Some(_) => Self::Block,
        }
    }
}

/// An error and its sources, on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let errors = std::iter::successors(Some(error), |error| (*error).source());
    errors
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// The filter is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE}: {problem}: write a level (error, warn, info, debug, trace), or TARGET=LEVEL, \
     separated by commas"
)]
pub(crate) struct FilterError {
    problem: String,
}

/// When dropped, writes the queued lines, for at most a second.
#[derive(Debug)]
pub(crate) struct Guard(Option<Queue>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.flush(FLUSH);
        }
    }
}

/// Sets up the log. Colours only on a terminal, and not if `NO_COLOR` is set.
///
/// # Errors
///
/// If `SVCPROXY_LOG` is not a filter. The log then has the level from `args`.
pub(crate) fn init(cli: &Cli) -> Result<Guard, FilterError> {
    let args = &cli.log;
    let level = level(args.verbosity);
    let given = env::var_os(VARIABLE).filter(|text| !text.is_empty());
    let given = given
        .map(|text| filter(&text.to_string_lossy()))
        .transpose();
    let (wanted, error) = match given {
        Ok(wanted) => (wanted, None),
        Err(error) => (None, Some(error)),
    };
    // notify warns of each watched file that was replaced, which is how files are updated.
    let wanted = wanted.unwrap_or_else(|| {
        Targets::new()
            .with_default(level)
            .with_target("notify", LevelFilter::ERROR)
    });
    // Errors are always logged, whatever the filter.
    let filter = wanted.or(LevelFilter::ERROR);
    let colour =
        io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let is_json = args.log_format == Some(LogFormat::Json);
    // Only the error will be logged, so waiting is fine.
    let backpressure = if error.is_some() {
        Backpressure::Block
    } else {
        Backpressure::of(cli.command.as_ref())
    };
    let (output, queue) = Output::open(backpressure, is_json);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(output)
        .with_ansi(colour)
        .with_target(false)
        // Otherwise tracing reports them on standard error, and panics if that fails.
        .log_internal_errors(false);
    let layer = if is_json {
        layer.json().flatten_event(true).with_filter(filter).boxed()
    } else {
        let fields = format::debug_fn(write_field).delimited(" ");
        layer.fmt_fields(fields).with_filter(filter).boxed()
    };
    tracing_subscriber::registry().with(layer).init();
    error.map_or(Ok(Guard(queue)), Err)
}

/// Logs why the process ends.
pub(crate) fn fatal(message: &str) {
    tracing::error!("{message}");
}

/// klog's levels: 4 is for debugging, 6 for what is sent and received.
fn level(verbosity: Option<u32>) -> LevelFilter {
    match verbosity {
        None | Some(0..4) => LevelFilter::INFO,
        Some(4..6) => LevelFilter::DEBUG,
        Some(_) => LevelFilter::TRACE,
    }
}

/// Parses `SVCPROXY_LOG`. `Targets` takes any single word as a target, so a misspelt level would
/// hide nearly everything.
fn filter(text: &str) -> Result<Targets, FilterError> {
    let directives: Vec<_> = text.split(',').map(str::trim).collect();
    for directive in &directives {
        let problem = match directive.split_once('=') {
            None if LevelFilter::from_str(directive).is_err() => "is not a level",
            Some(("", _) | (_, "")) => "lacks a module or a level",
            _ => continue,
        };
        let problem = format!("{directive:?} {problem}");
        return Err(FilterError { problem });
    }
    directives.join(",").parse().map_err(|error| FilterError {
        problem: format!("{text:?}: {error}"),
    })
}

/// The output of the log.
#[derive(Debug)]
struct Output {
    to: To,
    is_json: bool,
}

#[derive(Debug)]
enum To {
    /// Bypasses `std`'s lock, which a blocked writer would hold.
    File(Mutex<File>),
    Queue(Queue),
    Nowhere,
}

impl Output {
    /// Opens standard error, with a queue if lines may be dropped. If neither works, lines are
    /// discarded.
    fn open(backpressure: Backpressure, is_json: bool) -> (Self, Option<Queue>) {
        let file = io::stderr().as_fd().try_clone_to_owned().map(File::from);
        let to = file.and_then(|file| match backpressure {
            Backpressure::Block => Ok(To::File(Mutex::new(file))),
            Backpressure::Drop => Queue::start(file).map(To::Queue),
        });
        let to = to.unwrap_or(To::Nowhere);
        let queue = match &to {
            To::Queue(queue) => Some(queue.clone()),
            To::File(_) | To::Nowhere => None,
        };
        (Self { to, is_json }, queue)
    }
}

/// One event. The subscriber writes it in one call.
struct Line<'a>(&'a Output);

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut escaped = Vec::new();
        let text = if self.0.is_json {
            write_json(&mut escaped, line);
            &escaped
        } else {
            line
        };
        match &self.0.to {
            To::File(file) => {
                if let Ok(mut file) = file.lock() {
                    // A failure to log cannot be logged.
                    let _ = file.write_all(text);
                }
            }
            To::Queue(queue) => queue.push(text),
            To::Nowhere => {}
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_mean_nothing_are_errors() {
        for good in [
            "info",
            "DEBUG",
            "off",
            "warn,proxier=debug",
            "proxier::source=trace, hyper=off",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in [
            "debgu",
            "warning",
            "proxier",
            "info,verbose",
            "proxier=loud",
            "=",
            "debug,[span{a=b}]=trace",
        ] {
            let error = filter(bad).unwrap_err().to_string();
            assert!(error.starts_with("SVCPROXY_LOG: \""), "{error}");
        }
    }
}
