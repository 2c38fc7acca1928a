//! kube-proxy's configuration file. Its fields replace svcproxy's flags.

mod apply;
mod decode;
mod effective;
mod inert;

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::{fs, io};

use serde_json::Value;

pub(crate) use effective::effective;

use crate::args::{Cli, LogArgs, NodeArgs};
use crate::kube_proxy::GoDuration;

/// What an operator must know about a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// The node's traffic does not follow this setting.
    pub(crate) is_warning: bool,
    text: String,
}

impl Note {
    fn info(text: impl Into<String>) -> Self {
        let text = text.into();
        let is_warning = false;
        Self { is_warning, text }
    }

    fn warning(text: impl Into<String>) -> Self {
        let text = text.into();
        let is_warning = true;
        Self { is_warning, text }
    }

    /// Logs the note.
    pub(crate) fn log(&self) {
        if self.is_warning {
            tracing::warn!("{self}");
        } else {
            tracing::info!("{self}");
        }
    }
}

impl Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An invalid field, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// The path from the root (`ipvs.syncPeriod`); empty for the whole file.
    path: String,
    message: String,
}

impl FieldError {
    fn new(path: impl Display, message: impl Display) -> Self {
        let path = path.to_string();
        Self {
            path: if path == "." { String::new() } else { path },
            message: message.to_string(),
        }
    }
}

impl Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigFileError {
    #[error("{}: cannot read it", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{}: {}", file.display(), list(errors))]
    Invalid {
        file: PathBuf,
        errors: Vec<FieldError>,
    },
}

fn list(errors: &[FieldError]) -> String {
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    errors.join("; ")
}

/// The fields that a file sets, without nulls.
#[derive(Debug)]
struct Fields(Value);

impl Fields {
    /// The value of a field, if it is set.
    fn get(&self, path: &str) -> Option<&Value> {
        let value = path
            .split('.')
            .try_fold(&self.0, |value, name| value.get(name))?;
        let is_zero = match value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty() || text.parse().is_ok_and(GoDuration::is_zero),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
        };
        (!is_zero).then_some(value)
    }
}

/// Reads the file of `--config` into `cli`, in place of the flags that it covers. Returns notes on
/// settings that have no effect, or a different one than in kube-proxy.
///
/// # Errors
///
/// If the file cannot be read, or kube-proxy would reject it.
pub(crate) fn ingest(cli: &mut Cli) -> Result<Vec<Note>, ConfigFileError> {
    if cli.run.cleanup {
        // `--cleanup` needs no settings, and must work even if the file is invalid.
        return Ok(Vec::new());
    }
    let mut log = cli.log.clone();
    let Some(args) = cli.node_mut() else {
        return Ok(Vec::new());
    };
    let notes = ingest_file(args, &mut log)?;
    cli.log = log;
    Ok(notes)
}

fn ingest_file(args: &mut NodeArgs, log: &mut LogArgs) -> Result<Vec<Note>, ConfigFileError> {
    let mut notes = inert::flags(args);
    let Some(file) = args.kube_proxy.config.clone() else {
        let mode = args.kube_proxy.proxy_mode.as_deref();
        notes.extend(mode.and_then(|mode| apply::mode(mode, "--proxy-mode")));
        notes.extend(apply::ports(args));
        return Ok(notes);
    };
    let read = fs::read_to_string(&file);
    let text = read.map_err(|source| ConfigFileError::Read {
        file: file.clone(),
        source,
    })?;
    match apply_text(&text, args, log) {
        Ok(more) => notes.extend(more),
        Err(errors) => return Err(ConfigFileError::Invalid { file, errors }),
    }
    Ok(notes)
}

fn apply_text(
    text: &str,
    args: &mut NodeArgs,
    log: &mut LogArgs,
) -> Result<Vec<Note>, Vec<FieldError>> {
    let decode::Decoded {
        config,
        fields,
        mut notes,
    } = decode::decode(text)?;
    notes.extend(inert::fields(&fields));
    notes.extend(apply::apply(&config, args, log)?);
    args.kube_proxy.file = Some(Box::new(config));
    Ok(notes)
}

#[cfg(test)]
mod clusters;
#[cfg(test)]
mod tests;
