//! An undecoded object: the value of a YAML document, or the text of a JSON document.

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::Diagnostic;
use super::super::api;

/// An undecoded object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    Value(&'a Value),
    Text(&'a str),
}

/// The items of a list.
#[derive(Debug)]
pub(super) enum Items<'a> {
    Values(&'a [Value]),
    Texts(Vec<&'a RawValue>),
}

/// Why a text is not JSON.
#[derive(Debug)]
pub(super) struct Malformed {
    /// The message, without the position.
    pub(super) message: String,
    line: usize,
}

impl Malformed {
    fn new(error: &serde_json::Error) -> Self {
        Self {
            message: message(error),
            line: error.line(),
        }
    }

    /// From 1, within the text.
    pub(super) fn line(&self) -> u64 {
        self.line as u64
    }
}

/// The message of an error, without the position.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(message) => message.to_owned(),
        None => text,
    }
}

impl<'a> Raw<'a> {
    /// Checks that a text is JSON.
    pub(super) fn check(self) -> Result<(), Malformed> {
        match self {
            Raw::Value(_) => Ok(()),
            Raw::Text(text) => {
                let checked: Result<IgnoredAny, _> = serde_json::from_str(text);
                checked.map(drop).map_err(|error| Malformed::new(&error))
            }
        }
    }

    /// Kind and name, as far as they can be read.
    pub(super) fn header(self) -> api::Header {
        let is_mapping = match self {
            Raw::Value(value) => value.is_object(),
            Raw::Text(text) => text.trim_start().starts_with('{'),
        };
        let header = is_mapping.then(|| self.decode().ok());
        header.flatten().unwrap_or_default()
    }

    /// Decodes the object. The error names the field.
    pub(super) fn decode<T: DeserializeOwned>(self) -> Result<T, Box<Diagnostic>> {
        match self {
            Raw::Value(value) => decode(value),
            Raw::Text(text) => {
                if let Ok(object) = serde_json::from_str(text) {
                    return Ok(object);
                }
                // Slower: with the path of the error, and with the last of duplicate keys.
                let value = serde_json::from_str(text);
                let value: Value =
                    value.map_err(|error| Box::new(Diagnostic::error(message(&error))))?;
                decode(&value)
            }
        }
    }

    /// The items of a list, possibly none. Err if they are not a list.
    pub(super) fn items(self) -> Result<Items<'a>, NotAList> {
        match self {
            Raw::Value(value) => match value.get("items") {
                Some(Value::Array(items)) => Ok(Items::Values(items)),
                None | Some(Value::Null) => Ok(Items::Values(&[])),
                Some(_) => Err(NotAList),
            },
            Raw::Text(text) => {
                let list: Result<List<'_>, _> = serde_json::from_str(text);
                let items = list.map_err(|_| NotAList)?.items;
                Ok(Items::Texts(items.unwrap_or_default()))
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct NotAList;

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, Box<Diagnostic>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        Box::new(Diagnostic::error(error.into_inner()).with_field(field))
    })
}
