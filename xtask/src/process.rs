//! Runs other programs, with errors that name the command.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The command as a person would type it, for messages.
pub(crate) fn display(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy()));
    words.join(" ")
}

/// Runs `command`; an error unless it exits with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", display(command));
    }
    Ok(())
}

/// Runs `command` and returns what it wrote; an error, with its standard error, unless it exits
/// with 0.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!(
            "`{}` failed: {status}\n{}",
            display(command),
            stderr.trim_end()
        );
    }
    Ok(stdout)
}
