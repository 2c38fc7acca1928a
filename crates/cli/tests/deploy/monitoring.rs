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
    let panels = panels(&dashboard);
    let ids: BTreeSet<_> = panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
}

/// All panels, also those of collapsed rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let top = dashboard["panels"].as_array().unwrap();
    let inner = top.iter().filter_map(|panel| panel["panels"].as_array());
    top.iter().chain(inner.flatten()).collect()
}

/// A thousand nodes must not draw a thousand lines: outside of the row of one node, a panel shows sums,
/// quantiles or a fixed number of lines.
#[test]
fn panels_of_the_fleet_have_few_lines() {
    let dashboard = yaml(&read(deploy().join("monitoring/dashboard.json")));
    let few = [
        "sum(",
        "sum by",
        "count(",
        "count by",
        "max(",
        "quantile(",
        "topk(",
        "histogram_quantile(",
    ];
    let mut fleet = 0;
    for panel in panels(&dashboard) {
        for query in expressions(&panel["targets"]) {
            if query.contains("$node") {
                continue;
            }
            fleet += 1;
            assert!(few.iter().any(|start| query.starts_with(start)), "{query}");
            assert!(query.contains("$job"), "{query}");
        }
    }
    assert!(fleet > 10);
}

/// A heading's address in the rendered page.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text: String = heading.to_lowercase().chars().filter(kept).collect();
    text.replace(' ', "-")
}

#[test]
fn every_alert_has_a_runbook() {
    let document = yaml(&read(deploy().join("monitoring/alerts.yaml")));
    let page = read(workspace().join("docs/troubleshooting.md"));
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchors: BTreeSet<_> = headings
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect();
    let rules = document["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 5);
    for rule in rules {
        let link = rule["annotations"]["runbook_url"].as_str();
        let (file, anchor) = link.and_then(|link| link.split_once('#')).unwrap();
        assert_eq!(file, "docs/troubleshooting.md");
        assert!(anchors.contains(anchor), "{link:?}");
    }
}
