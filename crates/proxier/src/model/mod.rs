//! The parts of the Kubernetes API objects that a service proxy needs, checked and compact.
//!
//! A source (manifests, an API server) converts what it reads into these types. It rejects what the
//! API server would reject, so later stages meet no impossible name, port or address. Unused fields
//! are not kept: at 50,000 Services every byte counts.

mod endpoint_slice;
mod name;
mod node;
mod service;
mod time;
mod uid;

pub use endpoint_slice::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Hints};
pub use ipvs::{Family, Protocol};
#[cfg(feature = "k8s")]
pub(crate) use name::check_subdomain;
pub use name::{InvalidName, ObjectName, PortName};
pub use node::Node;
pub use service::{Service, ServicePort, SessionAffinity, TrafficPolicy, Unusable};
pub use time::Timestamp;
pub use uid::Uid;
