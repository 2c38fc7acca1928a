//! What an operator must know.
//!
//! A [`Notice`] is something that is not as it was asked for, or has changed for all of the node. It
//! is worth a line of the log, and where there is an API server an Event of the object it is about.

use std::fmt;

use crate::model::ObjectName;

/// Something an operator must know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Notice {
    /// What it is about.
    pub about: Subject,
    /// Of which kind it is.
    pub reason: Reason,
    /// What is the matter, and what can be done. It may quote what others wrote: whoever shows it
    /// escapes it.
    pub message: String,
}

/// What a [`Notice`] is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// This node.
    Node,
    /// A Service.
    Service(ObjectName),
}

/// Of which kind a [`Notice`] is: the `reason` of a Kubernetes Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The data plane that was asked for cannot work here, and another serves.
    ModeFallback,
    /// IPVS, which was asked for and was not there, could serve now.
    IpvsAvailable,
    /// What the Node or the ServiceCIDRs say cannot work; the settings stay as they were.
    NodeRefused,
    /// An address of a Service is not served.
    AddressRefused,
    /// An address and port of a Service belong to another Service.
    AddressConflict,
    /// An annotation asks for a scheduler, or for flags of one, that there are not.
    UnknownScheduler,
    /// A scheduler that a Service asks for is not followed.
    SchedulerIgnored,
    /// There was a virtual server of someone else's at a Service's address and port.
    ForeignVirtualServer,
    /// No packet mark is left for a virtual server.
    NoMarkLeft,
    /// What served this node before is gone: its rules, sets and servers.
    PredecessorRemoved,
    /// Something of what served this node before could not be removed.
    PredecessorLeft,
    /// There was more to tell than is told.
    NoticesLeftOut,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ModeFallback,
        Self::IpvsAvailable,
        Self::NodeRefused,
        Self::AddressRefused,
        Self::AddressConflict,
        Self::UnknownScheduler,
        Self::SchedulerIgnored,
        Self::ForeignVirtualServer,
        Self::NoMarkLeft,
        Self::PredecessorRemoved,
        Self::PredecessorLeft,
        Self::NoticesLeftOut,
    ];

    /// As an Event's `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ModeFallback => "ModeFallback",
            Self::IpvsAvailable => "IpvsAvailable",
            Self::NodeRefused => "NodeRefused",
            Self::AddressRefused => "AddressRefused",
            Self::AddressConflict => "AddressConflict",
            Self::UnknownScheduler => "UnknownScheduler",
            Self::SchedulerIgnored => "SchedulerIgnored",
            Self::ForeignVirtualServer => "ForeignVirtualServer",
            Self::NoMarkLeft => "NoMarkLeft",
            Self::PredecessorRemoved => "PredecessorRemoved",
            Self::PredecessorLeft => "PredecessorLeft",
            Self::NoticesLeftOut => "NoticesLeftOut",
        }
    }

    /// Whether something is not as it should be, rather than just so.
    pub const fn is_warning(self) -> bool {
        !matches!(self, Self::IpvsAvailable | Self::PredecessorRemoved)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Notice {
    /// A notice about this node.
    pub fn of_node(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            about: Subject::Node,
            reason,
            message: message.into(),
        }
    }

    /// A notice about a Service.
    pub fn of_service(service: ObjectName, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            about: Subject::Service(service),
            reason,
            message: message.into(),
        }
    }
}
