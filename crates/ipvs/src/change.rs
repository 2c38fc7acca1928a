//! A change to the kernel's table, as a value.

use std::fmt;

use crate::{
    Invalid, Object, Operation, RealServer, RealServerKey, SyncDaemon, SyncRole, Timeouts,
    VirtualServer, VirtualServerKey,
};

/// A change to the kernel's table, for [`Client::apply`](crate::Client::apply).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Change {
    /// Add a virtual server. Fails if it exists.
    AddVirtualServer(VirtualServer),
    /// Set scheduler, flags, persistence, engine and tag of a virtual server. Fails if it does not
    /// exist. A new scheduler waits for an RCU grace period, about 10 ms (`ip_vs_edit_service`).
    UpdateVirtualServer(VirtualServer),
    /// Delete a virtual server and its real servers.
    DeleteVirtualServer(VirtualServerKey),
    /// Add a real server. Fails if it exists.
    AddRealServer {
        /// Its virtual server.
        virtual_server: VirtualServerKey,
        /// The real server.
        real_server: RealServer,
    },
    /// Set forwarding, weight and thresholds of a real server. Fails if it does not exist.
    UpdateRealServer {
        /// Its virtual server.
        virtual_server: VirtualServerKey,
        /// The real server.
        real_server: RealServer,
    },
    /// Delete a real server. Its connections are cut, unless it is added again within two minutes.
    DeleteRealServer {
        /// Its virtual server.
        virtual_server: VirtualServerKey,
        /// The real server.
        real_server: RealServerKey,
    },
    /// Zero the statistics of a virtual server and its real servers; `None`: of all.
    ZeroStatistics(Option<VirtualServerKey>),
    /// Delete every virtual server of the network namespace, including those of other programs.
    Flush,
    /// Set connection timeouts.
    SetTimeouts(Timeouts),
    /// Start a sync daemon.
    StartSyncDaemon(SyncDaemon),
    /// Stop a sync daemon.
    StopSyncDaemon(SyncRole),
}

impl Change {
    /// The operation.
    pub const fn operation(&self) -> Operation {
        match self {
            Self::AddVirtualServer(_) => Operation::AddVirtualServer,
            Self::UpdateVirtualServer(_) => Operation::UpdateVirtualServer,
            Self::DeleteVirtualServer(_) => Operation::DeleteVirtualServer,
            Self::AddRealServer { .. } => Operation::AddRealServer,
            Self::UpdateRealServer { .. } => Operation::UpdateRealServer,
            Self::DeleteRealServer { .. } => Operation::DeleteRealServer,
            Self::ZeroStatistics(_) => Operation::ZeroStatistics,
            Self::Flush => Operation::Flush,
            Self::SetTimeouts(_) => Operation::SetTimeouts,
            Self::StartSyncDaemon(_) => Operation::StartSyncDaemon,
            Self::StopSyncDaemon(_) => Operation::StopSyncDaemon,
        }
    }

    /// The object of the operation.
    pub const fn object(&self) -> Object {
        match *self {
            Self::AddVirtualServer(ref server) | Self::UpdateVirtualServer(ref server) => {
                Object::VirtualServer(server.key)
            }
            Self::DeleteVirtualServer(key) => Object::VirtualServer(key),
            Self::AddRealServer {
                virtual_server,
                ref real_server,
            }
            | Self::UpdateRealServer {
                virtual_server,
                ref real_server,
            } => Object::RealServer {
                virtual_server,
                real_server: real_server.key,
            },
            Self::DeleteRealServer {
                virtual_server,
                real_server,
            } => Object::RealServer {
                virtual_server,
                real_server,
            },
            Self::ZeroStatistics(Some(key)) => Object::VirtualServer(key),
            Self::ZeroStatistics(None) | Self::Flush | Self::SetTimeouts(_) => Object::Table,
            Self::StartSyncDaemon(ref daemon) => Object::SyncDaemon(daemon.role),
            Self::StopSyncDaemon(role) => Object::SyncDaemon(role),
        }
    }

    /// Rejects what the kernel would accept but not do.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::AddVirtualServer(server) | Self::UpdateVirtualServer(server) => server.check(),
            Self::SetTimeouts(timeouts) => timeouts.check(),
            Self::StartSyncDaemon(daemon) => daemon.check(),
            _ => Ok(()),
        }
    }
}

impl Change {
    /// The virtual server that the change is for, also for a change to a real server. `None` if it
    /// is for the whole table or a sync daemon.
    pub const fn virtual_server(&self) -> Option<VirtualServerKey> {
        match self {
            Self::AddVirtualServer(server) | Self::UpdateVirtualServer(server) => Some(server.key),
            Self::DeleteVirtualServer(key) => Some(*key),
            Self::AddRealServer { virtual_server, .. }
            | Self::UpdateRealServer { virtual_server, .. }
            | Self::DeleteRealServer { virtual_server, .. } => Some(*virtual_server),
            Self::ZeroStatistics(key) => *key,
            _ => None,
        }
    }
}

/// `add real server 10.244.1.7:8080 of tcp 10.96.0.1:80`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.operation(), self.object())
    }
}
