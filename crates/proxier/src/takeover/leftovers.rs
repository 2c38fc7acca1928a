//! Recognises kube-proxy's state on a node. Pure; [`KubeProxy`](crate::takeover::KubeProxy) removes
//! it.
//!
//! The names come from kubernetes/kubernetes, since version 1.2, in the files named here. A name
//! that does not match exactly belongs to another program: the kubelet (`KUBE-FIREWALL` in table
//! filter, `KUBE-KUBELET-CANARY`, `KUBE-IPTABLES-HINT`, and until 1.28 `KUBE-MARK-DROP`;
//! pkg/kubelet/kubelet_network_linux.go), or a network plugin (kube-router's `KUBE-ROUTER-…`,
//! `KUBE-NWPLCY-…`, `KUBE-POD-FW-…`).

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use ipvs::{Family, Protocol, VirtualServerKey};

use crate::mode::iptables::{Name, Rules, Table};

/// The table of kube-proxy's nftables mode, in families `ip` and `ip6` (`kubeProxyTable` in
/// pkg/proxy/nftables/proxier.go).
pub(crate) const NFTABLES_TABLE: &str = "kube-proxy";

/// The dummy device of kube-proxy's IPVS mode, whose addresses are the VIPs (`defaultDummyDevice`
/// in pkg/proxy/ipvs/proxier.go).
pub(crate) const DEVICE: &str = "kube-ipvs0";

/// The chain by which kube-proxy notices that others have flushed its rules; it creates the chain
/// when it starts (`kubeProxyCanaryChain`).
pub(crate) const CANARY: &str = "KUBE-PROXY-CANARY";

/// Chains with fixed names: those of pkg/proxy/iptables/proxier.go, then those that only
/// pkg/proxy/ipvs/proxier.go has, then those of pkg/proxy/userspace/proxier.go.
const CHAINS: [(Table, &[&str]); 3] = [
    (
        Table::Nat,
        &[
            "KUBE-SERVICES",
            "KUBE-NODEPORTS",
            "KUBE-POSTROUTING",
            "KUBE-MARK-MASQ",
            CANARY,
            "KUBE-NODE-PORT",
            "KUBE-LOAD-BALANCER",
            // Until 1.26. The kubelet's chain of this name is in table filter.
            "KUBE-FIREWALL",
            // 1.8 and 1.9.
            "KUBE-FIRE-WALL",
            "KUBE-SVC-IPSETS",
            "KUBE-PORTALS-CONTAINER",
            "KUBE-PORTALS-HOST",
            "KUBE-NODEPORT-CONTAINER",
            "KUBE-NODEPORT-HOST",
        ],
    ),
    (
        Table::Filter,
        &[
            "KUBE-SERVICES",
            "KUBE-EXTERNAL-SERVICES",
            "KUBE-FORWARD",
            "KUBE-NODEPORTS",
            "KUBE-PROXY-FIREWALL",
            CANARY,
            "KUBE-NODE-PORT",
            "KUBE-SOURCE-RANGES-FIREWALL",
            "KUBE-IPVS-FILTER",
            "KUBE-IPVS-OUT-FILTER",
            "KUBE-NODEPORT-NON-LOCAL",
        ],
    ),
    (Table::Mangle, &[CANARY]),
];

/// Prefixes of the chains for a Service port or an endpoint, in table nat (`isServiceChainName` in
/// pkg/proxy/iptables/proxier.go; `XLB` until 1.23). 16 characters of a base32 hash follow.
const HASHED: [&str; 6] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-SEP-",
    "KUBE-FW-",
    "KUBE-EXT-",
    "KUBE-XLB-",
];
const HASH: usize = 16;

/// kube-proxy's ipsets, without the prefix `KUBE-` or `KUBE-6-` (pkg/proxy/ipvs/ipset.go).
const SETS: [&str; 20] = [
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
    // Sets of earlier versions.
    "LOAD-BALANCER-MASQ",
    "NODE-PORT-SCTP",
    "NODE-PORT-LOCAL-SCTP",
];

/// IPSET_MAXNAMELEN without the NUL; kube-proxy truncates longer names.
const SET_NAME: usize = 31;

/// The name of a chain, if it is kube-proxy's.
pub(crate) fn chain(table: Table, name: &str) -> Option<Name> {
    let known = CHAINS.iter().find(|(of, _)| *of == table);
    let is_known = known.is_some_and(|(_, names)| names.contains(&name));
    let is_hashed = || {
        let hash = HASHED.iter().find_map(|prefix| name.strip_prefix(prefix));
        let base32 = |byte: u8| matches!(byte, b'A'..=b'Z' | b'2'..=b'7');
        table == Table::Nat && hash.is_some_and(|h| h.len() == HASH && h.bytes().all(base32))
    };
    let is_its = is_known || is_hashed();
    is_its.then(|| Name::of_other(name)).flatten()
}

/// Whether an ipset of this name is kube-proxy's.
pub(crate) fn is_set(name: &str) -> bool {
    SETS.iter().any(|set| {
        ["KUBE-", "KUBE-6-"].iter().any(|prefix| {
            let full = format!("{prefix}{set}");
            name == full.get(..SET_NAME).unwrap_or(&full)
        })
    })
}

/// kube-proxy's chains in iptables.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    /// The chains and rules to remove.
    pub(crate) rules: Rules,
    /// Chains that rules of other programs jump to. They stay, with the chains that they jump to.
    pub(crate) in_use: BTreeSet<String>,
}

impl Chains {
    /// Finds them in the output of iptables-save(8).
    pub(crate) fn parse(saved: &str) -> Self {
        let mut led_to = BTreeSet::new();
        let mut rules = Rules::parse_named(saved, chain, |table, name| {
            led_to.insert((table, name));
        });
        let in_use = led_to.iter().map(|(_, name)| name.to_string()).collect();
        for (table, name) in led_to {
            rules.take_out(table, name);
        }
        Self { rules, in_use }
    }
}

/// kube-proxy's own record of its virtual servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The addresses of [`DEVICE`].
    pub(crate) vips: HashSet<IpAddr>,
    /// The node's other addresses.
    pub(crate) node_addresses: HashSet<IpAddr>,
    /// The entries of the sets of external and load-balancer IPs (which are not on [`DEVICE`] if
    /// they are the node's own), and of SCTP node ports.
    pub(crate) entries: HashSet<(Protocol, IpAddr, u16)>,
    /// The entries of the other sets of node ports.
    pub(crate) node_ports: HashSet<(Protocol, Family, u16)>,
}

/// How the entries of a set identify virtual servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetOf {
    /// By address, protocol and port.
    Entries,
    /// By port, for this protocol and family, at every address of the node.
    NodePorts(Protocol, Family),
}

/// The kind of a set with virtual servers that [`DEVICE`] does not show.
pub(crate) fn set_of(name: &str) -> Option<SetOf> {
    let (rest, family) = match name.strip_prefix("KUBE-6-") {
        Some(rest) => (rest, Family::V6),
        None => (name.strip_prefix("KUBE-")?, Family::V4),
    };
    match rest {
        "EXTERNAL-IP" | "EXTERNAL-IP-LOCAL" | "LOAD-BALANCER" | "NODE-PORT-SCTP-HASH" => {
            Some(SetOf::Entries)
        }
        "NODE-PORT-TCP" => Some(SetOf::NodePorts(Protocol::Tcp, family)),
        "NODE-PORT-UDP" => Some(SetOf::NodePorts(Protocol::Udp, family)),
        _ => None,
    }
}

impl Record {
    /// Whether a virtual server is kube-proxy's. Those of other programs, such as keepalived, have
    /// addresses that are not on the device and ports that are not in the sets. kube-proxy itself
    /// deletes all others except in excluded networks (`cleanLegacyService`).
    pub(crate) fn has(&self, key: &VirtualServerKey) -> bool {
        let VirtualServerKey::Address {
            protocol,
            address,
            port,
        } = *key
        else {
            return false;
        };
        let family = Family::of(&address);
        self.vips.contains(&address)
            || self.entries.contains(&(protocol, address, port))
            || (self.node_addresses.contains(&address)
                && self.node_ports.contains(&(protocol, family, port)))
    }
}

#[cfg(test)]
mod tests;
