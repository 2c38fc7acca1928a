//! The fields of large kinds that are used.
//!
//! A Pod has hundreds that mean nothing here, and the API server takes some of them in forms that
//! the API's own types do not have: a quantity may be written as a number.

use serde_json::Value;

/// Paths, where an array's items stand at the array's own.
type Fields = &'static [&'static str];

pub(super) const POD: Fields = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.labels",
    "metadata.deletionTimestamp",
    "spec.nodeName",
    "spec.hostNetwork",
    "spec.containers.ports",
    "spec.initContainers.ports",
    "spec.initContainers.restartPolicy",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.conditions.type",
    "status.conditions.status",
];

pub(super) const NODE: Fields = &[
    "metadata.name",
    "metadata.labels",
    "spec.podCIDR",
    "spec.podCIDRs",
    "status.addresses",
];

/// A copy with these fields only. What is no object where one should be is left as it is.
pub(super) fn project(value: &Value, fields: Fields) -> Value {
    within(value, "", fields)
}

fn within(value: &Value, path: &str, fields: Fields) -> Value {
    match value {
        Value::Object(entries) => {
            let entry = |(name, value): (&String, &Value)| {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                let mut rests = fields.iter().filter_map(|field| field.strip_prefix(&*path));
                let value = if fields.contains(&&*path) {
                    value.clone()
                } else if rests.any(|rest| rest.starts_with('.')) {
                    within(value, &path, fields)
                } else {
                    return None;
                };
                Some((name.clone(), value))
            };
            Value::Object(entries.iter().filter_map(entry).collect())
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| within(item, path, fields));
            Value::Array(items.collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_used_stays() {
        let pod = json!({
            "metadata": {"name": "a", "labels": {"app": "web"}, "uid": "x"},
            "spec": {
                "containers": [
                    {"name": "a", "resources": {"limits": {"cpu": 1}}, "ports": [{"name": "http", "containerPort": 80}]},
                    "not a container",
                ],
                "nodeNames": "b",
                "volumes": [],
            },
            "status": 7,
        });
        let expected = json!({
            "metadata": {"name": "a", "labels": {"app": "web"}},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 80}]}, "not a container"]},
            "status": 7,
        });
        assert_eq!(project(&pod, POD), expected);
    }
}
