//! Notices: what an operator must know.
//!
//! A [`Notice`] reports a request that is not met, or a change that affects the whole node. It
//! becomes a log line and, with an API server, an Event of its object.

use std::fmt;

use crate::escaped::Escaped;
use crate::model::ObjectName;

/// A report for the operator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Notice {
    /// The object.
    pub about: Subject,
    /// The kind of notice.
    pub reason: Reason,
    /// What is wrong, and what to do. It may quote text from outside, unescaped; display
    /// [`text`](Self::text) instead.
    pub message: String,
}

/// The object of a [`Notice`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// This node.
    Node,
    /// A Service.
    Service(ObjectName),
}

/// The kind of a [`Notice`]: the `reason` of a Kubernetes Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The requested mode cannot run on this node; the other mode runs.
    ModeFallback,
    /// IPVS was requested and missing, and could run now.
    IpvsAvailable,
    /// The Node or the ServiceCIDRs have invalid settings; the previous ones stay in effect.
    NodeRefused,
    /// An address family is not served, because the node has no address of it and its kernel does
    /// not have it.
    FamilyLeftOut,
    /// An address family is served although the node has no address of it.
    FamilyWithoutAddress,
    /// No Node and no endpoint has this node's name.
    NodeUnknown,
    /// A Service CIDR also contains other addresses, and is not captured as a whole.
    ServiceCidrShared,
    /// An address of a Service is not served.
    AddressRefused,
    /// The kernel rejects a change for a Service, or one that Services share.
    SyncFailed,
    /// Mode userspace cannot listen at an address and port of the Service.
    ListenFailed,
    /// The DNS server cannot serve one of its addresses.
    DnsNotServed,
    /// Another Service has an address and port of the Service.
    AddressConflict,
    /// An annotation names a scheduler, or scheduler flags, that do not exist.
    UnknownScheduler,
    /// A Service's choice of scheduler has no effect in this mode.
    SchedulerIgnored,
    /// A Service's choice of forwarding method has no effect, at some address or in this mode.
    ForwardingIgnored,
    /// A virtual server that svcproxy did not create was at a Service's address and port, and is
    /// taken over.
    ForeignVirtualServer,
    /// Rules, routes or servers were not as svcproxy left them, and were repaired.
    DriftRepaired,
    /// A route or routing rule of another program sends packets for Services elsewhere.
    RouteInTheWay,
    /// Mode userspace may not add the routes of virtual IPs.
    RoutesForbidden,
    /// A filter of another program may drop packets of Services.
    FirewallInTheWay,
    /// A setting of the host may keep Services from working.
    HostSetting,
    /// Another service proxy, or a device with Services' addresses, is at work on this node.
    OtherServiceProxy,
    /// Connection tracking is nearly full.
    ConntrackNearlyFull,
    /// There is no free firewall mark for a virtual server.
    NoMarkLeft,
    /// A Service has more endpoints than the mode can use.
    EndpointsLeftOut,
    /// iptables rejects the rules of a Service.
    RulesRefused,
    /// iptables accepts the rules of a Service that it rejected before.
    RulesAccepted,
    /// The rules, sets and virtual servers of the previous service proxy are removed.
    PredecessorRemoved,
    /// Some of them could not be removed.
    PredecessorLeft,
    /// Notices were suppressed.
    NoticesLeftOut,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 30] = [
        Self::ModeFallback,
        Self::IpvsAvailable,
        Self::NodeRefused,
        Self::FamilyLeftOut,
        Self::FamilyWithoutAddress,
        Self::NodeUnknown,
        Self::ServiceCidrShared,
        Self::AddressRefused,
        Self::SyncFailed,
        Self::ListenFailed,
        Self::DnsNotServed,
        Self::AddressConflict,
        Self::UnknownScheduler,
        Self::SchedulerIgnored,
        Self::ForwardingIgnored,
        Self::ForeignVirtualServer,
        Self::DriftRepaired,
        Self::RouteInTheWay,
        Self::RoutesForbidden,
        Self::FirewallInTheWay,
        Self::HostSetting,
        Self::OtherServiceProxy,
        Self::ConntrackNearlyFull,
        Self::NoMarkLeft,
        Self::EndpointsLeftOut,
        Self::RulesRefused,
        Self::RulesAccepted,
        Self::PredecessorRemoved,
        Self::PredecessorLeft,
        Self::NoticesLeftOut,
    ];

    /// The `reason` of an Event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ModeFallback => "ModeFallback",
            Self::IpvsAvailable => "IpvsAvailable",
            Self::NodeRefused => "NodeRefused",
            Self::FamilyLeftOut => "FamilyLeftOut",
            Self::FamilyWithoutAddress => "FamilyWithoutAddress",
            Self::NodeUnknown => "NodeUnknown",
            Self::ServiceCidrShared => "ServiceCidrShared",
            Self::AddressRefused => "AddressRefused",
            Self::SyncFailed => "SyncFailed",
            Self::ListenFailed => "ListenFailed",
            Self::DnsNotServed => "DnsNotServed",
            Self::AddressConflict => "AddressConflict",
            Self::UnknownScheduler => "UnknownScheduler",
            Self::SchedulerIgnored => "SchedulerIgnored",
            Self::ForwardingIgnored => "ForwardingIgnored",
            Self::ForeignVirtualServer => "ForeignVirtualServer",
            Self::DriftRepaired => "DriftRepaired",
            Self::RouteInTheWay => "RouteInTheWay",
            Self::RoutesForbidden => "RoutesForbidden",
            Self::FirewallInTheWay => "FirewallInTheWay",
            Self::HostSetting => "HostSetting",
            Self::OtherServiceProxy => "OtherServiceProxy",
            Self::ConntrackNearlyFull => "ConntrackNearlyFull",
            Self::NoMarkLeft => "NoMarkLeft",
            Self::EndpointsLeftOut => "EndpointsLeftOut",
            Self::RulesRefused => "RulesRefused",
            Self::RulesAccepted => "RulesAccepted",
            Self::PredecessorRemoved => "PredecessorRemoved",
            Self::PredecessorLeft => "PredecessorLeft",
            Self::NoticesLeftOut => "NoticesLeftOut",
        }
    }

    /// Whether it is a warning, not only information.
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
    /// The message in one line, without terminal control characters, cut to the maximum length of
    /// an Event's note.
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
