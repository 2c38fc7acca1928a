//! Health checks that cannot be answered.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use crate::model::ObjectName;

/// A health check that is not answered, or not everywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealthError {
    /// A port cannot be listened on.
    #[error(
        "Service {service}: spec.healthCheckNodePort: cannot listen on {address}{}",
        hint(source)
    )]
    Listen {
        /// The Service.
        service: ObjectName,
        /// Where it was to be answered.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another Service has the port.
    #[error("Service {service}: spec.healthCheckNodePort: {port} is that of Service {by} already")]
    PortTaken {
        /// The Service that goes without.
        service: ObjectName,
        /// The port.
        port: NonZeroU16,
        /// The Service that has it.
        by: ObjectName,
    },
    /// The addresses to listen on are not known; new health checks are not answered.
    #[error("health checks: cannot list the node's addresses")]
    Addresses {
        /// The kernel's error.
        source: io::Error,
    },
}

impl HealthError {
    /// The Service whose check it is, if it is that of one.
    pub fn service(&self) -> Option<&ObjectName> {
        match self {
            Self::Listen { service, .. } | Self::PortTaken { service, .. } => Some(service),
            Self::Addresses { .. } => None,
        }
    }

    /// The kernel's errno, if it is the kernel that refused.
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
