//! The objects of manifests; undecoded, the value of a YAML document or the text of a JSON document.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::api::{self, Loose};
use super::super::derive::{Pod, Selection};
use super::super::{Diagnostic, Location};
use crate::model::{EndpointSlice, Node, ObjectName, Service};

/// The used kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    Node,
}

impl Kind {
    pub(super) fn parse(kind: &str) -> Option<Self> {
        match kind {
            "Service" => Some(Self::Service),
            "EndpointSlice" => Some(Self::EndpointSlice),
            "Endpoints" => Some(Self::Endpoints),
            "Pod" => Some(Self::Pod),
            "Node" => Some(Self::Node),
            _ => None,
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Endpoints | Self::Pod | Self::Node => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }

    pub(super) fn is_namespaced(self) -> bool {
        self != Self::Node
    }
}

/// The identity of an object: two documents with the same key define the same object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: Kind,
    /// Objects of a kind without namespaces are in [`DEFAULT_NAMESPACE`].
    pub(super) name: ObjectName,
}

/// The namespace of an object without one.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

impl Key {
    /// None if the name is invalid.
    pub(super) fn new(kind: Kind, namespace: &str, name: &str) -> Option<Self> {
        let namespace = Some(namespace).filter(|_| kind.is_namespaced());
        let name = ObjectName::new(namespace.unwrap_or(DEFAULT_NAMESPACE), name).ok()?;
        Some(Self { kind, name })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.is_namespaced() {
            write!(f, "{:?} {}", self.kind, self.name)
        } else {
            write!(f, "{:?} {}", self.kind, self.name.name())
        }
    }
}

/// A checked object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Object {
    Service {
        service: Service,
        /// The selection of its Pods, if it has a selector.
        selection: Option<Selection>,
    },
    EndpointSlice {
        slice: EndpointSlice,
        made_by: Maker,
    },
    Endpoints {
        /// The slices that mirror the Endpoints.
        slices: Vec<EndpointSlice>,
        /// Whether the control plane would mirror them too. Otherwise they are used only if their
        /// Service has no slice.
        mirrored: bool,
    },
    Pod(Pod),
    Node(Node),
}

/// Objects by key.
pub(super) type Objects = BTreeMap<Key, Entry>;

/// An object and its place.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) location: Location,
    pub(super) object: Arc<Object>,
}

/// The creator of an endpoint slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    /// A controller of the control plane, which mirrors Endpoints too.
    ControlPlane,
    Other,
}

/// An undecoded object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    Value(&'a Value),
    Text(&'a str),
}

/// The items of a list.
#[derive(Debug)]
pub(super) enum Items<'a> {
    Values(&'a [Value]),
    Texts(Vec<&'a RawValue>),
}

/// Why a text is not JSON.
#[derive(Debug)]
pub(super) struct Malformed {
    /// The message, without the position.
    pub(super) message: String,
    line: usize,
}

impl Malformed {
    fn new(error: &serde_json::Error) -> Self {
        Self {
            message: message(error),
            line: error.line(),
        }
    }

    /// From 1, within the text.
    pub(super) fn line(&self) -> u64 {
        self.line as u64
    }
}

/// Why a text is not JSON.
pub(super) fn malformed(text: &str) -> Malformed {
    let checked: Result<IgnoredAny, _> = serde_json::from_str(text);
    match checked {
        Err(error) => Malformed::new(&error),
        // Nothing that is split from other texts by an error is valid.
        Ok(_) => Malformed {
            message: "invalid JSON".to_owned(),
            line: 1,
        },
    }
}

/// The message of an error, without the position.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(message) => message.to_owned(),
        None => text,
    }
}

impl<'a> Raw<'a> {
    /// Kind and name, as far as they can be read.
    pub(super) fn header(self) -> api::Header {
        let is_mapping = match self {
            Raw::Value(value) => value.is_object(),
            Raw::Text(text) => text.trim_start().starts_with('{'),
        };
        let header = is_mapping.then(|| self.decode().ok());
        header.flatten().unwrap_or_default()
    }

    /// Decodes the object. The error names the field.
    pub(super) fn decode<T: DeserializeOwned>(self) -> Result<T, Box<Diagnostic>> {
        match self {
            Raw::Value(value) => decode(value),
            Raw::Text(text) => {
                if let Ok(object) = serde_json::from_str(text) {
                    return Ok(object);
                }
                // Slower: with the path of the error, and with the last of duplicate keys.
                let value = serde_json::from_str(text);
                let value: Value =
                    value.map_err(|error| Box::new(Diagnostic::error(message(&error))))?;
                decode(&value)
            }
        }
    }

    /// Kind, `apiVersion` and items. A text that is not a list is read only as far as necessary.
    pub(super) fn shape(self) -> Shape<'a> {
        match self {
            Raw::Value(value) => {
                let text = |key| value.get(key)?.as_str().map(str::to_owned);
                Shape {
                    kind: text("kind"),
                    api_version: text("apiVersion"),
                    items: match value.get("items") {
                        Some(Value::Array(items)) => Ok(Items::Values(items)),
                        None | Some(Value::Null) => Ok(Items::Values(&[])),
                        Some(_) => Err(NotAList),
                    },
                }
            }
            Raw::Text(text) => {
                let mut found = Found::default();
                let mut text = serde_json::Deserializer::from_str(text);
                // An error ends the reading early.
                let _ = text.deserialize_any(ShapeVisitor(&mut found));
                let known = |text: Option<Option<Loose<String>>>| match text.flatten() {
                    Some(Loose::Right(text)) => Some(text),
                    _ => None,
                };
                Shape {
                    kind: known(found.kind),
                    api_version: known(found.api_version),
                    items: found.items.unwrap_or(Ok(Vec::new())).map(Items::Texts),
                }
            }
        }
    }
}

/// What an undecoded object is.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    pub(super) kind: Option<String>,
    pub(super) api_version: Option<String>,
    /// The items of a list, possibly none.
    pub(super) items: Result<Items<'a>, NotAList>,
}

#[derive(Debug)]
pub(super) struct NotAList;

#[derive(Default)]
struct Found<'a> {
    kind: Option<Option<Loose<String>>>,
    api_version: Option<Option<Loose<String>>>,
    items: Option<Result<Vec<&'a RawValue>, NotAList>>,
}

struct ShapeVisitor<'a, 'b>(&'b mut Found<'a>);

impl<'a> Visitor<'a> for ShapeVisitor<'a, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(found) = self;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match &*key {
                "kind" => found.kind = Some(map.next_value()?),
                "apiVersion" => found.api_version = Some(map.next_value()?),
                "items" => found.items = map.next_value::<ListOf<'a>>()?.0,
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
            if found.is_enough() {
                return Err(A::Error::custom("enough"));
            }
        }
        Ok(())
    }
}

impl Found<'_> {
    /// Whether the rest of the object cannot tell more.
    fn is_enough(&self) -> bool {
        let (Some(Some(Loose::Right(kind))), Some(_)) = (&self.kind, &self.api_version) else {
            return false;
        };
        !kind.ends_with("List") || self.items.is_some()
    }
}

/// The texts of a list. None for null.
struct ListOf<'a>(Option<Result<Vec<&'a RawValue>, NotAList>>);

impl<'a> Deserialize<'a> for ListOf<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor).map(Self)
    }
}

struct ListVisitor;

impl<'a> Visitor<'a> for ListVisitor {
    type Value = Option<Result<Vec<&'a RawValue>, NotAList>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Some(Ok(items)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Some(Err(NotAList)))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Some(Err(NotAList)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Some(Err(NotAList)))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Some(Err(NotAList)))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Some(Err(NotAList)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Some(Err(NotAList)))
    }
}

fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, Box<Diagnostic>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        Box::new(Diagnostic::error(error.into_inner()).with_field(field))
    })
}
