//! A change to the kernel's table, as a value.

use std::fmt;

use crate::{
    Invalid, Object, Operation, RealServer, RealServerKey, SyncDaemon, SyncRole, Timeouts,
    VirtualServer, VirtualServerKey,
};

/// A change to the kernel's table. [`Client::apply`](crate::Client::apply) carries out any
/// number of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Change {
    /// Add a virtual server; fails if it exists.
    AddVirtualServer(VirtualServer),
    /// Set scheduler, flags, persistence and engine of a virtual server; fails if it is not
    /// there. Changing the scheduler waits for an RCU period, some 10 ms.
    UpdateVirtualServer(VirtualServer),
    /// Delete a virtual server with its real servers.
    DeleteVirtualServer(VirtualServerKey),
    /// Add a real server; fails if it exists.
    AddRealServer {
        /// The virtual server it is for.
        virtual_server: VirtualServerKey,
        /// The real server.
        real_server: RealServer,
    },
    /// Set forwarding, weight and thresholds of a real server; fails if it is not there.
    UpdateRealServer {
        /// The virtual server it is of.
        virtual_server: VirtualServerKey,
        /// The real server.
        real_server: RealServer,
    },
    /// Delete a real server. Its connections are cut unless it is added again soon.
    DeleteRealServer {
        /// The virtual server it is of.
        virtual_server: VirtualServerKey,
        /// The real server.
        real_server: RealServerKey,
    },
    /// Set the statistics of a virtual server and of its real servers to zero, or all there are.
    ZeroStatistics(Option<VirtualServerKey>),
    /// Delete every virtual server of the network namespace, whoever made it.
    Flush,
    /// Set connection timeouts.
    SetTimeouts(Timeouts),
    /// Start a sync daemon.
    StartSyncDaemon(SyncDaemon),
    /// Stop a sync daemon.
    StopSyncDaemon(SyncRole),
}

impl Change {
    /// What it does.
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

    /// What it does it to.
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

    /// Refuses what the kernel would take without complaint and then not carry out.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::AddVirtualServer(server) | Self::UpdateVirtualServer(server) => server.check(),
            Self::SetTimeouts(timeouts) => timeouts.check(),
            Self::StartSyncDaemon(daemon) => daemon.check(),
            _ => Ok(()),
        }
    }
}

/// `add real server 10.244.1.7:8080 of tcp 10.96.0.1:80`.
impl Change {
    /// The virtual server that is changed, or whose real server is; `None` for what is not about
    /// one.
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

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.operation(), self.object())
    }
}
