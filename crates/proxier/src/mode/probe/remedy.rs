//! Remedies for missing requirements.

use crate::mode::Sysctl;
use ipvs::Family;

use super::{Missing, ModuleFile, Reason, Requirement};

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
        _ => "run as root, or with CAP_NET_ADMIN",
    }
}

const fn refused(requirement: &Requirement) -> Option<&'static str> {
    Some(match requirement {
        Requirement::Nftables => {
            "load what the rules use: modprobe -a nf_tables nft_ct nft_fib_inet nft_masq \
             nft_chain_nat nft_reject_inet"
        }
        Requirement::Iptables | Requirement::IptablesRules(_) => {
            "load what the rules use: modprobe -a xt_addrtype xt_comment xt_conntrack xt_mark \
             xt_multiport xt_recent xt_statistic xt_nat xt_MASQUERADE"
        }
        _ => return None,
    })
}
