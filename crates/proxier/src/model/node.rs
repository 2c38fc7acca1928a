//! `v1/Node`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

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
