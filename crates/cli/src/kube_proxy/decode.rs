//! From a file's text to its fields, strictly.

use serde_json::Value;
use serde_saphyr::options;

use super::config::KubeProxyConfiguration;
use super::{FieldError, Fields};

pub(super) const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
pub(super) const KIND: &str = "KubeProxyConfiguration";

/// Reads a configuration. What kube-proxy's strict decoding refuses is refused: unknown fields,
/// fields that are there twice, and values of a wrong type.
pub(super) fn decode(text: &str) -> Result<(KubeProxyConfiguration, Fields), Vec<FieldError>> {
    let mut value = parse(text).map_err(|error| vec![error])?;
    let kind = (text_of(&value, "kind"), text_of(&value, "apiVersion"));
    if kind != (KIND, API_VERSION) {
        let found = format!("found kind {:?}, apiVersion {:?}", kind.0, kind.1);
        let error = format!("must be kind {KIND:?}, apiVersion {API_VERSION:?}; {found}");
        return Err(vec![FieldError::new("kind", error)]);
    }
    let mut errors = Vec::new();
    compare("", &value, &schema(), &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    without_nulls(&mut value);
    match serde_path_to_error::deserialize(&value) {
        Ok(config) => Ok((config, Fields(value))),
        Err(error) => Err(vec![FieldError::new(error.path(), error.inner())]),
    }
}

/// All fields, as they are when none is set.
pub(super) fn schema() -> Value {
    serde_json::to_value(KubeProxyConfiguration::default()).unwrap_or_default()
}

/// YAML, of which JSON is a part, as the values of JSON.
fn parse(text: &str) -> Result<Value, FieldError> {
    let options = options! { with_snippet: false };
    let mut path = String::new();
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        serde_path_to_error::deserialize::<_, Value>(yaml).map_err(|error| {
            path = error.path().to_string();
            error.into_inner()
        })
    });
    value.map_err(|error| FieldError::new(path, error))
}

fn text_of<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Finds fields that the schema does not have, and what has no fields where some should be, which
/// serde would take.
fn compare(path: &str, value: &Value, schema: &Value, errors: &mut Vec<FieldError>) {
    // A map with keys of the user's is empty in the schema.
    let Some(known) = schema.as_object().filter(|known| !known.is_empty()) else {
        return;
    };
    let fields = match value {
        Value::Object(fields) => fields,
        Value::Null => return,
        _ => return errors.push(FieldError::new(path, "must be a map of fields")),
    };
    for (name, value) in fields {
        let path = join(path, name);
        match known.get(name) {
            Some(schema) => compare(&path, value, schema, errors),
            None => errors.push(FieldError::new(path, "unknown field")),
        }
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// Null is as good as absent in Go.
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
