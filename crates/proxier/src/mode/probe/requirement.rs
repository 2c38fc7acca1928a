//! The requirements of modes, and the remedies for missing ones.

use std::fmt;

use ipvs::{Family, Scheduler};

use super::{Missing, ModuleFile, Reason};
use crate::mode::Sysctl;

/// A data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mode {
    /// IPVS.
    Ipvs,
    /// iptables.
    Iptables,
    /// nftables.
    Nftables,
    /// svcproxy itself.
    Userspace,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::Ipvs, Self::Iptables, Self::Nftables, Self::Userspace];

    /// The name, as kube-proxy spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipvs => "ipvs",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Userspace => "userspace",
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
    /// nftables, with everything that nftables mode's rules use.
    NftablesRules,
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
    /// Sockets that are bound to addresses that the node does not have.
    Listeners,
    /// Listeners on ports below 1024.
    LowPorts,
    /// Permission to make virtual IPs local by routes.
    VipRoutes,
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
            (Self::AffinityScheduler | Self::RoutingRules, Mode::Ipvs)
            | (Self::LowPorts | Self::VipRoutes, Mode::Userspace) => Some(Wanted),
            // The proxy forwards no packets.
            (Self::ConnectionTracking | Self::Sysctl(..), Mode::Userspace) => None,
            (
                Self::Ipvs
                | Self::Scheduler(_)
                | Self::VirtualServers(_)
                | Self::Nftables
                | Self::Routes,
                Mode::Ipvs,
            )
            | (Self::Iptables | Self::IptablesRules(_), Mode::Iptables)
            | (Self::NftablesRules, Mode::Nftables)
            | (Self::Listeners, Mode::Userspace)
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
            Self::NftablesRules => "nftables-rules".to_owned(),
            Self::Routes => "routes".to_owned(),
            Self::RoutingRules => "routing-rules".to_owned(),
            Self::ConnectionTracking => "connection-tracking".to_owned(),
            Self::Sysctl(sysctl, _) => format!("sysctl/{sysctl}"),
            Self::Iptables => "iptables".to_owned(),
            Self::IptablesRules(family) => format!("iptables-rules/{family}"),
            Self::Listeners => "listeners".to_owned(),
            Self::LowPorts => "low-ports".to_owned(),
            Self::VipRoutes => "vip-routes".to_owned(),
        }
    }
}

fn sysctl_weight(sysctl: Sysctl, mode: Mode) -> Option<Weight> {
    match (sysctl, mode) {
        // Masquerading needs the first one; the others are needed to deliver packets.
        (Sysctl::VS_CONNTRACK, Mode::Ipvs) | (Sysctl::IPV4_FORWARD | Sysctl::IPV6_FORWARD, _) => {
            Some(Weight::Needed)
        }
        (_, Mode::Ipvs) => Some(Weight::Wanted),
        (
            Sysctl::VS_CONNTRACK
            | Sysctl::VS_EXPIRE_NODEST_CONN
            | Sysctl::VS_EXPIRE_QUIESCENT_TEMPLATE
            | Sysctl::ARP_IGNORE
            | Sysctl::ARP_ANNOUNCE,
            _,
        ) => None,
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
            Self::NftablesRules => f.write_str("nftables rules"),
            Self::Routes => f.write_str("routes"),
            Self::RoutingRules => f.write_str("routing rules, for load-balancer and external IPs"),
            Self::ConnectionTracking => f.write_str("connection tracking over netlink"),
            Self::Sysctl(sysctl, value) => write!(f, "sysctl {sysctl} = {value}"),
            Self::Iptables => f.write_str("iptables"),
            Self::IptablesRules(family) => write!(f, "iptables rules, {family}"),
            Self::Listeners => f.write_str("listeners on any address"),
            Self::LowPorts => f.write_str("listeners on ports below 1024"),
            Self::VipRoutes => f.write_str("routes that make virtual IPs local"),
        }
    }
}

/// Packages with the modules that minimal kernels of distributions leave out.
const PACKAGES: &str = "package linux-modules-extra-$(uname -r) on Ubuntu, kernel-modules on \
                        Fedora and RHEL, linux-image-amd64 instead of -cloud-amd64 on Debian";

/// The lock that all iptables of a node take before a change.
const LOCK: &str = "/run/xtables.lock";

pub(super) fn remedy(requirement: &Requirement, missing: &Missing) -> Option<String> {
    Some(match &missing.reason {
        Reason::NotTried => return None,
        Reason::NoModule { module, file } => load(requirement, module, *file),
        Reason::Permission => permission(requirement).to_owned(),
        Reason::ReadOnly => {
            "mount the node's /proc/sys writable, and name it by --proc-sys; or set \
                             the sysctl on the node"
                .to_owned()
        }
        Reason::NotInstalled => {
            "install iptables: package iptables, or iptables-nft on RHEL".to_owned()
        }
        Reason::Busy => {
            "try again when the node has memory and file descriptors to spare".to_owned()
        }
        Reason::Refused if missing.message.contains(LOCK) => {
            format!("make the node's {LOCK} writable here")
        }
        Reason::Refused => refused(requirement)?.to_owned(),
    })
}

fn load(requirement: &Requirement, module: &str, file: ModuleFile) -> String {
    let option = option(requirement, module);
    let load = format!("modprobe {module}");
    let build = format!("use a kernel built with {option}");
    match file {
        ModuleFile::Present => format!(
            "{load}, as root of the node; if that is refused, see /etc/modprobe.d for what forbids \
             it"
        ),
        ModuleFile::Absent => {
            format!("install the kernel's module {module}: {PACKAGES}; or {build}")
        }
        ModuleFile::Unknown => {
            format!(
                "{load}, on the node; install the module if there is none: {PACKAGES}; or {build}"
            )
        }
    }
}

/// The kernel's build options.
fn option(requirement: &Requirement, module: &str) -> String {
    let name = match requirement {
        Requirement::VirtualServers(Family::V6) => "CONFIG_IP_VS_IPV6",
        Requirement::Nftables => {
            "CONFIG_NF_TABLES_INET, CONFIG_NFT_CT, CONFIG_NFT_FIB_INET, CONFIG_NFT_MASQ, \
             CONFIG_NFT_NAT, CONFIG_NFT_REJECT_INET"
        }
        Requirement::NftablesRules => {
            "CONFIG_NF_TABLES_IPV4, CONFIG_NF_TABLES_IPV6, CONFIG_NFT_CT, CONFIG_NFT_FIB_IPV4, \
             CONFIG_NFT_FIB_IPV6, CONFIG_NFT_MASQ, CONFIG_NFT_NAT, CONFIG_NFT_NUMGEN, \
             CONFIG_NFT_REJECT"
        }
        Requirement::RoutingRules => "CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES",
        Requirement::ConnectionTracking => "CONFIG_NF_CT_NETLINK",
        Requirement::Sysctl(Sysctl::VS_CONNTRACK, _) => "CONFIG_IP_VS_NFCT",
        Requirement::IptablesRules(_) => {
            "CONFIG_NETFILTER_XTABLES and its matches addrtype, comment, conntrack, mark, \
             multiport, recent, statistic"
        }
        _ => return format!("CONFIG_{}", module.to_uppercase()),
    };
    name.to_owned()
}

const fn permission(requirement: &Requirement) -> &'static str {
    match requirement {
        Requirement::Ipvs | Requirement::Scheduler(_) | Requirement::VirtualServers(_) => {
            "run as root of the node, or with CAP_NET_ADMIN in the initial user namespace: root of a \
             user namespace does not have it"
        }
        Requirement::Sysctl(..) => {
            "run as root, or set the sysctl before; in a container name the node's by --proc-sys"
        }
        Requirement::Iptables | Requirement::IptablesRules(_) => {
            "run as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
        }
        Requirement::LowPorts => "run as root, or with CAP_NET_BIND_SERVICE",
        Requirement::VipRoutes => {
            "run as root, or with CAP_NET_ADMIN; or route virtual IPs to this node yourself, and name \
             them by --listen"
        }
        _ => "run as root, or with CAP_NET_ADMIN",
    }
}

const fn refused(requirement: &Requirement) -> Option<&'static str> {
    Some(match requirement {
        Requirement::Nftables => {
            "load what the rules use: modprobe -a nf_tables nft_ct nft_fib_inet nft_masq \
             nft_chain_nat nft_reject_inet"
        }
        Requirement::NftablesRules => {
            "load what the rules use: modprobe -a nf_tables nft_ct nft_fib_ipv4 nft_fib_ipv6 nft_masq \
             nft_chain_nat nft_nat nft_numgen nft_reject_ipv4 nft_reject_ipv6"
        }
        Requirement::Iptables | Requirement::IptablesRules(_) => {
            "load what the rules use: modprobe -a xt_addrtype xt_comment xt_conntrack xt_mark \
             xt_multiport xt_recent xt_statistic xt_nat xt_MASQUERADE"
        }
        _ => return None,
    })
}
