//! Finds what else on the host keeps Service traffic from its endpoints, and how to mend it.
//!
//! [`Host`] observes, cheaply enough for every audit: it starts no program. [`judge`], which is pure,
//! concludes from the [`Facts`]. What only a program can tell, such as the rules of legacy iptables,
//! [`Host::ask_programs`] adds, for `svcproxy check`.
//!
//! svcproxy repairs nothing of this: it all belongs to other programs.

mod firewall;
mod judge;
mod look;
mod passing;
mod routes;
mod saved;
#[cfg(test)]
mod tests;
mod way;

use std::net::IpAddr;

use netlink::filter::BaseChain;

use crate::desired::Config;
use crate::mode::probe::Mode;
use crate::notice::{Notice, Reason};

pub use firewall::Filter;
pub use judge::judge;
pub use look::Host;
pub use way::{Obstacle, ObstacleKind, Route, Ways, obstacles};

/// The part of connection tracking's maximum from which on it counts as nearly full, in percent.
const NEARLY_FULL: u64 = 90;

/// What was observed on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// The filters of other programs.
    pub filters: Vec<Filter>,
    /// The network interfaces.
    pub interfaces: Vec<Interface>,
    /// Whether the reverse path check uses the packet's mark (`src_valid_mark`).
    pub src_valid_mark: bool,
    /// Whether iptables sees the packets that a bridge forwards (`bridge-nf-call-iptables` and
    /// `-ip6tables`); `None` if the module `br_netfilter` is missing.
    pub bridged: [Option<bool>; 2],
    /// Whether connection tracking is nearly full, with its maximum.
    pub nearly_full: Option<u64>,
    /// Traces of other service proxies.
    pub traces: Vec<Trace>,
    /// Rules in iptables-nft and in iptables-legacy, if programs were asked.
    pub rules: Option<[usize; 2]>,
    /// What could not be observed, and why.
    pub unknown: Vec<String>,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What it is.
    pub kind: InterfaceKind,
    /// Whether its reverse path check is strict.
    pub is_strict: bool,
}

/// The kind of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InterfaceKind {
    /// A network card, or a VLAN or bond of some: it leads to other machines.
    Uplink,
    /// A bridge.
    Bridge,
    /// A dummy device, which holds addresses only.
    Dummy,
    /// Anything else.
    #[default]
    Other,
}

/// A trace of another service proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Trace {
    /// A process with the name `kube-proxy` in this network namespace.
    KubeProxyProcess,
    /// Chains, a table or a device that only kube-proxy makes.
    KubeProxyRules,
    /// Cilium's maps for node ports, which only its replacement of kube-proxy has.
    CiliumReplacement,
    /// Cilium's device.
    Cilium,
    /// The chains or the device of kube-router's service proxy.
    KubeRouter,
}

/// What svcproxy does on this host.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Role<'a> {
    /// The mode in effect.
    pub mode: Mode,
    /// The settings.
    pub config: &'a Config,
    /// Whether load-balancer or external IPs are served.
    pub captures: bool,
    /// Whether an address is a virtual IP.
    pub is_vip: &'a dyn Fn(IpAddr) -> bool,
    /// Whether what kube-proxy left is removed, so that whatever there is, is new.
    pub has_taken_over: bool,
}

impl<'a> Role<'a> {
    /// A node in this mode that serves nothing yet.
    pub const fn new(mode: Mode, config: &'a Config) -> Self {
        Self {
            mode,
            config,
            captures: false,
            is_vip: &|_| false,
            has_taken_over: false,
        }
    }
}

impl std::fmt::Debug for Role<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Role")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// Something on the host that keeps Service traffic from its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Concern {
    /// What it is about.
    pub kind: ConcernKind,
    /// Whether it is information only: svcproxy copes with it, or it may be harmless.
    pub is_note: bool,
    /// What was found. It may quote names from the host, unescaped.
    pub message: String,
    /// What to do, if anything.
    pub remedy: Option<String>,
}

/// The kind of a [`Concern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ConcernKind {
    /// The node's own addresses.
    Addresses,
    /// A filter of another program.
    Firewall,
    /// The check of the reverse path.
    ReversePath,
    /// Packets on a bridge.
    Bridge,
    /// Two iptables at a time.
    Iptables,
    /// Another service proxy.
    ServiceProxy,
    /// A device with virtual IPs.
    VipDevice,
    /// Connection tracking.
    ConnectionTracking,
}

impl ConcernKind {
    /// A stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Addresses => "addresses",
            Self::Firewall => "firewall",
            Self::ReversePath => "reverse-path",
            Self::Bridge => "bridge",
            Self::Iptables => "iptables-flavours",
            Self::ServiceProxy => "service-proxy",
            Self::VipDevice => "vip-device",
            Self::ConnectionTracking => "connection-tracking",
        }
    }

    const fn reason(self) -> Reason {
        match self {
            Self::Firewall => Reason::FirewallInTheWay,
            Self::ServiceProxy | Self::VipDevice => Reason::OtherServiceProxy,
            Self::ConnectionTracking => Reason::ConntrackNearlyFull,
            Self::Addresses | Self::ReversePath | Self::Bridge | Self::Iptables => {
                Reason::HostSetting
            }
        }
    }
}

impl Concern {
    /// The condition of the node. `None` for a note.
    pub fn condition(&self) -> Option<Notice> {
        let mut message = self.message.clone();
        if let Some(remedy) = &self.remedy {
            message = format!("{message}. {remedy}");
        }
        (!self.is_note).then(|| Notice::of_node(self.kind.reason(), message))
    }
}

/// The first of some chains in nft's syntax: `inet filter input`.
fn path(chain: &BaseChain) -> String {
    format!("{} {} {}", chain.family, chain.table, chain.name)
}
