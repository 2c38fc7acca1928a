//! The objects that manifests may hold.

use std::fmt;

use crate::model::{EndpointSlice, ObjectName, Service};

/// The kinds that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    EndpointSlice,
    Endpoints,
}

impl Kind {
    pub(super) fn parse(kind: &str) -> Option<Self> {
        match kind {
            "Service" => Some(Self::Service),
            "EndpointSlice" => Some(Self::EndpointSlice),
            "Endpoints" => Some(Self::Endpoints),
            _ => None,
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Endpoints => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }
}

/// What makes two documents definitions of one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) name: ObjectName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// A checked object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Object {
    Service(Service),
    EndpointSlice {
        slice: EndpointSlice,
        made_by: Maker,
    },
    /// The slices that the Endpoints are mirrored into.
    Endpoints(Vec<EndpointSlice>),
}

/// Who made an endpoint slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    /// A controller of the control plane, which mirrors Endpoints too.
    ControlPlane,
    Other,
}
