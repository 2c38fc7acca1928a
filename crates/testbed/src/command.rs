//! Runs programs.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// A failed operation in a network namespace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program could not be started.
    #[error("cannot run `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// The reason.
        source: io::Error,
    },
    /// A program exited with a code other than 0.
    #[error("`{command}` failed: {stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// Its error output.
        stderr: String,
    },
    /// A system call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: String,
        /// The reason.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System {
            what: what.into(),
            source,
        }
    }
}

/// Runs `command` to its end with `input`, and returns its standard output.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<String, Error> {
    let name = || {
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(OsStr::to_string_lossy)
            .collect();
        words.join(" ")
    };
    let name = name();
    let start = |source| Error::Start {
        command: name.clone(),
        source,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If the program does not read its input, its exit code gives the reason.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Error::Failed {
        command: name,
        stderr: format!("{}: {}", output.status, stderr.trim()),
    })
}

/// Executes `lines`, one command of ip(8) each, in the network namespace `namespace`.
pub(crate) fn ip(namespace: Option<&str>, lines: &[String]) -> Result<(), Error> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    run(command.args(["-batch", "-"]), &lines.join("\n")).map(drop)
}
