//! `v1/Node`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// What a service proxy needs to know of the node it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `status.addresses`: of each family the first internal one or, where there is none, the first
    /// external one. The first of the two is the node's primary address.
    pub addresses: Box<[IpAddr]>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Box<[IpNet]>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Whether load balancers may send to it: it is neither being deleted nor about to be, as the
    /// taint `ToBeDeletedByClusterAutoscaler` says.
    pub eligible: bool,
}

impl Node {
    /// A node of which nothing but the name is known.
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
