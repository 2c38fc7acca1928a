//! The parts of the Kubernetes API objects that a service proxy needs, checked and compact.
//!
//! A source (manifests, an API server) converts what it reads into these types. Names and ports are
//! valid by construction. An address or protocol that cannot be served is left out of the desired
//! state with a [`Problem`](crate::desired::Problem) of its Service, whatever the source. Unused
//! fields are not kept: at 50,000 Services every byte counts.

mod endpoint_slice;
mod name;
pub mod notice;
mod service;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

#[cfg(feature = "dns")]
pub(crate) use endpoint_slice::names_of;
pub use endpoint_slice::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Hints, Timestamp,
};
pub use ipvs::{Family, Protocol};
pub use name::{InvalidName, ObjectName, PortName, Uid};
#[cfg(feature = "k8s")]
pub(crate) use name::{check_label, check_subdomain};
pub use service::{
    Forwarding, ProxyProtocol, Service, ServicePort, SessionAffinity, TrafficPolicy, Unproxied,
    Unusable,
};

/// The kind of an address that other machines cannot reach; `None` for any other address.
///
/// The API server's `ValidateNonSpecialIP` (kubernetes `pkg/apis/core/validation`) differs in two
/// cases: it rejects only link-local multicast, and it accepts IPv4's broadcast address. IPVS
/// returns EINVAL for both.
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
    Some(match address {
        a if a.is_unspecified() => "the unspecified address",
        a if a.is_loopback() => "a loopback address (127.0.0.0/8, ::1)",
        IpAddr::V4(a) if a.is_link_local() => "a link-local address (169.254.0.0/16)",
        IpAddr::V6(a) if a.is_unicast_link_local() => "a link-local address (fe80::/10)",
        a if a.is_multicast() => "a multicast address (224.0.0.0/4, ff00::/8)",
        IpAddr::V4(a) if a.is_broadcast() => "the broadcast address",
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => "an IPv4-mapped address (::ffff:0:0/96)",
        _ => return None,
    })
}

/// The fields of its own Node that a service proxy needs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `status.addresses`: per family, the first internal address, or else the first external one.
    /// The first element is the node's primary address.
    pub addresses: Box<[IpAddr]>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Box<[IpNet]>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Whether load balancers may send to the node: it is not being deleted, and does not have the
    /// taint `ToBeDeletedByClusterAutoscaler`.
    pub eligible: bool,
}

impl Node {
    /// A node with nothing but a name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            addresses: Box::default(),
            pod_cidrs: Box::default(),
            zone: None,
            eligible: true,
        }
    }
}
