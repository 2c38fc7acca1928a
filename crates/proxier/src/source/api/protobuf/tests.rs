use std::fmt::Debug;
use std::fs;

use proptest::prelude::*;
use serde_json::Value;
use testbed::{Resource, protobuf};

use super::super::super::convert;
use super::*;
use crate::source::Extent;

/// Decodes a message. Whatever it is, this ends with an object or an error.
fn decode<T: Object>(message: &[u8]) -> Result<T, prost::DecodeError> {
    T::Message::decode(message).map(Into::into)
}

/// Checks that an object is the same from JSON and from its message.
fn same<T: Object + Debug>(json: &Value, message: &[u8]) -> T {
    let from_json: T = serde_json::from_value(json.clone()).unwrap();
    let from_message: T = decode(message).unwrap();
    // The text has every field, and the objects have no other comparison.
    assert_eq!(format!("{from_message:#?}"), format!("{from_json:#?}"));
    from_message
}

/// The message in an object of Kubernetes' own test data, and its JSON.
fn sample(name: &str) -> (Value, Vec<u8>) {
    let directory = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../testbed/testdata/kubernetes"
    );
    let read = |end| fs::read(format!("{directory}/{name}.{end}")).unwrap();
    let json = serde_json::from_slice(&read("json")).unwrap();
    let bytes = read("pb");
    let Unknown { raw } = Unknown::decode(bytes.strip_prefix(b"k8s\0").unwrap()).unwrap();
    (json, raw)
}

/// What wraps an object.
#[derive(Message)]
struct Unknown {
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

fn samples() -> [(Value, Vec<u8>); 4] {
    [
        "core.v1.Service",
        "discovery.k8s.io.v1.EndpointSlice",
        "core.v1.Node",
        "networking.k8s.io.v1.ServiceCIDR",
    ]
    .map(sample)
}

#[test]
fn objects_of_kubernetes_are_the_same_from_both_encodings() {
    let [service, slice, node, cidr] = samples();
    let service: Service = same(&service.0, &service.1);
    same::<EndpointSlice>(&slice.0, &slice.1);
    same::<Node>(&node.0, &node.1);
    same::<ServiceCidr>(&cidr.0, &cidr.1);
    // The samples have a value in every field.
    let spec = service.spec.unwrap();
    assert_eq!(
        spec.traffic_distribution.unwrap(),
        "trafficDistributionValue"
    );
    assert_eq!(service.metadata.label("labelsKey"), Some("labelsValue"));
}

/// Every beginning of a message is an error, or an object with fewer fields.
#[test]
fn messages_that_are_cut_off_do_no_harm() {
    let [service, slice, node, cidr] = samples();
    for end in 0..service.1.len() {
        let _ = decode::<Service>(&service.1[..end]);
    }
    let mut errors = 0;
    for end in 0..slice.1.len() {
        errors += usize::from(decode::<EndpointSlice>(&slice.1[..end]).is_err());
    }
    // All but the ends of whole fields.
    assert!(errors > slice.1.len() - 10, "{errors} of {}", slice.1.len());
    for end in 0..node.1.len() {
        let _ = decode::<Node>(&node.1[..end]);
    }
    for end in 0..cidr.1.len() {
        let _ = decode::<ServiceCidr>(&cidr.1[..end]);
    }
}

proptest! {
    /// Fields that svcproxy does not read are among those of a random object.
    #[test]
    fn random_objects_are_the_same_from_both_encodings(
        choices in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut choices = choices.into_iter();
        let mut choose = |below: usize| usize::from(choices.next().unwrap_or(0)) % below;
        let mut random = |resource| {
            let json = protobuf::random_object(resource, &mut choose);
            let message = protobuf::message(resource, &json);
            (json, message)
        };
        let (json, message) = random(Resource::Services);
        let service: Service = same(&json, &message);
        let from_json = serde_json::from_value(json).unwrap();
        prop_assert_eq!(
            convert::service(&service, Extent::Named),
            convert::service(&from_json, Extent::Named)
        );
        let (json, message) = random(Resource::EndpointSlices);
        let slice: EndpointSlice = same(&json, &message);
        let from_json = serde_json::from_value(json).unwrap();
        prop_assert_eq!(
            convert::endpoint_slice(&slice, Extent::Named),
            convert::endpoint_slice(&from_json, Extent::Named)
        );
        let (json, message) = random(Resource::Nodes);
        same::<Node>(&json, &message);
        let (json, message) = random(Resource::ServiceCidrs);
        same::<ServiceCidr>(&json, &message);
    }

    #[test]
    fn unknown_fields_are_skipped(number in 100_u64..1 << 29, content: Vec<u8>) {
        let [(json, message), ..] = samples();
        let mut unknown = Vec::new();
        for part in [number << 3 | 2, content.len() as u64] {
            let mut rest = part;
            while rest >= 0x80 {
                unknown.push(rest.to_le_bytes()[0] | 0x80);
                rest >>= 7;
            }
            unknown.push(rest.to_le_bytes()[0]);
        }
        unknown.extend(content);
        same::<Service>(&json, &[&unknown[..], &message].concat());
        same::<Service>(&json, &[&message[..], &unknown].concat());
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
        let _ = decode::<Service>(&bytes);
        let _ = decode::<EndpointSlice>(&bytes);
        let _ = decode::<Node>(&bytes);
        let _ = decode::<ServiceCidr>(&bytes);
    }
}
