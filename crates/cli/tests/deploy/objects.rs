//! Checks Kubernetes objects against the API's types: decoding and encoding an object loses unknown
//! fields.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The error of an object, if any.
pub(crate) fn fault(object: &Value) -> Option<String> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let check = match (text("apiVersion"), text("kind")) {
        ("apps/v1", "DaemonSet") => strict::<DaemonSet>,
        ("v1", "ConfigMap") => strict::<ConfigMap>,
        ("v1", "Service") => strict::<Service>,
        ("v1", "ServiceAccount") => strict::<ServiceAccount>,
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => strict::<ClusterRole>,
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => strict::<ClusterRoleBinding>,
        (version, kind) => return Some(format!("no type for {version} {kind}")),
    };
    check(object).err()
}

fn strict<T: DeserializeOwned + Serialize>(object: &Value) -> Result<(), String> {
    let read: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    let back = serde_json::to_value(read).map_err(|error| error.to_string())?;
    match lost(object, &back) {
        Some(path) => Err(format!("{path} is unknown")),
        None => Ok(()),
    }
}

/// The path of a value in `before` that `after` lacks.
fn lost(before: &Value, after: &Value) -> Option<String> {
    let below = |key: String, path: String| format!(".{key}{path}");
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before.iter().find_map(|(key, value)| {
            let after = after.get(key).unwrap_or(&Value::Null);
            lost(value, after).map(|path| below(key.clone(), path))
        }),
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => before
            .iter()
            .zip(after)
            .enumerate()
            .find_map(|(index, (before, after))| {
                lost(before, after).map(|path| below(index.to_string(), path))
            }),
        _ => (before != after).then(String::new),
    }
}

#[test]
fn unknown_fields_are_found() {
    let object = |field: &str| {
        crate::yaml(&format!(
            "apiVersion: v1\nkind: Service\nspec:\n  ports:\n  - port: 80\n    {field}: 8080"
        ))
    };
    assert_eq!(fault(&object("targetPort")), None);
    let unknown = fault(&object("targetport")).unwrap();
    assert_eq!(unknown, ".spec.ports.0.targetport is unknown");
}
