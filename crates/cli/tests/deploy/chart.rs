//! The Helm chart, as Helm renders it. `cargo xtask test` checks that the golden file is the
//! rendered chart, and lints the chart.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{deploy, kustomize, objects, read, workspace, yaml};

/// The chart, rendered with only the required values.
fn rendered() -> Vec<Value> {
    let text = read(workspace().join("crates/cli/tests/golden/chart.yaml"));
    text.split("---\n")
        .filter(|document| !document.trim().is_empty())
        .map(yaml)
        .collect()
}

#[test]
fn every_object_is_valid() {
    for object in rendered() {
        assert_eq!(objects::fault(&object), None, "{}", object["kind"]);
    }
}

#[test]
fn chart_has_the_version_of_the_program() {
    let chart = yaml(&read(deploy().join("helm/svcproxy/Chart.yaml")));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn chart_without_values_is_the_kustomize_base() {
    let base = kustomize::all().into_iter().map(|(_, object)| object);
    assert_eq!(by_kind(rendered()), by_kind(base));
}

/// The selector of a DaemonSet is immutable.
#[test]
fn selectors_of_chart_and_kustomize_base_are_the_same() {
    let selector = |objects: Vec<Value>| {
        let daemon_set = objects.iter().find(|object| object["kind"] == "DaemonSet");
        daemon_set.unwrap()["spec"]["selector"].clone()
    };
    let base = selector(
        kustomize::all()
            .into_iter()
            .map(|(_, object)| object)
            .collect(),
    );
    assert!(base["matchLabels"].is_object());
    assert_eq!(selector(rendered()), base);
}

fn by_kind(objects: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    let objects = objects.into_iter().map(|mut object| {
        forget_helms_labels(&mut object);
        // Comments and the order of keys do not matter.
        let files = object.get_mut("data").and_then(Value::as_object_mut);
        for (_, file) in files.into_iter().flatten() {
            *file = yaml(file.as_str().unwrap());
        }
        (object["kind"].as_str().unwrap().to_owned(), object)
    });
    objects.collect()
}

fn forget_helms_labels(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for label in ["instance", "version", "managed-by"] {
                fields.remove(&format!("app.kubernetes.io/{label}"));
            }
            fields.remove("helm.sh/chart");
            let annotations = fields.get_mut("annotations").and_then(Value::as_object_mut);
            if let Some(annotations) = annotations {
                annotations.remove("checksum/restart");
                if annotations.is_empty() {
                    fields.remove("annotations");
                }
            }
            fields.values_mut().for_each(forget_helms_labels);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_helms_labels),
        _ => {}
    }
}
