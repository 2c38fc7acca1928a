//! Decodes a file as kube-proxy does: unknown fields and fields that are set twice, which strict
//! decoding rejects, are reported and ignored (`loadConfig` in cmd/kube-proxy/app/options.go).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_path_to_error::Track;
use serde_saphyr::{DuplicateKeyPolicy, options};

use super::{FieldError, Fields, Note, unknown};
use crate::kube_proxy::{KubeProxyConfiguration, VModule};

pub(super) const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
pub(super) const KIND: &str = "KubeProxyConfiguration";

/// A configuration file.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) config: KubeProxyConfiguration,
    pub(super) fields: Fields,
    /// Notes on ignored parts.
    pub(super) notes: Vec<Note>,
}

/// Reads a configuration.
///
/// # Errors
///
/// If it is not YAML, not a `KubeProxyConfiguration`, or a value has a wrong type.
pub(super) fn decode(text: &str) -> Result<Decoded, Vec<FieldError>> {
    let documents = split(text);
    let first = documents.first().copied().unwrap_or_default();
    let Parsed { mut value, twice } = parse(first).map_err(|error| vec![error])?;
    let found = (text_of(&value, "kind"), text_of(&value, "apiVersion"));
    if found != (KIND, API_VERSION) {
        let first = if documents.len() > 1 {
            " in the first document of the file"
        } else {
            ""
        };
        let error = format!(
            "must be kind {KIND:?}, apiVersion {API_VERSION:?}{first}; found kind {:?}, apiVersion {:?}",
            found.0, found.1
        );
        return Err(vec![FieldError::new("kind", error)]);
    }
    let mut notes: Vec<_> = other_documents(&documents).into_iter().collect();
    notes.extend(twice.iter().map(|path| {
        Note::warning(format!(
            "{path} is set more than once: the last value counts"
        ))
    }));
    let mut compared = Compared::default();
    compared.compare("", &value, &schema());
    if !compared.errors.is_empty() {
        return Err(compared.errors);
    }
    notes.extend(compared.unknown.iter().map(|path| unknown(path)));
    without_nulls(&mut value);
    match serde_path_to_error::deserialize(&value) {
        Ok(config) => Ok(Decoded {
            config,
            fields: Fields(value),
            notes,
        }),
        Err(error) => Err(vec![FieldError::new(error.path(), error.inner())]),
    }
}

/// All fields with their zero values. A list of structs has one element.
pub(super) fn schema() -> Value {
    let mut default = KubeProxyConfiguration::default();
    default.logging.vmodule.push(VModule::default());
    serde_json::to_value(default).unwrap_or_default()
}

/// The non-empty documents of a file. A line that begins with `---` ends a document, even inside a
/// block scalar.
fn split(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut end) = (0, 0);
    for line in text.split_inclusive('\n') {
        let marker = line.strip_prefix("---");
        if marker.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            documents.extend(text.get(start..end));
            start = end;
        }
        end += line.len();
    }
    documents.extend(text.get(start..));
    let has_content = |document: &&str| {
        let mut lines = document
            .lines()
            .map(|line| line.trim_start_matches("---").trim());
        lines.any(|line| !line.is_empty() && !line.starts_with(['#', '%']))
    };
    documents.retain(has_content);
    documents
}

/// A note on the other documents: kube-proxy reads the first one only.
fn other_documents(documents: &[&str]) -> Option<Note> {
    let others = documents.get(1..).filter(|others| !others.is_empty())?;
    let kind = |document: &&str| {
        let parsed = parse(document).ok();
        let kind = parsed.map(|parsed| text_of(&parsed.value, "kind").to_owned());
        kind.filter(|kind| !kind.is_empty())
            .unwrap_or_else(|| "no kind".to_owned())
    };
    let kinds: Vec<_> = others.iter().map(kind).collect();
    Some(Note::warning(format!(
        "the file has {} documents, and only the first is read, as in kube-proxy: move the others \
         ({}) to separate files",
        documents.len(),
        kinds.join(", ")
    )))
}

/// A document as JSON values.
#[derive(Debug)]
struct Parsed {
    value: Value,
    /// Paths of fields that are set more than once; the last value counts.
    twice: Vec<String>,
}

/// Parses YAML, which includes JSON, with the booleans and octal numbers of YAML 1.1 that
/// kube-proxy accepts.
fn parse(text: &str) -> Result<Parsed, FieldError> {
    let options = options! {
        with_snippet: false,
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
    };
    let mut track = Track::new();
    let mut twice = Vec::new();
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        let node = Node {
            path: String::new(),
            twice: &mut twice,
        };
        node.deserialize(serde_path_to_error::Deserializer::new(yaml, &mut track))
    });
    match value {
        Ok(value) => Ok(Parsed { value, twice }),
        Err(error) => Err(FieldError::new(track.path(), error)),
    }
}

/// Reads a value of any type, and records repeated keys.
struct Node<'a> {
    path: String,
    twice: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        let item = |index| format!("{}[{index}]", self.path);
        while let Some(value) = items.next_element_seed(Node {
            path: item(values.len()),
            twice: &mut *self.twice,
        })? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let path = join(&self.path, &name);
            let value = entries.next_value_seed(Node {
                path: path.clone(),
                twice: &mut *self.twice,
            })?;
            if fields.insert(name, value).is_some() {
                self.twice.push(path);
            }
        }
        Ok(fields.into())
    }
}

fn text_of<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The differences between a file and the schema.
#[derive(Default)]
struct Compared {
    unknown: Vec<String>,
    errors: Vec<FieldError>,
}

impl Compared {
    /// Finds fields that the schema does not have, and values that should be maps but are not:
    /// serde accepts a list in place of a struct.
    fn compare(&mut self, path: &str, value: &Value, schema: &Value) {
        match (schema, value) {
            // A map with free keys is empty in the schema.
            (Value::Object(known), Value::Object(fields)) if !known.is_empty() => {
                for (name, value) in fields {
                    let path = join(path, name);
                    match known.get(name) {
                        Some(schema) => self.compare(&path, value, schema),
                        None => self.unknown.push(path),
                    }
                }
            }
            (Value::Array(known), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    for known in known {
                        self.compare(&format!("{path}[{index}]"), item, known);
                    }
                }
            }
            (_, Value::Null) => {}
            (Value::Object(known), value) if !known.is_empty() => {
                let error = format!("{value} must be a map of fields");
                self.errors.push(FieldError::new(path, error));
            }
            _ => {}
        }
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// Removes nulls: Go treats them as absent.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}
