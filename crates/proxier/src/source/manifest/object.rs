//! The objects of manifests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::super::Location;
use super::super::derive::{Pod, Selection};
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
