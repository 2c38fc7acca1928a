//! The requirements of modes.

use crate::mode::Sysctl;
use std::fmt;

use ipvs::{Family, Scheduler};

/// A data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mode {
    /// IPVS.
    Ipvs,
    /// iptables.
    Iptables,
}

impl Mode {
    /// Both modes.
    pub const ALL: [Self; 2] = [Self::Ipvs, Self::Iptables];

    /// The name, as kube-proxy spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipvs => "ipvs",
            Self::Iptables => "iptables",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that a mode needs or uses. `Display` is for people, [`name`](Self::name) for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Requirement {
    /// IPVS in the kernel, with permission to use it.
    Ipvs,
    /// The default scheduler.
    Scheduler(Scheduler),
    /// The scheduler `mh`, which replaces persistence in firewall-mark virtual servers.
    AffinityScheduler,
    /// Virtual servers at addresses of a family.
    VirtualServers(Family),
    /// nftables, with everything that IPVS mode's rules use.
    Nftables,
    /// Routes.
    Routes,
    /// Routing rules by mark, for load-balancer and external IPs.
    RoutingRules,
    /// Connection tracking that can be read and changed over netlink.
    ConnectionTracking,
    /// A sysctl that has a value, or can be set to it.
    Sysctl(Sysctl, u32),
    /// iptables' programs.
    Iptables,
    /// Rules of a family with everything that iptables mode's rules use.
    IptablesRules(Family),
}

/// How much a mode depends on a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Weight {
    /// The mode does not run without it.
    Needed,
    /// Without it, some Services do not get everything that they request.
    Wanted,
}

impl Requirement {
    /// How much a mode depends on it; `None` if it does not use it.
    pub fn weight(&self, mode: Mode) -> Option<Weight> {
        use Weight::{Needed, Wanted};
        match (self, mode) {
            (Self::AffinityScheduler | Self::RoutingRules, Mode::Ipvs) => Some(Wanted),
            (
                Self::Ipvs
                | Self::Scheduler(_)
                | Self::VirtualServers(_)
                | Self::Nftables
                | Self::Routes,
                Mode::Ipvs,
            )
            | (Self::Iptables | Self::IptablesRules(_), Mode::Iptables)
            | (Self::ConnectionTracking, _) => Some(Needed),
            (Self::Sysctl(sysctl, _), _) => sysctl_weight(*sysctl, mode),
            _ => None,
        }
    }

    /// A stable name, unique on a node.
    pub fn name(&self) -> String {
        match self {
            Self::Ipvs => "ipvs".to_owned(),
            Self::Scheduler(scheduler) => format!("scheduler/{scheduler}"),
            Self::AffinityScheduler => format!("scheduler/{}", Scheduler::MaglevHash),
            Self::VirtualServers(family) => format!("virtual-servers/{family}"),
            Self::Nftables => "nftables".to_owned(),
            Self::Routes => "routes".to_owned(),
            Self::RoutingRules => "routing-rules".to_owned(),
            Self::ConnectionTracking => "connection-tracking".to_owned(),
            Self::Sysctl(sysctl, _) => format!("sysctl/{sysctl}"),
            Self::Iptables => "iptables".to_owned(),
            Self::IptablesRules(family) => format!("iptables-rules/{family}"),
        }
    }
}

fn sysctl_weight(sysctl: Sysctl, mode: Mode) -> Option<Weight> {
    match (sysctl, mode) {
        // Masquerading needs the first one; the others are needed to deliver packets.
        (Sysctl::VS_CONNTRACK, Mode::Ipvs) | (Sysctl::IPV4_FORWARD | Sysctl::IPV6_FORWARD, _) => {
            Some(Weight::Needed)
        }
        (Sysctl::VS_EXPIRE_NODEST_CONN | Sysctl::VS_EXPIRE_QUIESCENT_TEMPLATE, Mode::Iptables) => {
            None
        }
        (Sysctl::VS_CONNTRACK | Sysctl::ARP_IGNORE | Sysctl::ARP_ANNOUNCE, Mode::Iptables) => None,
        _ => Some(Weight::Wanted),
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipvs => f.write_str("IPVS"),
            Self::Scheduler(scheduler) => write!(f, "scheduler {scheduler}"),
            Self::AffinityScheduler => {
                let mh = Scheduler::MaglevHash;
                write!(f, "scheduler {mh}, for session affinity at node ports")
            }
            Self::VirtualServers(family) => write!(f, "virtual servers, {family}"),
            Self::Nftables => f.write_str("nftables"),
            Self::Routes => f.write_str("routes"),
            Self::RoutingRules => f.write_str("routing rules, for load-balancer and external IPs"),
            Self::ConnectionTracking => f.write_str("connection tracking over netlink"),
            Self::Sysctl(sysctl, value) => write!(f, "sysctl {sysctl} = {value}"),
            Self::Iptables => f.write_str("iptables"),
            Self::IptablesRules(family) => write!(f, "iptables rules, {family}"),
        }
    }
}
