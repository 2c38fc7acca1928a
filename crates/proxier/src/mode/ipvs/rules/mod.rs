//! The packet-filter rules that IPVS mode needs, as a value.
//!
//! All of them are in one nftables table, `inet svcproxy`. They are written once: Services come
//! and go as elements of its [`Set`]s. [`Ruleset`]'s `Display` is the text that `nft -f` takes.
//!
//! # The way of a packet
//!
//! | chain | hook, priority | what it does |
//! | --- | --- | --- |
//! | `nat-prerouting`, `nat-output` | -100 | marks what is to be masqueraded |
//! | `capture` | prerouting, -90 | marks what this node shall have whoever's the address is |
//! | `filter-input` | input, 20 | refuses, drops, and chooses a virtual server by mark |
//! | IPVS | input, 98; output, -98 | |
//! | `after-ipvs` | output, -500 | takes those marks off what IPVS sends on |
//! | `filter-output` | output, -99 | `filter-input` for what the node itself sends |
//! | `answers-in`, `answers-out` | input, postrouting, 99 | gives answers their source |
//! | `nat-postrouting` | postrouting, 100 | masquerades |
//!
//! Each family has chains of its own below the two filters. Connection tracking (-200) comes
//! before all but `after-ipvs`, and has put fragments together by then.
//!
//! An established connection to something that is no Service's meets three lookups on its way in:
//! `captured`, `virtual-servers` and `service-cidrs`; then one of its destination among the node's
//! addresses and in `node-ports`. What the node sends out meets none, what it forwards and what
//! answers the node's own the first. What goes back to who opened the connection meets two more, of
//! its source in `virtual-servers` and among the node's addresses.
//!
//! # Whose address it is
//!
//! - A cluster IP is local to the node as the whole Service CIDR is, by a route.
//! - An external or load balancer's address is somebody else's, another node's perhaps. Chain
//!   `capture` marks just the address's port, and a policy route delivers what is marked; the
//!   mark comes off again in `filter-input`, or whatever is routed once more would come back.
//!   ICMP errors about a connection that was captured are captured too. Whoever else may have
//!   marked such a packet before is overruled, but what was translated by then is no more for the
//!   address: as long as kube-proxy's rules are there beside ours, before they are removed or
//!   when it takes over, its connections go their way.
//! - A node port is any address of the node in `node-port-addresses`, but for loopback ones:
//!   elsewhere a route would be needed that leads to 127.0.0.1. The addresses of the Service CIDRs
//!   are local too (`fib daddr type local`), and are no node's: what is for them has been decided
//!   on before. Connections of the node's own that somebody else has translated get no mark: IPVS
//!   looks at a packet behind that translation, and would take one that opens a connection and is
//!   sent again, when there has been an answer, for its own.
//!
//! An address's virtual server goes before a node port of the same number.
//!
//! # Which virtual server
//!
//! IPVS takes a packet for the virtual server of its whole mark, if there is one, and of its
//! address if not. Marks serve where an address does not do: for node ports, which have no one
//! address, and for clients from outside of the cluster where those in it have other backends (the
//! Service's external traffic policy is `Local`). Only what opens a connection needs the mark, but
//! every packet gets it: IPVS and connection tracking need not agree on what is new.
//!
//! Numbers have the bit [`Marks::ours`](crate::desired::Marks::ours), so no mark of another's can
//! be one of them. It also tells `after-ipvs` what to take off. There an IPVS packet is on its
//! second way through the output hook, and a mark that is not its own would have it rerouted; the
//! masquerade bit stays for `nat-postrouting` on the first packet of a connection, and goes from
//! the others, whose tunnel might be masqueraded for it.
//!
//! # What is refused
//!
//! A Service CIDR is local to the node as a whole, so a packet for an address or port in it that
//! no virtual server takes would reach whatever listens on the node's `0.0.0.0`. Chain
//! `filter-input` stands before IPVS, for packets that come in, those of the node itself too, over
//! `lo`:
//!
//! - what is new and from none of the networks that may reach it is dropped. The node itself is
//!   never locked out: IPVS takes what it sends in the output hook;
//! - what is new and for a Service without endpoints is refused, before IPVS can log that it has
//!   no destination; where there are some, and none that this node may use, it is dropped.
//!   Connections that are there go on to IPVS as long as it has the virtual server, so that they
//!   can be drained;
//! - what answers a connection of the node itself goes on: under kube-proxy such a connection to
//!   a VIP has the VIP for its source too, and outlives it;
//! - what is for a virtual server is let through;
//! - all else for a Service CIDR is refused: TCP with a reset, any other protocol with the ICMP
//!   error "port unreachable". Only ICMP itself passes, so VIPs answer to ping, and errors about
//!   the path reach IPVS.
//!
//! What comes in from elsewhere for a Service without endpoints meets that fate in chain `capture`
//! already. Linux sends no ICMP error from an address that is no node's own, so an external
//! address could not refuse in the input hook; before routing the error comes from the node's
//! address. Not so over `lo`: until 6.17 the kernel lost a reference there for each packet
//! refused.
//!
//! Chain `filter-input` has priority 20: after IPVS's connection tracking and after the usual
//! host firewalls (0, and 10 for firewalld), which so have the first word, as it only ever
//! refuses; before IPVS at 98 (`ip_vs_core.c`). What the node sends IPVS takes earlier, where there
//! is a virtual server: chain `filter-output` refuses that, at -99: after connection tracking
//! (-200) and address translation (-100), before IPVS (-98). So what others translate stays theirs:
//! with the mark of a node port IPVS would take it all the same, for the translated address, and
//! later connections of that source port with it. The chain also refuses what would leave the node.
//!
//! # Who is outside
//!
//! Whoever's source is in no cluster CIDR, or, with
//! [`Config::pod_interfaces`](crate::desired::Config::pod_interfaces), whose packets come in by
//! no interface of pods. The node itself is not, but is masqueraded as if it were: its address is
//! in no cluster CIDR, and on an overlay network a pod elsewhere may know no way back to it.
//! Without either setting all but the node are outside, and nobody is masqueraded for that.
//!
//! # From whom answers come
//!
//! IPVS knows whose a real server's answer is by the client's address and port and the real
//! server's (`ip_vs_conn_out_get`), and that may be of several connections: a client's system uses
//! a source port again for another destination, and two virtual servers may have one real server.
//! IPVS gives an answer the address of the one it met last, and the other connections hang.
//! Connection tracking does not mix them up: where the real server would, it has changed the
//! source port. So chain `answer-from` makes the source what the connection's first packet was
//! for, in what goes back from a virtual server's address or, as node ports need it, from one of
//! the node's own. Mostly that is what it has already. SCTP is left out, since older kernels cannot
//! mend its checksum, and so are UDP packets without one.
//!
//! # What is masqueraded
//!
//! A backend answers to the source address it sees. If the client is no pod, the answer might
//! take a way that does not lead through this node, so the first packet of a connection to a
//! virtual server from outside gets a mark bit before IPVS, and chain `nat-postrouting`
//! masquerades what has it. What is captured has or lacks the bit from there on, and what is for
//! a node port gets it with the number: whoever the client is, it is masqueraded, but from
//! outside to backends of this node alone, who are to see it. A pod that reaches itself through a
//! VIP is masqueraded in any case: it would take the packet's source, its own address, for a
//! forgery.
//!
//! Chains of type nat see the first packet of a connection only, and connection tracking does
//! the rest; IPVS leaves its connections to that if `net.ipv4.vs.conntrack` is on. IPVS rewrites
//! the destination between the two chains.

mod chain;
mod fingerprint;
mod hooks;
mod pods;
mod rule;
mod ruleset;
mod set;

pub use chain::{Chain, ChainKind, Hook, HookPoint};
pub use fingerprint::Fingerprint;
pub use rule::{Rule, State, Statement, TransportProtocol};
pub use ruleset::{Ruleset, TABLE};
pub use set::{Field, Set};
