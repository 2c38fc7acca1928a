//! Health checks of load balancers.

use std::num::NonZeroU16;

use crate::model::ObjectName;

/// The health check of a Service with external traffic policy `Local`: its load balancer asks each
/// node whether it has endpoints (`spec.healthCheckNodePort`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectName,
    /// HTTP port on the node.
    pub port: NonZeroU16,
    /// Number of the Service's ready endpoints on this node.
    pub local_endpoints: usize,
}

impl HealthCheck {
    /// A health check on a port.
    pub fn new(service: ObjectName, port: NonZeroU16, local_endpoints: usize) -> Self {
        Self {
            service,
            port,
            local_endpoints,
        }
    }
}
