//! The parts of the Kubernetes API objects that a service proxy needs, checked and compact.
//!
//! A source (manifests, an API server) converts what it reads into these types. Names and ports are
//! valid by construction. An address or protocol that cannot be served is left out of the desired
//! state with a [`Problem`](crate::desired::Problem) of its Service, whatever the source. Unused
//! fields are not kept: at 50,000 Services every byte counts.

mod address;
mod endpoint_slice;
mod name;
mod node;
pub mod notice;
mod service;
mod time;
mod uid;

pub(crate) use address::special;
pub use endpoint_slice::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Hints};
pub use ipvs::{Family, Protocol};
#[cfg(feature = "k8s")]
pub(crate) use name::check_subdomain;
pub use name::{InvalidName, ObjectName, PortName};
pub use node::Node;
pub use service::{Forwarding, Service, ServicePort, SessionAffinity, TrafficPolicy, Unusable};
pub use time::Timestamp;
pub use uid::Uid;
