//! Errors of health checks.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use crate::model::ObjectName;

/// A health check that is not served, or not on all addresses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealthError {
    /// Listening on a port failed.
    #[error(
        "Service {service}: spec.healthCheckNodePort: cannot listen on {address}{}",
        hint(source)
    )]
    Listen {
        /// The Service.
        service: ObjectName,
        /// The address and port.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another Service uses the port.
    #[error("Service {service}: spec.healthCheckNodePort: Service {by} already uses {port}")]
    PortTaken {
        /// The Service that is not served.
        service: ObjectName,
        /// The port.
        port: NonZeroU16,
        /// The Service that uses it.
        by: ObjectName,
    },
    /// The node's addresses could not be read; new health checks are not served.
    #[error("health checks: cannot list the node's addresses")]
    Addresses {
        /// The kernel's error.
        source: io::Error,
    },
}

impl HealthError {
    /// The Service of the check, if it is one Service's.
    pub fn service(&self) -> Option<&ObjectName> {
        match self {
            Self::Listen { service, .. } | Self::PortTaken { service, .. } => Some(service),
            Self::Addresses { .. } => None,
        }
    }

    /// The kernel's errno, if the kernel returned one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Listen { source, .. } | Self::Addresses { source } => source.raw_os_error(),
            Self::PortTaken { .. } => None,
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (something else on this node has the port)",
        _ => "",
    }
}
