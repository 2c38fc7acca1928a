//! Errors of operations on the node.

use std::io;
use std::net::SocketAddr;

use ipvs::Protocol;

use crate::errno::{EEXIST, EPROTONOSUPPORT, listen_hint};
use crate::mode::Sysctl;
use crate::mode::ipvs::plan::LocalRoute;

/// A failed operation on the node.
///
/// `Display` names the operation and a remedy; the kernel's error is the
/// [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// An error of IPVS; also if the kernel has no IPVS.
    #[error(transparent)]
    Ipvs(#[from] ipvs::Error),
    /// An error of nftables.
    #[error("packet filter: cannot {operation}{}", nftables_hint(source))]
    PacketFilter {
        /// What was tried.
        operation: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// An error of routes or routing rules.
    #[error("routes: cannot {operation}{}", permission_hint(source))]
    Route {
        /// What was tried.
        operation: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another route has the place of a route to add.
    #[error(
        "routes: cannot add {route}: the kernel has \"{by}\" in its place (EEXIST); delete that route, \
         or exclude the prefix from the Service CIDRs"
    )]
    RouteTaken {
        /// The route to add.
        route: LocalRoute,
        /// The other route: type, prefix, protocol, device, metric.
        by: String,
    },
    /// An error of network devices or addresses.
    #[error("devices: cannot {operation}{}", permission_hint(source))]
    Link {
        /// What was tried.
        operation: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// Mode userspace cannot listen at an address.
    #[error("cannot listen on {protocol} {address}{}", listen_hint(source))]
    Listen {
        /// The protocol.
        protocol: Protocol,
        /// The address.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// The proxy of mode userspace does not work.
    #[error("proxy: cannot {operation}")]
    Proxy {
        /// What was tried.
        operation: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// An error of connection tracking.
    #[error("connection tracking: cannot {operation}{}", conntrack_hint(source))]
    Conntrack {
        /// What was tried.
        operation: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// iptables rejected rules.
    #[cfg(feature = "iptables")]
    #[error(transparent)]
    Iptables(Box<super::iptables::Refusal>),
    /// A program cannot be run.
    #[error("cannot run {program}{}", program_hint(source))]
    Program {
        /// The name of the program.
        program: String,
        /// The reason.
        source: io::Error,
    },
    /// An earlier step for the same virtual server failed.
    #[error("skipped, because an earlier step for the same virtual server failed")]
    NotTried,
    /// A sysctl cannot be read or written.
    #[error("sysctl {sysctl}: cannot {operation}{}", sysctl_hint(*sysctl, source))]
    Sysctl {
        /// The sysctl.
        sysctl: Sysctl,
        /// What was tried.
        operation: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

impl NodeError {
    /// The kernel's errno, if the kernel returned one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Ipvs(error) => error.errno(),
            Self::NotTried => None,
            Self::RouteTaken { .. } => Some(EEXIST),
            #[cfg(feature = "iptables")]
            Self::Iptables(_) => None,
            Self::Program { source, .. } => source.raw_os_error(),
            Self::PacketFilter { source, .. }
            | Self::Route { source, .. }
            | Self::Link { source, .. }
            | Self::Listen { source, .. }
            | Self::Proxy { source, .. }
            | Self::Conntrack { source, .. }
            | Self::Sysctl { source, .. } => source.raw_os_error(),
        }
    }

    /// Whether svcproxy lacks the privilege for what it tried.
    pub fn is_permission_denied(&self) -> bool {
        match self {
            Self::Ipvs(error) => matches!(error.kind(), ipvs::ErrorKind::PermissionDenied),
            #[cfg(feature = "iptables")]
            Self::Iptables(refusal) => refusal.is_permission_denied(),
            Self::NotTried | Self::RouteTaken { .. } => false,
            Self::Program { source, .. }
            | Self::PacketFilter { source, .. }
            | Self::Route { source, .. }
            | Self::Link { source, .. }
            | Self::Listen { source, .. }
            | Self::Proxy { source, .. }
            | Self::Conntrack { source, .. }
            | Self::Sysctl { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
        }
    }

    /// Whether the error shows drift: an object to add exists already (EEXIST), or an object to
    /// change does not exist (ENOENT, ESRCH).
    pub(crate) fn is_drift(&self) -> bool {
        const DRIFT: [Option<i32>; 3] = [Some(EEXIST), Some(2), Some(3)];
        match self {
            Self::Ipvs(error) => error.is_already_exists() || error.is_not_found(),
            Self::PacketFilter { .. } | Self::Route { .. } | Self::RouteTaken { .. } => {
                DRIFT.contains(&self.errno())
            }
            _ => false,
        }
    }

    /// Whether the kernel's answer is missing, so the change may be in effect in spite of the
    /// error.
    pub(crate) fn is_outcome_unknown(&self) -> bool {
        // EINTR, EAGAIN, EBADMSG (the answer was malformed), ENOBUFS (it did not fit into the socket's
        // buffer), ETIMEDOUT.
        const NO_ANSWER: [i32; 5] = [4, 11, 74, 105, 110];
        let lost = |errno: i32| NO_ANSWER.contains(&errno);
        match self {
            Self::Ipvs(error) if matches!(error.kind(), ipvs::ErrorKind::Io) => {
                error.errno().is_none_or(lost)
            }
            Self::Ipvs(error) => error.is_outcome_unknown(),
            Self::PacketFilter { source, .. } | Self::Route { source, .. } => {
                // svcproxy itself rejected it, so it was not sent.
                let is_own = source.kind() == io::ErrorKind::InvalidInput;
                source.raw_os_error().map_or(!is_own, lost)
            }
            _ => false,
        }
    }
}

fn permission_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (needs CAP_NET_ADMIN)",
        _ => "",
    }
}

fn program_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => " (it is not installed)",
        _ => "",
    }
}

fn nftables_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(EPROTONOSUPPORT) => " (this kernel has no nftables: load nf_tables)",
        _ => permission_hint(error),
    }
}

fn conntrack_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        // The answer of nfnetlink for a subsystem that is not loaded.
        io::ErrorKind::InvalidInput => " (this kernel cannot list it: load nf_conntrack_netlink)",
        _ => permission_hint(error),
    }
}

fn sysctl_hint(sysctl: Sysctl, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound if sysctl == Sysctl::VS_CONNTRACK => {
            " (ip_vs is not loaded, or this kernel's was built without CONFIG_IP_VS_NFCT)"
        }
        io::ErrorKind::NotFound if sysctl.name().contains(".vs.") => {
            " (ip_vs is not loaded: modprobe ip_vs)"
        }
        io::ErrorKind::NotFound => " (this kernel does not have it)",
        io::ErrorKind::PermissionDenied
            if [Sysctl::CT_MAX, Sysctl::CT_BUCKETS].contains(&sysctl) =>
        {
            " (the machine's own network namespace alone has it: ask for none, with a maximum per \
             core of 0)"
        }
        _ => permission_hint(error),
    }
}
