//! Settings and facts of the node, apart from Services.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ipvs::{Family, Scheduler, Timeouts};

use super::{FollowNode, InterfaceName, Marks};
use crate::model::special;

/// The settings and facts of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The node's name: endpoints with it are on this node.
    pub node_name: Arc<str>,
    /// The node's own addresses, at most one per family: the source of its own connections to VIPs.
    pub node_ips: Vec<IpAddr>,
    /// Networks of the pods. Connections from elsewhere to a VIP are masqueraded. If empty, only
    /// those of an endpoint to itself are.
    pub cluster_cidrs: Vec<IpNet>,
    /// Networks of the cluster IPs, if they are known. The node captures them as a whole, and
    /// rejects packets to an address or port in them without a Service. A cluster IP outside of
    /// them has a separate route.
    pub service_cidrs: Vec<IpNet>,
    /// Service CIDRs that also hold an address of this node, a pod network, an endpoint or a network
    /// that the node is attached to. The node captures only the cluster IPs in them.
    /// [`following`](Self::following) sets them, and
    /// [`DesiredState::from_store`](super::DesiredState::from_store) adds those with endpoints.
    pub shared_cidrs: Vec<IpNet>,
    /// Networks that the node is attached to. No Service CIDR that overlaps one is captured as a
    /// whole.
    pub attached: Vec<IpNet>,
    /// Service CIDRs of families in which the node has no address, and that are not served without
    /// one. [`following`](Self::following) sets them.
    pub left_out: Vec<IpNet>,
    /// Whether the kernel has IPv6.
    pub has_ipv6: bool,
    /// A family that is served although the node has no address of it: pods reach its Services, and
    /// what needs an address of the node does not work. [`following`](Self::following) sets it.
    pub without_address: Option<Family>,
    /// Default scheduler, for Services that choose none.
    pub scheduler: Scheduler,
    /// How long the real server of a removed endpoint keeps its connections; zero cuts them at
    /// once.
    pub drain_timeout: Duration,
    /// The node's zone, for endpoints with zone hints.
    pub zone: Option<Arc<str>>,
    /// If set, the interface on which packets arrive identifies pods, not `cluster_cidrs`.
    pub pod_interfaces: Option<PodInterfaces>,
    /// Masquerade all connections to cluster IPs, also those of pods.
    pub masquerade_all: bool,
    /// Bits of packet marks.
    pub marks: Marks,
    /// The node's addresses in these networks serve node ports; empty means all addresses of the
    /// node. Loopback addresses never do.
    pub node_port_addresses: Vec<IpNet>,
    /// Serve node ports on `node_ips`, and on other addresses only if they are in
    /// `node_port_addresses`.
    pub primary_node_ports: bool,
    /// VIPs in these networks are not served.
    pub exclude_cidrs: Vec<IpNet>,
    /// No external IP is served: whoever may write a Service could take any address with it
    /// (CVE-2020-8554).
    pub deny_external_ips: bool,
    /// Endpoints in these networks get no traffic: whoever may write an EndpointSlice could reach
    /// with it what is closed to pods (CVE-2021-25740).
    pub deny_endpoints: Vec<IpNet>,
    /// Make an interface answer ARP for its own addresses only (`arp_ignore` 1, `arp_announce` 2).
    pub strict_arp: bool,
    /// IPVS connection timeouts.
    pub timeouts: Timeouts,
    /// Connection tracking settings.
    pub conntrack: Conntrack,
    /// The settings that the API overrides.
    pub follow_node: FollowNode,
}

/// Minimum values of connection tracking's sysctls. `None` leaves a sysctl alone, and larger values
/// stay. In a network namespace other than the host's, the kernel makes `max` read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Conntrack {
    /// Maximum number of tracked connections. The hash table gets one bucket per four.
    pub max: Option<u32>,
    /// Timeout of idle TCP connections, in seconds.
    pub tcp_established: Option<u32>,
    /// Timeout of TCP connections in CLOSE_WAIT, in seconds.
    pub tcp_close_wait: Option<u32>,
    /// Whether TCP packets outside the window are accepted.
    pub tcp_be_liberal: bool,
    /// Timeout of UDP flows without an answer, in seconds.
    pub udp: Option<u32>,
    /// Timeout of UDP flows with answers, in seconds.
    pub udp_stream: Option<u32>,
}

/// The interfaces on which pods' packets arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PodInterfaces {
    /// A bridge that all pods of the node are attached to.
    Named(InterfaceName),
    /// All interfaces whose names begin with this.
    Prefixed(InterfaceName),
}

impl Config {
    /// A node with this name and these addresses, round robin and a drain timeout of 30 seconds. No
    /// Service CIDR is known: each cluster IP has a separate route.
    ///
    /// ```
    /// use proxier::desired::Config;
    ///
    /// let config = Config::new("node-a", vec!["192.0.2.1".parse()?]);
    /// assert!(config.service_cidrs.is_empty());
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn new(node_name: impl Into<Arc<str>>, node_ips: Vec<IpAddr>) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips,
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            shared_cidrs: Vec::new(),
            attached: Vec::new(),
            left_out: Vec::new(),
            has_ipv6: true,
            without_address: None,
            scheduler: Scheduler::RoundRobin,
            drain_timeout: Duration::from_secs(30),
            zone: None,
            pod_interfaces: None,
            masquerade_all: false,
            marks: Marks::default(),
            node_port_addresses: Vec::new(),
            primary_node_ports: false,
            exclude_cidrs: Vec::new(),
            deny_external_ips: false,
            deny_endpoints: Vec::new(),
            strict_arp: false,
            timeouts: Timeouts::default(),
            conntrack: Conntrack::default(),
            follow_node: FollowNode::default(),
        }
    }

    /// The networks whose addresses on this node serve node ports, without overlaps.
    pub fn node_port_networks(&self) -> Vec<IpNet> {
        let mut networks = self.node_port_addresses.clone();
        if self.primary_node_ports {
            networks.extend(self.node_ips.iter().map(|ip| IpNet::from(*ip)));
        }
        if networks.is_empty() {
            networks = vec![Ipv4Net::default().into(), Ipv6Net::default().into()];
        }
        IpNet::aggregate(&networks.iter().map(IpNet::trunc).collect())
    }

    /// Checks what types cannot: at most one node address per family, which other machines can
    /// reach; Service CIDRs only of families that the node has; no node address in a Service CIDR;
    /// no overlap between CIDRs.
    ///
    /// # Errors
    ///
    /// The first [`ConfigError`] found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for family in [Family::V4, Family::V6] {
            let mut addresses = self.node_ips.iter().filter(|ip| Family::of(ip) == family);
            if let (Some(first), Some(second)) = (addresses.next(), addresses.next()) {
                return Err(ConfigError::SeveralNodeIps {
                    first: *first,
                    second: *second,
                });
            }
        }
        let special = self
            .node_ips
            .iter()
            .find_map(|ip| Some((*ip, special(*ip)?)));
        if let Some((node_ip, special)) = special {
            return Err(ConfigError::SpecialNodeIp { node_ip, special });
        }
        for cidr in &self.service_cidrs {
            if let Some(node_ip) = self.node_ips.iter().find(|ip| cidr.contains(*ip)) {
                return Err(ConfigError::NodeInServiceCidr {
                    cidr: *cidr,
                    node_ip: *node_ip,
                });
            }
        }
        let is_spoken = |cidr: &&IpNet| self.serves(Family::of(&cidr.addr()));
        let spoken = self.service_cidrs.iter().filter(is_spoken);
        let may_change = self.follow_node.addresses || self.follow_node.service_cidrs;
        if let Some(cidr) = self.service_cidrs.first()
            && spoken.clone().next().is_none()
            && !may_change
        {
            return Err(ConfigError::NoNodeIp { cidr: *cidr });
        }
        let mut cidrs = spoken.clone().chain(&self.cluster_cidrs);
        for _ in spoken {
            let Some(one) = cidrs.next() else { break };
            if let Some(other) = cidrs.clone().find(|other| overlap(one, other)) {
                return Err(ConfigError::Overlap {
                    one: *one,
                    other: *other,
                });
            }
        }
        Ok(())
    }

    /// The node's address of a family.
    pub fn node_ip(&self, family: Family) -> Option<IpAddr> {
        self.node_ips
            .iter()
            .copied()
            .find(|ip| Family::of(ip) == family)
    }

    /// Whether Services of a family are served.
    pub fn serves(&self, family: Family) -> bool {
        self.node_ip(family).is_some() || self.without_address == Some(family)
    }

    /// Whether clients of cluster IPs are masqueraded if they are not pods.
    pub(crate) fn masquerades_outsiders(&self, family: Family) -> bool {
        let cidrs = self.cluster_cidrs.iter();
        let mut of_family = cidrs.filter(|cidr| Family::of(&cidr.addr()) == family);
        self.masquerade_all || self.pod_interfaces.is_some() || of_family.next().is_some()
    }

    /// Whether an address is in a Service CIDR.
    pub fn in_service_cidr(&self, address: IpAddr) -> bool {
        self.service_cidrs
            .iter()
            .any(|cidr| cidr.contains(&address))
    }
}

/// Settings that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Two node addresses of one family.
    #[error("node IPs {first} and {second} have the same family: give at most one per family")]
    SeveralNodeIps {
        /// The first one.
        first: IpAddr,
        /// The second one.
        second: IpAddr,
    },
    /// A node's address that no other machine can reach.
    #[error("node IP {node_ip} is {special}: give an address that other machines reach")]
    SpecialNodeIp {
        /// The node's address.
        node_ip: IpAddr,
        /// What it is.
        special: &'static str,
    },
    /// A node's address would become a virtual IP.
    #[error(
        "node IP {node_ip} lies in the Service CIDR {cidr}: the node would lose its address; \
         give the cluster's Service CIDR"
    )]
    NodeInServiceCidr {
        /// The Service CIDR.
        cidr: IpNet,
        /// The node's address.
        node_ip: IpAddr,
    },
    /// Two Service CIDRs, or a Service CIDR and a pod CIDR, share addresses.
    #[error("{one} and {other} overlap: Service CIDRs and pod CIDRs must be apart")]
    Overlap {
        /// The Service CIDR.
        one: IpNet,
        /// The CIDR that overlaps it.
        other: IpNet,
    },
    /// Unusable bits of packet marks.
    #[error(
        "masquerade bit {masquerade_bit} and mark mask {mask:#010x}: the bit must be 0 to 31 and \
         not in the mask, which must have at least 9 bits"
    )]
    Marks {
        /// Number of the bit.
        masquerade_bit: u8,
        /// The mask.
        mask: u32,
    },
    /// All Service CIDRs have families in which the node has no address.
    #[error("no node IP for the Service CIDR {cidr}: give a node IP of that family")]
    NoNodeIp {
        /// The Service CIDR.
        cidr: IpNet,
    },
}

pub(super) fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(node_ips: &[&str], service_cidrs: &[&str], cluster_cidrs: &[&str]) -> Config {
        let mut config = Config::new("n", node_ips.iter().map(|ip| ip.parse().unwrap()).collect());
        config.service_cidrs = service_cidrs
            .iter()
            .map(|cidr| cidr.parse().unwrap())
            .collect();
        config.cluster_cidrs = cluster_cidrs
            .iter()
            .map(|cidr| cidr.parse().unwrap())
            .collect();
        config
    }

    #[test]
    fn contradicting_settings_are_rejected() {
        let node = ["192.0.2.1", "2001:db8::1"];
        type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a str);
        let cases: [Case<'_>; 8] = [
            (&["0.0.0.0"], &[], &[], "is the unspecified address"),
            (
                &node,
                &["10.96.0.0/12", "fd00::/112"],
                &["10.244.0.0/16", "fd01::/48"],
                "",
            ),
            (
                &["192.0.2.1", "192.0.2.2"],
                &[],
                &[],
                "have the same family",
            ),
            (
                &["10.96.0.1"],
                &["10.96.0.0/12"],
                &[],
                "lies in the Service CIDR",
            ),
            (&["192.0.2.1"], &["fd00::/112"], &[], "no node IP"),
            (&node, &["10.96.0.0/12", "10.96.0.0/12"], &[], "overlap"),
            (
                &node,
                &["10.96.0.0/24", "10.97.0.0/24", "10.96.0.0/12"],
                &[],
                "overlap",
            ),
            (&node, &["10.96.0.0/12"], &["10.0.0.0/8"], "overlap"),
        ];
        for (node_ips, service_cidrs, cluster_cidrs, expected) in cases {
            let outcome = config(node_ips, service_cidrs, cluster_cidrs).validate();
            let text = outcome.map_or_else(|error| error.to_string(), |()| String::new());
            assert!(
                text.contains(expected) && text.is_empty() == expected.is_empty(),
                "{text}"
            );
        }
    }
}
