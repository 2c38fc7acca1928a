//! kube-proxy's configuration file. Its fields replace svcproxy's flags.

mod apply;
mod decode;
mod effective;

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::{fs, io};

use serde_json::Value;

use crate::args::{Cli, LogArgs, NodeArgs};
use crate::kube_proxy::{FIELDS, GoDuration, OBSOLETE_FIELDS, all_flags};

pub(crate) use effective::effective;

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

    /// The setting, without dashes, and what the note says about it.
    pub(crate) fn parts(&self) -> (&str, &str) {
        let (setting, rest) = self.text.split_once(' ').unwrap_or((&self.text, ""));
        (setting.trim_end_matches(':'), rest)
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
    let mut notes = inert_flags(args);
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

/// What kube-proxy's configuration means to svcproxy.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The settings that have their effect, each with its value.
    pub(crate) honoured: Vec<(String, String)>,
    /// The others.
    pub(crate) notes: Vec<Note>,
}

/// Reads the text of a configuration file into the settings, and tells which fields have an effect.
///
/// # Errors
///
/// If kube-proxy would reject it. `file` names it in the error.
pub(crate) fn survey(
    text: &str,
    file: PathBuf,
    args: &mut NodeArgs,
) -> Result<Survey, ConfigFileError> {
    let mut log = LogArgs {
        log_format: None,
        verbosity: None,
    };
    let mut notes = inert_flags(args);
    let applied = apply_text(text, args, &mut log).and_then(|more| {
        notes.extend(more);
        decode::decode(text)
    });
    match applied {
        Ok(decoded) => Ok(Survey {
            honoured: honoured_fields(&decoded.fields),
            notes,
        }),
        Err(errors) => Err(ConfigFileError::Invalid { file, errors }),
    }
}

/// As [`survey`], for kube-proxy's flags without a file.
pub(crate) fn survey_flags(args: &mut NodeArgs) -> Survey {
    let mut notes = inert_flags(args);
    let mode = args.kube_proxy.proxy_mode.as_deref();
    notes.extend(mode.and_then(|mode| apply::mode(mode, "--proxy-mode")));
    notes.extend(apply::ports(args));
    let given = args.kube_proxy.given().iter();
    let honoured = given.filter(|name| all_flags().all(|flag| flag.name != **name));
    let honoured = honoured.map(|name| (format!("--{name}"), String::new()));
    Survey {
        honoured: honoured.collect(),
        notes,
    }
}

/// The fields that are set and have an effect, with their values.
fn honoured_fields(fields: &Fields) -> Vec<(String, String)> {
    fn leaves(path: &str, value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = match path {
                        "" => name.clone(),
                        parent => format!("{parent}.{name}"),
                    };
                    leaves(&path, value, into);
                }
            }
            _ => into.push(path.to_owned()),
        }
    }
    let mut paths = Vec::new();
    leaves("", &fields.0, &mut paths);
    let schema = decode::schema();
    let is_known = |path: &str| {
        schema
            .pointer(&format!("/{}", path.replace('.', "/")))
            .is_some()
    };
    let is_inert = |path: &str| {
        let mut inert = FIELDS.iter();
        inert.any(|(inert, _)| path == *inert || path.starts_with(&format!("{inert}.")))
    };
    paths.retain(|path| {
        let is_head = matches!(path.as_str(), "kind" | "apiVersion" | "mode");
        !is_head && is_known(path) && !is_inert(path)
    });
    let set = paths.into_iter().filter_map(|path| {
        let value = match fields.get(&path)? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some((path, value))
    });
    set.collect()
}

/// Takes over the settings of a running svcproxy, as its page `/configz` has them.
///
/// # Errors
///
/// If one of them is invalid.
pub(crate) fn adopt(document: &Value, args: &mut NodeArgs) -> Result<(), InvalidSettings> {
    // Its log is its own.
    let mut log = LogArgs {
        log_format: None,
        verbosity: None,
    };
    apply_text(&document.to_string(), args, &mut log)
        .map(drop)
        .map_err(InvalidSettings)
}

/// The running svcproxy has settings that this one does not accept.
#[derive(Debug, thiserror::Error)]
#[error(
    "the settings of the running svcproxy are invalid here ({}): use the same version, or give the \
     settings as flags with an empty --metrics-bind-address",
    list(_0)
)]
pub(crate) struct InvalidSettings(Vec<FieldError>);

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
    notes.extend(inert_fields(&fields));
    notes.extend(apply::apply(&config, args, log)?);
    args.kube_proxy.file = Some(Box::new(config));
    Ok(notes)
}

#[cfg(test)]
mod clusters;
#[cfg(test)]
mod tests;

/// The note of a field that `KubeProxyConfiguration` does not have.
fn unknown(path: &str) -> Note {
    match OBSOLETE_FIELDS.iter().find(|(name, _)| *name == path) {
        Some((_, why)) => Note::info(format!("{path} is obsolete and has no effect: {why}")),
        None => Note::warning(format!(
            "{path} is not a field of KubeProxyConfiguration and has no effect"
        )),
    }
}

/// Notes on the given flags that have no effect.
fn inert_flags(args: &NodeArgs) -> Vec<Note> {
    let given = args.kube_proxy.given();
    let inert = |name: &str| all_flags().find(|flag| flag.name == name);
    let without = given
        .iter()
        .filter_map(|name| Some(format!("--{name} has no effect: {}", inert(name)?.why)));
    let mut notes: Vec<_> = without.map(Note::info).collect();
    if args.kube_proxy.config.is_some() {
        let covered = given.iter().filter(|name| inert(name).is_none());
        notes.extend(
            covered.map(|name| Note::warning(format!("--{name} is ignored: --config covers it"))),
        );
    }
    notes
}

/// Notes on the fields that are set and have no effect.
fn inert_fields(fields: &Fields) -> Vec<Note> {
    let mut notes = Vec::new();
    for (path, why) in FIELDS {
        match fields.get(path) {
            Some(Value::Object(entries)) => notes.extend(
                entries
                    .keys()
                    .map(|key| Note::info(format!("{path}.{key} has no effect: {why}"))),
            ),
            Some(_) => notes.push(Note::info(format!("{path} has no effect: {why}"))),
            None => {}
        }
    }
    notes
}
