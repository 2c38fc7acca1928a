//! The log, on standard error.

use std::env;
use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use crate::args::{LogArgs, LogFormat};

/// Sets up the log. Colour only on a terminal, and not where `NO_COLOR` is set.
pub(crate) fn init(args: &LogArgs) {
    // klog's levels: 4 is for debugging, 6 for what is sent and received.
    let level = match args.verbosity {
        None | Some(0..4) => "info",
        Some(4..6) => "debug",
        Some(_) => "trace",
    };
    let filter = EnvFilter::try_from_env("SVCPROXY_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colour =
        io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_target(false);
    match args.log_format {
        None | Some(LogFormat::Text) => builder.init(),
        Some(LogFormat::Json) => builder.json().flatten_event(true).init(),
    }
}

/// Says why the program ends, even if the log is filtered.
pub(crate) fn fatal(message: &str) {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!("{message}");
    } else {
        let _ = writeln!(io::stderr(), "svcproxy: {message}");
    }
}
