//! The sysctls that svcproxy uses.

use std::fmt;

/// A sysctl that svcproxy reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sysctl(&'static str);

impl Sysctl {
    /// Makes connection tracking see IPVS's connections; masquerading needs it.
    pub const VS_CONNTRACK: Self = Self("net.ipv4.vs.conntrack");
    /// Ends connections to a deleted real server at once.
    pub const VS_EXPIRE_NODEST_CONN: Self = Self("net.ipv4.vs.expire_nodest_conn");
    /// Stops persistence from choosing a real server of weight 0.
    pub(crate) const VS_EXPIRE_QUIESCENT_TEMPLATE: Self =
        Self("net.ipv4.vs.expire_quiescent_template");
    /// IPv4 forwarding.
    pub(crate) const IPV4_FORWARD: Self = Self("net.ipv4.ip_forward");
    /// IPv6 forwarding.
    pub(crate) const IPV6_FORWARD: Self = Self("net.ipv6.conf.all.forwarding");
    /// Answer ARP requests only for addresses of the interface that receives them.
    pub(crate) const ARP_IGNORE: Self = Self("net.ipv4.conf.all.arp_ignore");
    /// Send ARP requests with an address of the outgoing interface.
    pub(crate) const ARP_ANNOUNCE: Self = Self("net.ipv4.conf.all.arp_announce");
    /// Maximum number of tracked connections.
    pub const CT_MAX: Self = Self("net.netfilter.nf_conntrack_max");
    /// Size of the hash table of tracked connections.
    pub const CT_BUCKETS: Self = Self("net.netfilter.nf_conntrack_buckets");
    /// Timeout of idle TCP connections, in seconds.
    pub const CT_TCP_ESTABLISHED: Self = Self("net.netfilter.nf_conntrack_tcp_timeout_established");
    /// Timeout of TCP connections in CLOSE_WAIT, in seconds.
    pub(crate) const CT_TCP_CLOSE_WAIT: Self =
        Self("net.netfilter.nf_conntrack_tcp_timeout_close_wait");
    /// Accept TCP packets outside the window.
    pub(crate) const CT_TCP_BE_LIBERAL: Self = Self("net.netfilter.nf_conntrack_tcp_be_liberal");
    /// Timeout of UDP flows without replies, in seconds.
    pub(crate) const CT_UDP: Self = Self("net.netfilter.nf_conntrack_udp_timeout");
    /// Timeout of UDP flows with replies, in seconds.
    pub(crate) const CT_UDP_STREAM: Self = Self("net.netfilter.nf_conntrack_udp_timeout_stream");
    /// All sysctls.
    pub const ALL: [Self; 14] = [
        Self::VS_CONNTRACK,
        Self::VS_EXPIRE_NODEST_CONN,
        Self::VS_EXPIRE_QUIESCENT_TEMPLATE,
        Self::IPV4_FORWARD,
        Self::IPV6_FORWARD,
        Self::ARP_IGNORE,
        Self::ARP_ANNOUNCE,
        Self::CT_MAX,
        Self::CT_BUCKETS,
        Self::CT_TCP_ESTABLISHED,
        Self::CT_TCP_CLOSE_WAIT,
        Self::CT_TCP_BE_LIBERAL,
        Self::CT_UDP,
        Self::CT_UDP_STREAM,
    ];

    /// The name, as in sysctl(8): `net.ipv4.vs.conntrack`.
    pub fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
