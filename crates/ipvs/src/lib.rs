//! Linux IPVS, the kernel's layer-4 load balancer, over generic netlink.
//!
//! A **virtual server** is an address and port, or a firewall mark; its packets go to one of its
//! **real servers**, which a **scheduler** chooses and a **forwarding method** reaches. The
//! kernel calls them service and destination; this crate keeps to the words of ipvsadm(8).
//!
//! # From nothing to a working virtual server
//!
//! It takes root, and a kernel with IPVS: `Client::open` has it load the module `ip_vs`.
//!
//! ```no_run
//! use ipvs::{Client, RealServer, Scheduler, VirtualServer, VirtualServerKey};
//!
//! let mut client = Client::open()?;
//!
//! // Connections to 10.96.0.1:80 go in turn to two servers, their address rewritten.
//! let web = VirtualServer::new(VirtualServerKey::tcp("10.96.0.1:80".parse()?))
//!     .with_scheduler(Scheduler::RoundRobin);
//! client.add_virtual_server(&web)?;
//! for address in ["10.244.0.1:8080", "10.244.0.2:8080"] {
//!     client.add_real_server(&web.key, &RealServer::new(address.parse()?))?;
//! }
//!
//! // Read it back, as ipvsadm would write it.
//! for entry in client.virtual_servers()? {
//!     println!("{}", ipvs::ipvsadm::virtual_server(&entry.server));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For packets to arrive, the address must be this machine's: `ip addr add 10.96.0.1/32 dev lo`.
//! With masquerade the answers must come back through this machine as well: `sysctl -w
//! net.ipv4.ip_forward=1`, and the real servers route through it, or it rewrites the source
//! address too (`net.ipv4.vs.conntrack=1` and a masquerade rule).
//!
//! Many changes at once are a batch, [`Client::apply`]. In async code there is `AsyncClient`
//! (feature `tokio`), in tests `FakeKernel` (feature `testing`), and [`Message`] for
//! one's own netlink connection.
//!
//! # Features
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `client` (default) | `Socket` and `Client::open` |
//! | `tokio` | `AsyncClient` |
//! | `testing` | `FakeKernel`, the kernel's IPVS in memory |
//!
//! Without features the crate is types, text and wire format, and makes no system call.
//!
//! # Coming from ipvsadm
//!
//! | ipvsadm | here |
//! | --- | --- |
//! | `-A`, `-E`, `-D` | [`Client::add_virtual_server`], [`update_virtual_server`](Client::update_virtual_server), [`delete_virtual_server`](Client::delete_virtual_server) |
//! | `-a`, `-e`, `-d` | [`Client::add_real_server`], [`update_real_server`](Client::update_real_server), [`delete_real_server`](Client::delete_real_server) |
//! | `-C` | [`Client::flush`] |
//! | `-L`, `-L -t …` | [`Client::virtual_servers`], [`virtual_server`](Client::virtual_server), [`real_servers`](Client::real_servers) |
//! | `-L -c` | not in netlink: read `/proc/net/ip_vs_conn` |
//! | `-L --stats`, `--rate` | [`VirtualServerEntry::stats`], [`RealServerEntry::stats`], [`Statistics::rates`] |
//! | `-L --thresholds`, `--persistent-conn` | [`RealServer`], [`RealServerEntry::connections`] |
//! | `-Z` | [`Client::zero_statistics`] |
//! | `-S -n` | [`ipvsadm::virtual_server`], [`ipvsadm::real_server`] |
//! | `-R` | [`Client::apply`] |
//! | `--set`, `-L --timeout` | [`Client::set_timeouts`], [`Client::timeouts`] |
//! | `--start-daemon`, `--stop-daemon`, `-L --daemon` | [`Client::start_sync_daemon`], [`stop_sync_daemon`](Client::stop_sync_daemon), [`sync_daemons`](Client::sync_daemons) |
//! | `-t`, `-u`, `--sctp-service` | [`VirtualServerKey::tcp`], [`udp`](VirtualServerKey::udp), [`sctp`](VirtualServerKey::sctp) |
//! | `-f`, `-f … -6` | [`VirtualServerKey::firewall_mark`] |
//! | `-s` | [`VirtualServer::with_scheduler`]; the default is `rr` here, `wlc` there |
//! | `-b` | [`VirtualServer::with_flags`] |
//! | `-o` | [`Flags::ONE_PACKET`] |
//! | `-p`, `-M` | [`Persistence`], [`Netmask`] |
//! | `--pe` | [`VirtualServer::with_engine`] |
//! | `-m`, `-g`, `-i` | [`Forwarding`]; the default is masquerade here, `-g` there |
//! | `--tun-type`, `--tun-port`, `--tun-csum`, … | [`Tunnel`] |
//! | `-w` | [`RealServer::with_weight`] |
//! | `-x`, `-y` | [`RealServer::with_thresholds`] |
//!
//! # What the kernel does that may surprise
//!
//! - A listing is several steps for the kernel, and its place in the table is counted over all
//!   network namespaces (read in Linux 5.10, seen in 6.1). If a virtual server is *deleted*
//!   meanwhile, in whichever namespace, one may be left out; nothing tells. If one is *added*,
//!   another may come twice; then the listing is begun anew. So what a listing does not show may
//!   be there all the same: adding it says [`ErrorKind::AlreadyExists`].
//! - A scheduler's module is loaded while IPVS's mutex is held. `lblc` and `lblcr` also want the
//!   lock of all network namespaces: if one is removed just then, the two wait for each other
//!   and IPVS is stuck until the next boot (seen in 6.1). Load them beforehand, with `modprobe`.
//! - A real server in a namespace whose `lo` was never up is refused as not unicast
//!   ([`ErrorKind::Rejected`]).
//! - Adding real servers is slow for two minutes after many were deleted: each add looks through
//!   the deleted ones. Change tables in place.
//! - An update sets all that [`VirtualServer`] and [`RealServer`] hold. Neither key can change.
//! - The kernel takes protocols it does not carry, port 0 without persistence and an IPv4 netmask
//!   of 0 without complaint. The crate refuses them, [`ErrorKind::Invalid`].
//!
//! # Which kernel
//!
//! Linux 4.19 and later; tested on 6.1 and 6.12. Newer than the rest, or older than 4.19 where
//! that explains an optional field:
//!
//! | | Linux |
//! | --- | --- |
//! | real servers of the other address family, by tunnel | 3.18 |
//! | `fo` | 3.18 |
//! | statistics in 64 bits | 4.1 |
//! | length, group, port and TTL of sync daemons; `ovf` | 4.3 |
//! | `mh` | 4.18 |
//! | tunnels by GUE and GRE; an older kernel ignores the type and uses IPIP | 5.3 |
//! | `twos` | 5.12, where it is built |
//!
//! Attributes of newer kernels are kept, in [`VirtualServerEntry::unknown`] and
//! [`RealServerEntry::unknown`], and so are names and numbers that the crate does not know.
//!
//! # Beside others
//!
//! As read in their sources in November 2026.
//!
//! | | this crate | moby/ipvs (Go) | libipvs of ipvsadm 1.31 (C) | nlrs 0.2.3 | netlink-packet-ipvs 0.0.1 |
//! | --- | --- | --- | --- | --- | --- |
//! | many changes a datagram, an outcome for each | yes | no | no: a socket a message | no | no socket of its own |
//! | firewall marks | yes | yes | yes | a table with one cannot be listed | read in the wrong byte order |
//! | tunnels IPIP, GUE, GRE | yes | IPIP | yes | IPIP | no: panics on all but masquerade |
//! | real servers of the other family | yes | no: the family is not sent | yes | no | no |
//! | statistics | 64 bits, rates | 32 bits, rates | 64 bits, rates | no | 64 bits, rates |
//! | statistics to zero | yes | no | yes | no | no |
//! | timeouts | yes | yes | yes | no | no |
//! | sync daemons | yes | no | yes | no | no |
//! | persistence engines | yes | set, not read | yes | read, not set | no |
//! | unknown attributes | kept | dropped | dropped | their number is kept | a panic |
//! | malformed reply | an error | an error; a panic where a value is short | an error | an error | an error or a panic |
//! | interrupted listing | begun anew | not noticed | an error | not noticed | up to its user |
//! | typed errors | yes | errno or text | errno | yes | text |
//! | async | yes, tokio | no | no | yes, tokio | up to its user |
//! | a fake for tests | yes | no | no | no | no |
//! | network namespaces | yes | yes | no | yes | up to its user |
//!
//! # What it costs
//!
//! Against raw netlink: the same messages encoded beforehand, in datagrams of the same size, the
//! replies looked at for their end alone. The best of six runs in turn, each in a fresh network
//! namespace, in a QEMU machine without hardware acceleration (TCG, 2 CPUs, Debian's Linux 6.1),
//! where all is slower than on a real machine: the ratios are what counts.
//!
//! | | ipvs / raw |
//! | --- | --- |
//! | add 10,000 virtual servers of 3 real servers each, in one batch | 1.02 |
//! | list all of them | 1.06 |
//! | change one weight, 20,000 times | 1.05 |
//!
//! The program is `benches/benches/ipvs_kernel.rs`. A host busy with other work moves each ratio
//! by some hundredths.
//!
//! Encoding allocates nothing a message, and a batch two lists however long it is (counted, in
//! `tests/allocations.rs`). A [`VirtualServer`] takes at most 88 bytes, a [`RealServer`] 48.
//!
//! The minimum Rust version is 1.89.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod change;
mod client;
mod entry;
mod error;
#[cfg(any(feature = "testing", test))]
mod fake;
pub mod ipvsadm;
mod key;
mod name;
mod protocol;
mod real_server;
mod scheduler;
mod settings;
mod sync_daemon;
mod virtual_server;
mod wire;

pub use change::Change;
#[cfg(feature = "tokio")]
pub use client::AsyncClient;
#[cfg(feature = "client")]
pub use client::Socket;
pub use client::{Client, Counters, Outcomes, Transport};
pub use entry::{
    Connections, Rates, RealServerEntry, Statistics, UnknownAttribute, VirtualServerEntry,
};
pub use error::{Error, ErrorKind, Invalid, Object, Operation, ParseError, Result};
#[cfg(any(feature = "testing", test))]
pub use fake::{FakeClient, FakeKernel, FakeSocket};
pub use key::{RealServerKey, VirtualServerKey};
pub use name::Name;
pub use protocol::{Family, Protocol};
pub use real_server::{Forwarding, RealServer, Tunnel, TunnelChecksum};
pub use scheduler::{PersistenceEngine, Scheduler};
pub use settings::{Info, Timeouts, Version};
pub use sync_daemon::{InterfaceName, SyncDaemon, SyncRole};
pub use virtual_server::{Flags, Netmask, Persistence, VirtualServer};
pub use wire::{DecodeError, Message};
