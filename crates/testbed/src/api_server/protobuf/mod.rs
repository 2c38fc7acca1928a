//! Encodes the API's objects in Protocol Buffers, as an API server does.

mod random;
mod schema;

use jiff::Timestamp;
use serde_json::Value;

use self::schema::{Field, Kind, Rule};
use super::Resource;

pub use self::random::random_object;

/// The first bytes of an object.
const MAGIC: &[u8] = b"k8s\0";

/// The message of an object, without what wraps it.
pub fn message(resource: Resource, object: &Value) -> Vec<u8> {
    encode(object, schema::of(resource))
}

/// An object as the body of an answer, and as it is in an event.
pub fn object(resource: Resource, object: &Value) -> Vec<u8> {
    // An error, in place of an object.
    let message = match object.get("kind").and_then(Value::as_str) {
        Some("Status") => encode(object, schema::STATUS),
        _ => message(resource, object),
    };
    wrap(object, &message)
}

/// A list as the body of an answer.
pub(super) fn list(resource: Resource, list: &Value) -> Vec<u8> {
    let mut message = Vec::new();
    let metadata = list.get("metadata").unwrap_or(&Value::Null);
    put(&mut message, 1, &encode(metadata, schema::LIST_META));
    for item in items(list.get("items").unwrap_or(&Value::Null)) {
        put(&mut message, 2, &encode(item, schema::of(resource)));
    }
    wrap(list, &message)
}

/// An event of a watch: its length, and a `WatchEvent`. `line` is the event in JSON.
pub(super) fn frame(resource: Resource, line: &str) -> Vec<u8> {
    let event: Value = serde_json::from_str(line).unwrap_or_default();
    let field = |name| event.get(name).unwrap_or(&Value::Null);
    let (mut extension, mut message) = (Vec::new(), Vec::new());
    put(&mut extension, 1, &object(resource, field("object")));
    put(&mut message, 1, text(field("type")).as_bytes());
    put(&mut message, 2, &extension);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &message].concat()
}

/// A `runtime.Unknown` around the message of an object.
fn wrap(object: &Value, message: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    put(&mut bytes, 1, &encode(object, schema::TYPE_META));
    put(&mut bytes, 2, message);
    // The encoding and the type of the content.
    put(&mut bytes, 3, &[]);
    put(&mut bytes, 4, &[]);
    bytes
}

/// Bytes up to the middle of the first object of a list, which is longer than `length`.
pub(super) fn beginning_of_list(length: usize) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for rest in [2 * length + 64, length + 32] {
        begin(&mut bytes, 2, rest);
    }
    bytes
}

/// Bytes up to the middle of an event, which is longer than `length`.
pub(super) fn beginning_of_event(length: usize) -> Vec<u8> {
    let length = u32::try_from(length + 64).unwrap_or(u32::MAX);
    let mut bytes = length.to_be_bytes().to_vec();
    put(&mut bytes, 1, b"MODIFIED");
    bytes
}

/// The items of a list.
fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn encode(object: &Value, fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        let value = object.get(field.name).unwrap_or(&Value::Null);
        match (field.rule, field.kind) {
            (Rule::Optional, _) if value.is_null() => {}
            // A value of a wrong type in JSON is one in the message too.
            (Rule::Repeated, _) if value.is_string() => put_number(&mut bytes, field.number, 1),
            (Rule::Repeated, Kind::Map) => put_map(&mut bytes, field.number, value),
            (Rule::Repeated, kind) => {
                for item in items(value) {
                    put_value(&mut bytes, field.number, kind, item);
                }
            }
            (_, kind) => put_value(&mut bytes, field.number, kind, value),
        }
    }
    bytes
}

fn put_value(bytes: &mut Vec<u8>, number: u32, kind: Kind, value: &Value) {
    match kind {
        Kind::Text | Kind::Map => put(bytes, number, text(value).as_bytes()),
        Kind::Number => put_number(bytes, number, value.as_i64().unwrap_or_default()),
        Kind::Switch => put_number(bytes, number, value.as_bool().unwrap_or_default().into()),
        Kind::Time => {
            let mut time = Vec::new();
            if let Ok(parsed) = text(value).parse::<Timestamp>() {
                put_number(&mut time, 1, parsed.as_second());
                put_number(&mut time, 2, 0);
            }
            put(bytes, number, &time);
        }
        Kind::IntOrString => {
            let mut either = Vec::new();
            put_number(&mut either, 1, value.is_string().into());
            put_number(&mut either, 2, value.as_i64().unwrap_or_default());
            put(&mut either, 3, text(value).as_bytes());
            put(bytes, number, &either);
        }
        Kind::Json => {
            let mut raw = Vec::new();
            put(&mut raw, 1, value.to_string().as_bytes());
            put(bytes, number, &raw);
        }
        Kind::Message(fields) => put(bytes, number, &encode(value, fields)),
    }
}

fn put_map(bytes: &mut Vec<u8>, number: u32, map: &Value) {
    for (key, value) in map.as_object().into_iter().flatten() {
        let mut entry = Vec::new();
        put(&mut entry, 1, key.as_bytes());
        put(&mut entry, 2, text(value).as_bytes());
        put(bytes, number, &entry);
    }
}

/// A field with content.
fn put(bytes: &mut Vec<u8>, number: u32, content: &[u8]) {
    begin(bytes, number, content.len());
    bytes.extend_from_slice(content);
}

/// The beginning of a field whose content has this length.
fn begin(bytes: &mut Vec<u8>, number: u32, length: usize) {
    put_varint(bytes, u64::from(number) << 3 | 2);
    put_varint(bytes, length.try_into().unwrap_or(u64::MAX));
}

fn put_number(bytes: &mut Vec<u8>, number: u32, value: i64) {
    put_varint(bytes, u64::from(number) << 3);
    put_varint(bytes, value.cast_unsigned());
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

/// The body of an answer that is not what its header says.
pub(super) fn garbage() -> Vec<u8> {
    [MAGIC, &[0xff; 32]].concat()
}

/// An event that cannot be decoded.
pub(super) fn garbage_event() -> Vec<u8> {
    [&32_u32.to_be_bytes()[..], &[0xff; 32]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are those of a real server, for the kinds whose fields are all known.
    #[test]
    fn objects_are_encoded_as_by_kubernetes() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/kubernetes");
        for (resource, name) in [
            (Resource::Services, "core.v1.Service"),
            (
                Resource::EndpointSlices,
                "discovery.k8s.io.v1.EndpointSlice",
            ),
            (Resource::ServiceCidrs, "networking.k8s.io.v1.ServiceCIDR"),
        ] {
            let json = std::fs::read(format!("{directory}/{name}.json")).unwrap();
            let expected = std::fs::read(format!("{directory}/{name}.pb")).unwrap();
            let json = serde_json::from_slice(&json).unwrap();
            assert_eq!(object(resource, &json), expected, "{name}");
        }
    }
}
