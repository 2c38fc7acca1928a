//! Converts API objects, and compares the results.
//!
//! The tables have a row for each case: YAML, and the expected object in one line (`-` if there is
//! none) followed by the findings, one per line.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod arbitrary;
mod endpoint_slice;
mod endpoints;
mod external;
mod hostile;
mod named;
mod node;
mod service;

use std::fmt::Display;

use proxier::source::Severity;
use proxier::source::convert::Converted;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// An object with the fields of `object` over those of `base`.
fn object<T: DeserializeOwned>(kind: (&str, &str), mut base: Value, object: Value) -> T {
    merge(&mut base, object);
    merge(&mut base, json!({"apiVersion": kind.0, "kind": kind.1}));
    serde_json::from_value(base).unwrap()
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn shown<T>(converted: &Converted<T>, show: impl Fn(&T) -> String) -> String {
    let object = converted.object.as_ref().map_or("-".to_owned(), show);
    let diagnostics = converted.diagnostics.iter().map(|diagnostic| {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            _ => "note",
        };
        format!("{severity}: {diagnostic}")
    });
    let lines: Vec<String> = std::iter::once(object).chain(diagnostics).collect();
    lines.join("\n")
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(" ")
}

/// Compares all rows of a table before it fails.
fn check(rows: &[(&str, &str)], convert: impl Fn(Value) -> String) {
    let mut wrong = String::new();
    for (input, expected) in rows {
        let got = convert(yaml(input));
        if got != *expected {
            wrong += &format!("{input}\n got:      {got}\n expected: {expected}\n\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
