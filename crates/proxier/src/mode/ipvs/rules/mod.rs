//! The packet-filter rules of IPVS mode, as a value.
//!
//! All rules are in one nftables table, `inet svcproxy`. svcproxy writes them once; Services are
//! elements of its [`Set`]s. [`Ruleset`]'s `Display` is the text that `nft -f` reads. Four chains,
//! marked with * below, exist only while something needs them ([`Parts`]): `admit` while another program
//! has a filter that can read its marks, the others while Services need them.
//!
//! # A packet's way
//!
//! | chain | hook, priority | what it does |
//! | --- | --- | --- |
//! | `nat-prerouting`, `nat-output` | -100 | set the masquerade bit |
//! | `capture` * | prerouting, -90 | marks packets for load-balancer and external IPs |
//! | `admit` * | input, -10 | marks packets to Services and health checks for iptables' filter |
//! | `filter-input` | input, 20 | rejects, drops, and chooses a virtual server by mark |
//! | IPVS | input, 98 and 99; output, -99 and -98 | chooses a real server |
//! | `after-ipvs` * | output, -500 | clears the marks on packets that IPVS sends |
//! | `filter-output` * | output, -99 | as `filter-input`, for packets of the node itself |
//! | `answers-in`, `answers-out` | input, postrouting, 99 | correct the source of answers |
//! | `nat-postrouting` | postrouting, 100 | masquerades |
//!
//! They jump to separate chains per family. Connection tracking (-200) runs before all chains except
//! `after-ipvs`, and has reassembled fragments by then.
//!
//! # What a packet costs
//!
//! A chain at a hook costs some 350 instructions for each packet there, a lookup in a set 250, and
//! each other part of a rule 35 (`cargo xtask bench data-path`). So chains that nothing needs are not
//! there, and the most common packets leave a chain first:
//!
//! - A packet from pod to pod passes `answers-out` alone, while nothing is captured. It leaves by the
//!   first rule, or as an answer after two lookups: its source in `virtual-servers`, and, while there
//!   are node ports, among the node's addresses.
//! - A packet of an established connection to a virtual server makes one lookup, in `admit`, if that is
//!   there. Without marks, it leaves `filter-input` by the first rule.
//! - An answer from a virtual server makes one lookup, and has its source rewritten.
//! - A packet for the node itself makes four lookups in `admit`, and as many in `filter-input` while
//!   there are marks.
//! - The chains of type nat see only the first packet of a connection. They stay even if nothing is
//!   masqueraded: without them, connection tracking drops a connection to a virtual server whose
//!   client has another one from the same source port to the same real server. With them, it changes
//!   the source port.
//!
//! # Addresses
//!
//! - A cluster IP is local to the node, because a route makes the whole Service CIDR local.
//! - An external or load-balancer IP may belong to another node. Chain `capture` marks only the
//!   Service's port of it, and a policy route delivers marked packets. `filter-input` clears the
//!   mark again; otherwise a packet that is routed once more would return. ICMP errors about
//!   captured connections are captured too. `capture` overwrites marks of other programs. It does
//!   not see packets that other rules have translated already: while kube-proxy's rules exist too
//!   (before svcproxy removes them, or when kube-proxy takes over), its connections go their way.
//! - A node port works on any address of the node in `node-port-addresses`, except loopback
//!   addresses: from another host, a route to 127.0.0.1 would be needed. Addresses of the Service
//!   CIDRs are local too (`fib daddr type local`), but earlier rules have decided on them. The
//!   node's own connections that another program has translated get no mark: IPVS sees a packet
//!   after that translation, and would take over a connection whose first packet is sent again
//!   after an answer.
//!
//! An address virtual server takes precedence over a node port with the same number.
//!
//! # Virtual servers
//!
//! IPVS looks for a virtual server of the packet's whole mark first, then of its address. svcproxy
//! uses marks where an address is not enough: for node ports, which have no single address, and for
//! clients outside the cluster if clients inside have other backends (external traffic policy
//! `Local`). Only the first packet of a connection needs the mark, but every packet gets it,
//! because IPVS and connection tracking may disagree on which packet is the first.
//!
//! All numbers have the bit [`Marks::own`](crate::desired::Marks::own), so no mark of another
//! program equals one of them. `after-ipvs` recognises svcproxy's marks by the same bit. There, a
//! packet passes the output hook for the second time, and a changed mark would make the kernel
//! route it again. The masquerade bit stays for `nat-postrouting` on the first packet of a
//! connection. It is cleared on later ones, whose tunnel might be masqueraded otherwise.
//!
//! # Rejected packets
//!
//! A Service CIDR is local as a whole, so a packet for an unused address or port in it would reach
//! programs that listen on the node's `0.0.0.0`. Chain `filter-input` handles incoming packets
//! before IPVS, and the node's own packets over `lo`:
//!
//! - New connections from outside the source ranges are dropped (chain `restricted`, with a lookup
//!   for each length of networks). The node itself is never locked out:
//!   IPVS handles its packets in the output hook.
//! - New connections to a Service without endpoints are rejected, before IPVS can log that it has
//!   no destination. If the Service has endpoints, but none that this node may use, they are
//!   dropped. Existing connections go on to IPVS as long as it has the virtual server, so that they
//!   can drain.
//! - Answers to the node's own connections pass. Under kube-proxy, such a connection to a VIP has
//!   the VIP as its source too, and outlives kube-proxy.
//! - Packets for a virtual server pass.
//! - Everything else for a Service CIDR is rejected: TCP with a reset, other protocols with the
//!   ICMP error "port unreachable". ICMP itself passes, so VIPs answer to ping, and errors about
//!   the path reach IPVS. While no virtual server has a mark, packets of established connections
//!   pass too: the kernel resets TCP, and svcproxy deletes other flows with their virtual server.
//!
//! While something is captured, packets from other hosts for a Service without endpoints are handled
//! in chain `capture` already, source ranges first. Linux sends no ICMP error from an address that is not the node's, so
//! for an external IP the input hook could not reject. Before routing, the error comes from the node's address. This is
//! not done over `lo`, because until 6.17 the kernel leaked a reference there per rejected packet.
//!
//! The order of the hooks matters. `filter-input` has priority 20: after connection tracking and
//! after the usual host firewalls (0, and 10 for firewalld), which thus decide first; before IPVS
//! at 98 (`ip_vs_core.c`). For the node's own packets, `filter-output` has -99: after connection
//! tracking (-200) and address translation (-100), before IPVS (-98). So it leaves alone what other
//! programs translate: with a node port's mark, IPVS would take the packet for the translated
//! address, and later connections of that source port with it. The chain also rejects packets that
//! would leave the node.
//!
//! # Clients outside the cluster
//!
//! A client is outside if its source is in no cluster CIDR, or, with
//! [`Config::pod_interfaces`](crate::desired::Config::pod_interfaces), if its packets arrive on no
//! pod interface. The node itself is not outside, but is masqueraded as if it were: its address is
//! in no cluster CIDR, and on an overlay network a pod on another node may have no route to it.
//! Without either setting, every client except the node is outside, and none is masqueraded for it.
//!
//! # The source of answers
//!
//! IPVS finds the connection of an answer by the addresses and ports of the client and the real
//! server (`ip_vs_conn_out_get`). These can match several connections: a client reuses a source
//! port for another destination, and two virtual servers can have the same real server. IPVS then
//! gives an answer the virtual IP of the latest connection, and the others hang. Connection
//! tracking can tell them apart: where the real server could not, it has changed the source port.
//! So chain `answer-from` sets the source to the original destination of the connection, in answers
//! from a virtual server's address or, for node ports, from an address of the node. Usually it is
//! correct already. SCTP is excluded, because older kernels cannot correct its checksum, and so are
//! UDP packets without a checksum.
//!
//! # Masquerade
//!
//! A backend answers to the source address that it sees. If the client is not a pod, the answer
//! might bypass this node. So the first packet of a connection to a virtual server from outside
//! gets a mark bit before IPVS, and chain `nat-postrouting` masquerades packets with the bit.
//! Captured packets get the bit or not in `capture`. Packets for a node port get it with the
//! number, for every client; the exception is clients outside with backends on this node only,
//! which must see the client's address. A pod that reaches itself through a VIP is always
//! masqueraded: it would reject a packet with its own address as source.
//!
//! Chains of type nat see only the first packet of a connection, and connection tracking handles
//! the rest. IPVS takes part in it if `net.ipv4.vs.conntrack` is 1, and rewrites the destination
//! between the two chains.

mod hooks;
mod parts;
mod pods;
mod range;
mod rule;
mod ruleset;
mod set;

pub(crate) use hooks::{REFUSED, icmp, loopback};
pub use parts::Parts;
pub(crate) use pods::{Outside, Pods};
pub(crate) use range::{lengths as range_lengths, split as split_range};
#[cfg(feature = "ipvs")]
pub(crate) use range::{mask as range_mask, tag as range_tag, untagged as untagged_range};
pub(crate) use rule::{
    Chain, ChainKind, CtState, Hook, HookPoint, Rule, Statement, TransportProtocol,
};
#[cfg(feature = "ipvs")]
pub(crate) use ruleset::{ADMIT, INPUT};
pub use ruleset::{Fingerprint, Ruleset, TABLE};
#[cfg_attr(
    not(feature = "nftables"),
    allow(unused_imports, reason = "the text of mode nftables uses it")
)]
pub(crate) use set::of_network;
pub use set::{Field, Set};
