//! Flows in connection tracking.

use std::fmt;
use std::net::IpAddr;

use crate::desired::FrontendKey;

/// Flows to an address, to delete from connection tracking: those that a backend answered, or all
/// of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Flows {
    /// The destination that the client used. A node port stands for any address of the node.
    pub to: FrontendKey,
    /// The backend's address.
    pub answered_by: Option<IpAddr>,
}

impl Flows {
    /// All flows to an address.
    pub const fn to(to: FrontendKey) -> Self {
        Self {
            to,
            answered_by: None,
        }
    }

    /// Limits them to flows that a backend answered.
    pub const fn answered_by(self, backend: IpAddr) -> Self {
        Self {
            answered_by: Some(backend),
            ..self
        }
    }
}

impl fmt::Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)?;
        match self.answered_by {
            Some(backend) => write!(f, " answered by {backend}"),
            None => Ok(()),
        }
    }
}
