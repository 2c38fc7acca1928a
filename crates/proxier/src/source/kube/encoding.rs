//! What a server sends, decoded from either encoding. Pure.

use std::collections::BTreeMap;

use http::HeaderValue;
use memchr::memchr;
use prost::Message;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::super::api::{self, Loose};
use super::message::{self, Malformed};

/// The encoding in which to request objects.
///
/// A server that does not have it may answer in the other one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encoding {
    /// Protocol Buffers, as kube-proxy requests them: about half as long as JSON, and cheaper for
    /// the server.
    #[default]
    Protobuf,
    /// JSON.
    Json,
}

impl Encoding {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
            Self::Json => "application/json",
        }
    }

    /// The encoding with a media type, whose parameters are ignored: watches in Protocol Buffers have
    /// `stream=watch`. `None` if svcproxy has no such encoding.
    pub fn of_media_type(text: &str) -> Option<Self> {
        let media_type = text.split(';').next()?.trim();
        let mut known = [Self::Protobuf, Self::Json].into_iter();
        known.find(|known| media_type.eq_ignore_ascii_case(known.media_type()))
    }

    /// The header `Accept` of a request. JSON is always accepted.
    pub(super) fn accept(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Protobuf => "application/vnd.kubernetes.protobuf, application/json",
            Self::Json => "application/json",
        })
    }

    /// The encoding of an answer with this header `Content-Type`; JSON if it is another one, which
    /// its decoding tells.
    pub(super) fn of(content_type: Option<&HeaderValue>) -> Self {
        let text = content_type.and_then(|value| value.to_str().ok());
        text.and_then(Self::of_media_type).unwrap_or(Self::Json)
    }

    /// Decodes an object of a kind.
    pub(super) fn object<T: api::Object>(self, object: &[u8]) -> Result<T, DecodeError> {
        match self {
            Self::Json => Ok(serde_json::from_slice(object)?),
            Self::Protobuf => Ok(T::Message::decode(object)?.into()),
        }
    }

    /// Decodes the common part of all objects.
    pub(super) fn metadata(self, object: &[u8]) -> Result<Metadata, DecodeError> {
        let AnyObject { metadata } = self.decode(object)?;
        let metadata = metadata.ok_or(Malformed("an object has no metadata"))?;
        Ok(metadata.without_empty_fields())
    }

    /// The metadata of an object that is too long, from what was kept of it.
    pub(super) fn metadata_of_long(self, kept: &[u8]) -> Result<Metadata, DecodeError> {
        match self {
            Self::Json => self.metadata(kept),
            Self::Protobuf => Metadata::beginning(kept),
        }
    }

    /// Decodes a message that has the same fields in both encodings.
    pub(super) fn decode<T>(self, bytes: &[u8]) -> Result<T, DecodeError>
    where
        T: DeserializeOwned + Message + Default,
    {
        match self {
            Self::Json => Ok(serde_json::from_slice(bytes)?),
            Self::Protobuf => Ok(T::decode(bytes)?),
        }
    }

    /// Decodes an object that is the whole answer.
    pub(super) fn answer<T>(self, bytes: &[u8]) -> Result<T, DecodeError>
    where
        T: DeserializeOwned + Message + Default,
    {
        match self {
            Self::Json => self.decode(bytes),
            Self::Protobuf => self.decode(message::object(bytes)?),
        }
    }

    /// Separates an event of a watch into its type and its object.
    pub(super) fn event(self, event: &[u8]) -> Result<Event<'_>, DecodeError> {
        match self {
            Self::Json => {
                let Frame { kind, object } = serde_json::from_slice(event)?;
                let object = object.get().as_bytes();
                Ok(Event { kind, object })
            }
            Self::Protobuf => {
                let kind = message::content(event, 1)?.unwrap_or_default();
                let extension = message::content(event, 2)?.unwrap_or_default();
                let object = message::content(extension, 1)?.unwrap_or_default();
                Ok(Event {
                    kind: text(kind)?,
                    object: message::object(object)?,
                })
            }
        }
    }

    /// The type of an event that is too long and the metadata of its object, from what was kept of
    /// it.
    pub(super) fn long_event(self, kept: &[u8]) -> Result<(String, Metadata), DecodeError> {
        match self {
            Self::Json => {
                let LongFrame { kind, object } = serde_json::from_slice(kept)?;
                Ok((kind, object.metadata.unwrap_or_default()))
            }
            Self::Protobuf => {
                let kind = message::content(kept, 1)?.unwrap_or_default();
                let extension = message::beginning(kept, 2)?.unwrap_or_default().0;
                let wrapped = message::beginning(extension, 1)?.unwrap_or_default().0;
                let unknown = message::unknown(wrapped)?;
                let object = message::beginning(unknown, 2)?.unwrap_or_default().0;
                Ok((text(kind)?.to_owned(), Metadata::beginning(object)?))
            }
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(bytes).map_err(|_| Malformed("a string is not UTF-8"))
}

/// Why an answer cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Protobuf(#[from] prost::DecodeError),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// An event of a watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event<'a> {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    pub(super) kind: &'a str,
    pub(super) object: &'a [u8],
}

impl<'a> Event<'a> {
    /// Splits a line of a watch as API servers write it. Only the object's own decoding tells whether
    /// that is right, but saves parsing the object twice. `None` if the line looks otherwise.
    pub(super) fn of_plain_line(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_prefix(br#"{"type":""#)?;
        let (kind, rest) = rest.split_at_checked(memchr(b'"', rest)?)?;
        let object = rest.strip_prefix(br#"","object":"#)?;
        let object = object.trim_ascii_end().strip_suffix(b"}")?;
        let kind = str::from_utf8(kind).ok()?;
        Some(Self { kind, object })
    }
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The outline of a line of a watch that is too long.
#[derive(Debug, Deserialize)]
struct LongFrame {
    #[serde(rename = "type")]
    kind: String,
    object: AnyObject,
}

/// The common part of all objects; the only part that is read of an object that is too long.
#[derive(Deserialize, Message)]
#[serde(default)]
struct AnyObject {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
}

/// The parts of an object's `metadata` that are read before the conversion.
#[derive(Deserialize, Message)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(super) namespace: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub(super) resource_version: Option<String>,
}

impl Metadata {
    /// That of a decoded object. `None` if it lacks the name or the version, or if one is not text.
    pub(super) fn of(object: api::Metadata) -> Option<Self> {
        let resource_version = match object.resource_version? {
            Loose::Right(version) => Some(version),
            Loose::Wrong(_) => return None,
        };
        Some(Self {
            name: Some(object.name?),
            namespace: object.namespace,
            resource_version,
        })
    }

    /// Reads the metadata of an object of which only the beginning was kept. Fields come in the order
    /// of their numbers, so those of interest are before the long ones.
    fn beginning(object: &[u8]) -> Result<Self, DecodeError> {
        let metadata = message::beginning(object, 1)?.unwrap_or_default().0;
        // The rest of the metadata may be missing.
        let field = |number| {
            let content = message::content(metadata, number).ok()??;
            str::from_utf8(content).ok().map(str::to_owned)
        };
        let metadata = Self {
            name: field(1),
            namespace: field(3),
            resource_version: field(6),
        };
        Ok(metadata.without_empty_fields())
    }

    /// An empty field is an absent one.
    fn without_empty_fields(self) -> Self {
        let filled = |field: Option<String>| field.filter(|text| !text.is_empty());
        Self {
            name: filled(self.name),
            namespace: filled(self.namespace),
            resource_version: filled(self.resource_version),
        }
    }
}

/// A page of a list, without its objects.
#[derive(Deserialize, Message)]
struct List {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMetadata>,
}

#[derive(Deserialize, Message)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMetadata {
    #[prost(string, tag = "2")]
    pub(super) resource_version: String,
    #[serde(rename = "continue")]
    #[prost(string, optional, tag = "3")]
    pub(super) next: Option<String>,
}

impl ListMetadata {
    pub(super) fn of_list(encoding: Encoding, list: &[u8]) -> Result<Self, DecodeError> {
        let List { metadata } = encoding.decode(list)?;
        Ok(metadata.ok_or(Malformed("a list has no metadata"))?)
    }
}

/// The object of an event that only tells a version.
#[derive(Deserialize, Message)]
pub(super) struct Bookmark {
    #[prost(message, optional, tag = "1")]
    metadata: Option<BookmarkMetadata>,
}

#[derive(Deserialize, Message)]
#[serde(rename_all = "camelCase")]
pub(super) struct BookmarkMetadata {
    #[prost(string, tag = "6")]
    pub(super) resource_version: String,
    #[serde(default)]
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
}

impl Bookmark {
    pub(super) fn metadata(self) -> Result<BookmarkMetadata, DecodeError> {
        let metadata = self.metadata.filter(|m| !m.resource_version.is_empty());
        Ok(metadata.ok_or(Malformed("a bookmark has no version"))?)
    }
}

impl BookmarkMetadata {
    /// Whether this bookmark ends the initial list.
    pub(super) fn ends_list(&self) -> bool {
        let mark = self.annotations.get("k8s.io/initial-events-end");
        mark.is_some_and(|mark| mark == "true")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_as_api_servers_write_it_is_split_without_parsing() {
        let split = |line: &'static str| Event::of_plain_line(line.as_bytes());
        let event = |object| Event {
            kind: "ADDED",
            object,
        };
        let plain = Some(event(&br#"{"a":"}"}"#[..]));
        assert_eq!(
            split("{\"type\":\"ADDED\",\"object\":{\"a\":\"}\"}}\n"),
            plain
        );
        assert_eq!(
            split("{\"type\":\"ADDED\",\"object\":{\"a\":\"}\"}}\r\n"),
            plain
        );
        for other in [
            "",
            "\n",
            "{\"type\":\"ADDED",
            "{\"object\":{},\"type\":\"ADDED\"}",
            "{ \"type\":\"ADDED\",\"object\":{}}",
        ] {
            assert_eq!(split(other), None, "{other}");
        }
        // Its decoding fails.
        let cut = split("{\"type\":\"ADDED\",\"object\":{}");
        assert_eq!(cut, Some(event(&b"{"[..])));
    }
}
