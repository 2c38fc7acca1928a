//! Alert rules and the dashboard. `cargo xtask test` tests the rules with promtool.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{deploy, read, workspace, yaml};

/// The expressions for Prometheus in a document.
fn expressions(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| match value {
                Value::String(text) if key == "expr" || key == "query" => vec![text.as_str()],
                value => expressions(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

/// The metrics of a service proxy in an expression; the series of a histogram count as the
/// histogram.
fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
    let own = words.filter(|w| w.starts_with("kubeproxy_") || w.starts_with("svcproxy_"));
    own.map(|word| {
        let parts = ["_bucket", "_count", "_sum"];
        let histogram = parts.iter().find_map(|part| word.strip_suffix(part));
        histogram.unwrap_or(word)
    })
}

#[test]
fn every_metric_is_documented() {
    let docs = read(workspace().join("docs/metrics.md"));
    let documented: BTreeSet<_> = docs.split('`').collect();
    for file in ["alerts.yaml", "dashboard.json"] {
        let document = yaml(&read(deploy().join("monitoring").join(file)));
        let expressions = expressions(&document);
        let used: BTreeSet<_> = expressions.iter().flat_map(|e| metrics(e)).collect();
        assert!(used.len() > 5, "{file}: {used:?}");
        let unknown: Vec<_> = used.difference(&documented).collect();
        assert_eq!(unknown, <[&&str; 0]>::default(), "{file}");
    }
}

#[test]
fn panels_have_ids_of_their_own() {
    let dashboard = yaml(&read(deploy().join("monitoring/dashboard.json")));
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
}
