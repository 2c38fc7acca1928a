//! The encodings of answers.

use serde_json::Value;

use super::{Resource, protobuf};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PROTOBUF_WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// The text that replaces an event when a connection is closed in its middle.
const HALF_AN_EVENT: &str = r#"{"type":"MODIFIED","object":{"metadata":{"name":"ha"#;

/// The encoding of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Format {
    Json,
    /// With the messages of this kind.
    Protobuf(Resource),
}

impl Format {
    /// Whether a header `Accept` allows Protocol Buffers.
    pub(super) fn is_protobuf_accepted(accept: &str) -> bool {
        let mut types = accept.split(',').map(str::trim);
        types.any(|media_type| media_type == PROTOBUF)
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Protobuf(_) => PROTOBUF,
        }
    }

    pub(super) fn content_type_of_watch(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Protobuf(_) => PROTOBUF_WATCH,
        }
    }

    pub(super) fn object(self, object: &Value) -> Vec<u8> {
        match self {
            Self::Json => object.to_string().into_bytes(),
            Self::Protobuf(resource) => protobuf::object(resource, object),
        }
    }

    pub(super) fn list(self, list: &Value) -> Vec<u8> {
        match self {
            Self::Json => list.to_string().into_bytes(),
            Self::Protobuf(resource) => protobuf::list(resource, list),
        }
    }

    /// An event of a watch, from its line in JSON.
    pub(super) fn event(self, line: &str) -> Vec<u8> {
        match self {
            Self::Json => line.as_bytes().to_vec(),
            Self::Protobuf(resource) => protobuf::frame(resource, line),
        }
    }

    /// A list that cannot be decoded.
    pub(super) fn garbage(self) -> Vec<u8> {
        match self {
            Self::Json => b"{\"items\": [{]".to_vec(),
            Self::Protobuf(_) => protobuf::garbage(),
        }
    }

    /// An event that cannot be decoded.
    pub(super) fn garbage_event(self) -> Vec<u8> {
        match self {
            Self::Json => b"{\"type\":\"ADDED\",\"obj\n".to_vec(),
            Self::Protobuf(_) => protobuf::garbage_event(),
        }
    }

    /// The beginning of a list, up to the middle of an object of at least this number of bytes.
    pub(super) fn beginning_of_list(self, length: usize) -> Vec<u8> {
        match self {
            Self::Json => b"{\"items\":[{\"metadata\":{\"a\":\"".to_vec(),
            Self::Protobuf(_) => protobuf::beginning_of_list(length),
        }
    }

    /// The beginning of an event of at least this number of bytes.
    pub(super) fn beginning_of_event(self, length: usize) -> Vec<u8> {
        match self {
            Self::Json => HALF_AN_EVENT.as_bytes().to_vec(),
            Self::Protobuf(_) => protobuf::beginning_of_event(length),
        }
    }
}
