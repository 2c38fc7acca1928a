//! What load balancers ask a node.

use std::num::NonZeroU16;

use crate::model::ObjectName;

/// A Service with external traffic policy `Local` whose load balancer asks each node whether it
/// has endpoints (`spec.healthCheckNodePort`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectName,
    /// Port of the node to be asked at, over HTTP.
    pub port: NonZeroU16,
    /// How many ready endpoints of the Service this node has.
    pub local_endpoints: usize,
}

impl HealthCheck {
    /// A health check at a port.
    pub fn new(service: ObjectName, port: NonZeroU16, local_endpoints: usize) -> Self {
        Self {
            service,
            port,
            local_endpoints,
        }
    }
}
