//! `svcproxy`: a Kubernetes service proxy over IPVS, iptables or nftables. A thin layer over the crate
//! `proxier`.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod component_config;
mod description;
mod figures;
mod history;
mod host;
mod inventory;
mod kube_proxy;
mod load;
mod lock;
mod logging;
mod mode;
mod node;
mod notices;
mod observe;
mod page;
mod passage;
mod running;
#[cfg(test)]
mod scenarios;
mod settings;
mod source;
mod table;
mod takeover;
#[cfg(test)]
mod testing;

use std::io;
use std::process::ExitCode;

use args::{CleanupArgs, Cli, Command};
use component_config::Note;

/// The result of a command: its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Everything succeeded.
    Done,
    /// Something failed.
    Failed,
    /// The command line or a manifest has an error. The valid part was applied.
    InvalidInput,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(match ending {
            Ending::Done => 0,
            Ending::Failed => 1,
            Ending::InvalidInput => 2,
        })
    }
}

fn main() -> ExitCode {
    let mut cli = args::parse();
    let notes = component_config::ingest(&mut cli);
    // After the configuration file: it may set the log's format and level.
    let _guard = match logging::init(&cli) {
        Ok(guard) => guard,
        Err(error) => {
            logging::fatal(&error.to_string());
            return Ending::InvalidInput.into();
        }
    };
    match notes
        .map_err(Into::into)
        .and_then(|notes| dispatch(&cli, &notes))
    {
        Ok(ending) => ending.into(),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of sources on one line; no error repeats its source.
            logging::fatal(&format!("{error:#}"));
            let invalid = error.is::<proxier::desired::ConfigError>()
                || error.is::<component_config::ConfigFileError>();
            if invalid {
                Ending::InvalidInput.into()
            } else {
                Ending::Failed.into()
            }
        }
    }
}

fn dispatch(cli: &Cli, notes: &[Note]) -> anyhow::Result<Ending> {
    notes.iter().for_each(Note::log);
    match &cli.command {
        Some(Command::Plan(args)) => commands::plan(args),
        Some(Command::Check(args)) => commands::check(args),
        Some(Command::Status(args)) => commands::status(args),
        Some(Command::Services(args)) => commands::services(args),
        Some(Command::Describe(args)) => commands::describe(args),
        Some(Command::Env(args)) => commands::env(args),
        Some(Command::Explain(args)) => commands::explain(args),
        Some(Command::Top(args)) => commands::top(args),
        Some(Command::Verify(args)) => commands::verify(args),
        Some(Command::Migrate(args)) => commands::migrate(args),
        Some(Command::SupportBundle(args)) => commands::support_bundle(args),
        Some(Command::Cleanup(args)) => commands::cleanup(args),
        Some(Command::Completion { shell }) => commands::completion(*shell),
        Some(Command::Man { directory }) => commands::man(directory),
        None if cli.run.cleanup => commands::cleanup(&CleanupArgs {
            lock: cli.run.lock.clone(),
            drain_timeout: cli.run.node.drain_timeout,
            now: false,
            dry_run: false,
            output: None,
        }),
        None => commands::run(cli),
    }
}

/// Whether the reader of standard output has gone, as `| head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_error = error.downcast_ref::<io::Error>();
    io_error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
