//! Objects of a cluster as an API server has them, with all that svcproxy does not read.

use proxier::source::kube::Encoding;
use serde_json::{Value, json};
use testbed::{Resource, protobuf};

use crate::row::Size;

fn name(number: u32) -> String {
    format!("service-{number:05}")
}

/// A Service as `kubectl apply` and the API server write it.
pub(crate) fn service(number: u32) -> Value {
    let name = name(number);
    let address = format!(
        "10.{}.{}.{}",
        96 + number / 62_500,
        number / 250 % 250,
        1 + number % 250
    );
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": format!("team-{}", number % 100),
            "uid": format!("c7a3b5a0-0d2c-4bb1-9c1c-{number:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": name},
            "managedFields": [{
                "manager": "helm", "operation": "Update", "apiVersion": "v1",
                "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {
                    "f:internalTrafficPolicy": {}, "f:selector": {},
                    "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
                }},
            }],
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "selector": {"app.kubernetes.io/name": name},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// A slice as the control plane's controller writes it; `version` determines one endpoint's
/// address.
pub(crate) fn slice(number: u32, endpoints: u32, version: u32) -> Value {
    let name = name(number);
    let endpoint = |index: u32| {
        let host = number * endpoints + index;
        let last = if index == 0 { version } else { 0 };
        json!({
            "addresses": [format!("10.{}.{}.{}", 128 + host / 62_500 + last % 50, host / 250 % 250, 1 + host % 250)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{:04}", host % 1000), "zone": format!("zone-{}", host % 3),
            "targetRef": {
                "kind": "Pod", "namespace": format!("team-{}", number % 100),
                "name": format!("{name}-7d4b9c6f5-{host:05}"),
                "uid": format!("1d9ae3b4-52f4-4f0e-8d3c-{host:012}"),
            },
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-x7k2p"), "generateName": format!("{name}-"),
            "namespace": format!("team-{}", number % 100),
            "uid": format!("9f3c8a11-6d5e-4b7a-8a4f-{number:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": name,
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": name, "controller": true,
                "uid": format!("c7a3b5a0-0d2c-4bb1-9c1c-{number:012}"),
            }],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}

/// The body of a list of Services.
pub(crate) fn services(size: Size, encoding: Encoding) -> Vec<u8> {
    body(Resource::Services, (0..size.count).map(service), encoding)
}

/// The body of a list of slices.
pub(crate) fn slices(size: Size, encoding: Encoding) -> Vec<u8> {
    let slices = (0..size.count).map(|number| slice(number, size.endpoints, 0));
    body(Resource::EndpointSlices, slices, encoding)
}

/// The body of a list as an API server sends it. Each object is dropped once it is written.
fn body(resource: Resource, objects: impl Iterator<Item = Value>, encoding: Encoding) -> Vec<u8> {
    let objects = objects.map(|mut object| {
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
        if let Some(metadata) = metadata {
            metadata.insert("resourceVersion".into(), "7".into());
        }
        object
    });
    if encoding == Encoding::Json {
        let mut body =
            br#"{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":["#
                .to_vec();
        for (place, object) in objects.enumerate() {
            if place > 0 {
                body.push(b',');
            }
            body.extend(object.to_string().as_bytes());
        }
        body.extend(b"]}");
        return body;
    }
    // `metadata` with the version, and `items`.
    let mut list = b"\x0a\x03\x12\x019".to_vec();
    for object in objects {
        field(&mut list, 2, &protobuf::message(resource, &object));
    }
    // `runtime.Unknown` with the list as `raw`.
    let mut body = b"k8s\0".to_vec();
    field(&mut body, 2, &list);
    body
}

/// Appends a field with its length (wire type 2).
fn field(message: &mut Vec<u8>, number: u8, content: &[u8]) {
    message.push(number << 3 | 2);
    let mut length = content.len();
    while length > 0x7f {
        // The low seven bits, and that more follow.
        message.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    message.push(length.to_le_bytes()[0]);
    message.extend(content);
}

/// The Services and slices of a cluster, as `kubectl get -o json` prints them.
pub(crate) fn list(numbers: impl Iterator<Item = u32>, size: Size) -> Value {
    let both = numbers.flat_map(|number| [service(number), slice(number, size.endpoints, 0)]);
    json!({"apiVersion": "v1", "kind": "List", "items": both.collect::<Vec<_>>()})
}
