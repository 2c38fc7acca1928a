//! The objects that manifests may hold.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::super::Location;
use super::super::derive::{Pod, Selection};
use crate::model::{EndpointSlice, Node, ObjectName, Service};

/// The kinds that are used.
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

/// What makes two documents definitions of one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: Kind,
    /// Of a kind without namespaces it is in [`DEFAULT_NAMESPACE`].
    pub(super) name: ObjectName,
}

/// The namespace of an object that names none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

impl Key {
    /// None if there can be no object of that name.
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
        /// How its slices follow from Pods, if it has a selector.
        selection: Option<Selection>,
    },
    EndpointSlice {
        slice: EndpointSlice,
        made_by: Maker,
    },
    Endpoints {
        /// The slices that the Endpoints are mirrored into.
        slices: Vec<EndpointSlice>,
        /// Whether the control plane would mirror them too. The others serve where their Service
        /// has no slice at all.
        mirrored: bool,
    },
    Pod(Pod),
    Node(Node),
}

/// Objects by what makes them one.
pub(super) type Objects = BTreeMap<Key, Entry>;

/// An object and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) location: Location,
    pub(super) object: Arc<Object>,
}

/// Who made an endpoint slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    /// A controller of the control plane, which mirrors Endpoints too.
    ControlPlane,
    Other,
}
