//! What an operator must know.
//!
//! A [`Notice`] is something that is not as it was asked for, or has changed for all of the node. It
//! is worth a line of the log, and where there is an API server an Event of the object it is about.

use std::fmt;

use crate::escaped::Escaped;
use crate::model::ObjectName;

/// Something an operator must know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Notice {
    /// What it is about.
    pub about: Subject,
    /// Of which kind it is.
    pub reason: Reason,
    /// What is the matter, and what can be done. It may quote what others wrote:
    /// [`text`](Self::text) is fit to be shown.
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
    /// An address family is not served, since the node has no address of it.
    FamilyLeftOut,
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
    /// iptables refuses the rules of a Service.
    RulesRefused,
    /// iptables takes the rules of a Service that it refused before.
    RulesAccepted,
    /// What served this node before is gone: its rules, sets and servers.
    PredecessorRemoved,
    /// Something of what served this node before could not be removed.
    PredecessorLeft,
    /// There was more to tell than is told.
    NoticesLeftOut,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::ModeFallback,
        Self::IpvsAvailable,
        Self::NodeRefused,
        Self::FamilyLeftOut,
        Self::AddressRefused,
        Self::AddressConflict,
        Self::UnknownScheduler,
        Self::SchedulerIgnored,
        Self::ForeignVirtualServer,
        Self::NoMarkLeft,
        Self::RulesRefused,
        Self::RulesAccepted,
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
            Self::FamilyLeftOut => "FamilyLeftOut",
            Self::AddressRefused => "AddressRefused",
            Self::AddressConflict => "AddressConflict",
            Self::UnknownScheduler => "UnknownScheduler",
            Self::SchedulerIgnored => "SchedulerIgnored",
            Self::ForeignVirtualServer => "ForeignVirtualServer",
            Self::NoMarkLeft => "NoMarkLeft",
            Self::RulesRefused => "RulesRefused",
            Self::RulesAccepted => "RulesAccepted",
            Self::PredecessorRemoved => "PredecessorRemoved",
            Self::PredecessorLeft => "PredecessorLeft",
            Self::NoticesLeftOut => "NoticesLeftOut",
        }
    }

    /// Whether something is not as it should be, rather than just so.
    pub const fn is_warning(self) -> bool {
        !matches!(
            self,
            Self::IpvsAvailable | Self::RulesAccepted | Self::PredecessorRemoved
        )
    }
}

/// Longest note of an Event, in bytes (`NoteLengthLimit` in kubernetes `pkg/apis/core/validation`).
const LONGEST: usize = 1024;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Notice {
    /// The message on one line, without a terminal's controls, and no longer than an Event's note
    /// may be.
    pub fn text(&self) -> String {
        let mut text = Escaped(&self.message).to_string();
        if text.len() > LONGEST {
            const MORE: char = '…';
            let starts = text.char_indices().map(|(at, _)| at);
            let kept = starts.take_while(|at| *at <= LONGEST - MORE.len_utf8());
            text.truncate(kept.last().unwrap_or_default());
            text.push(MORE);
        }
        text
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_shown_on_one_line_of_bounded_length() {
        let text = Notice::of_node(Reason::ModeFallback, "a\n\u{1b}[31m\"b\"").text();
        assert_eq!(text, "a\\n\\u{1b}[31m\"b\"");
        for length in [1023, 1024, 1025, 100_000] {
            let text = Notice::of_node(Reason::ModeFallback, "ä".repeat(length)).text();
            assert!(text.len() <= 1024 && text.len() > 1020, "{}", text.len());
            assert!(text.ends_with('…'));
        }
        let exact = Notice::of_node(Reason::ModeFallback, "a".repeat(1024));
        assert_eq!(exact.text(), exact.message);
    }

    #[test]
    fn each_reason_is_listed_once() {
        let names: std::collections::BTreeSet<_> = Reason::ALL.map(Reason::as_str).into();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
