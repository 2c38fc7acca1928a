//! The objects of manifests; undecoded, the value of a YAML document or the text of a JSON document.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::derive::{Pod, Selection};
use super::super::{Diagnostic, Location, api};
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
    /// Checks that a text is JSON.
    pub(super) fn check(self) -> Result<(), Malformed> {
        match self {
            Raw::Value(_) => Ok(()),
            Raw::Text(text) => {
                let checked: Result<IgnoredAny, _> = serde_json::from_str(text);
                checked.map(drop).map_err(|error| Malformed::new(&error))
            }
        }
    }

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

    /// The items of a list, possibly none. Err if they are not a list.
    pub(super) fn items(self) -> Result<Items<'a>, NotAList> {
        match self {
            Raw::Value(value) => match value.get("items") {
                Some(Value::Array(items)) => Ok(Items::Values(items)),
                None | Some(Value::Null) => Ok(Items::Values(&[])),
                Some(_) => Err(NotAList),
            },
            Raw::Text(text) => {
                let list: Result<List<'_>, _> = serde_json::from_str(text);
                let items = list.map_err(|_| NotAList)?.items;
                Ok(Items::Texts(items.unwrap_or_default()))
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct NotAList;

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, Box<Diagnostic>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        Box::new(Diagnostic::error(error.into_inner()).with_field(field))
    })
}
