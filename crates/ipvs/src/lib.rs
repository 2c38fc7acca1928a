//! Linux IPVS, the kernel's layer-4 load balancer, over generic netlink.
//!
//! A **virtual server** is an address and port, or a firewall mark. Its packets go to one of its
//! **real servers**, which a **scheduler** chooses and a **forwarding method** reaches. The kernel
//! calls them service and destination; this crate uses the terms of ipvsadm(8).
//!
//! # A working virtual server
//!
//! You need root, and a kernel with IPVS: `Client::open` makes it load the module `ip_vs`.
//!
//! ```no_run
//! use ipvs::{Client, RealServer, Scheduler, VirtualServer, VirtualServerKey};
//!
//! let mut client = Client::open()?;
//!
//! // Distribute connections to 10.96.0.1:80 over two servers in turn, with NAT.
//! let web = VirtualServer::new(VirtualServerKey::tcp("10.96.0.1:80".parse()?))
//!     .with_scheduler(Scheduler::RoundRobin);
//! client.add_virtual_server(&web)?;
//! for address in ["10.244.0.1:8080", "10.244.0.2:8080"] {
//!     client.add_real_server(&web.key, &RealServer::new(address.parse()?))?;
//! }
//!
//! // Read it back, and print it like ipvsadm.
//! for entry in client.virtual_servers()? {
//!     println!("{}", ipvs::ipvsadm::virtual_server(&entry.server));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The address must be local to this machine for packets to arrive: `ip addr add 10.96.0.1/32 dev
//! lo`. With masquerade the replies must pass this machine: `sysctl -w net.ipv4.ip_forward=1`, and
//! either the real servers route through it, or it rewrites the source address too
//! (`net.ipv4.vs.conntrack=1` and a masquerade rule).
//!
//! # What to use
//!
//! - One change: the methods of [`Client`]. Many changes: [`Client::apply`], up to 128 in a
//!   datagram, each with its own outcome.
//! - A set of virtual servers that you own: [`Client::reconcile`], or [`Plan`] to look at the
//!   changes first.
//! - Everything there is: [`Client::table`].
//! - Async code: `AsyncClient` (feature `tokio`). Tests: `FakeKernel` (feature `testing`).
//! - Rules of ipvsadm: [`ipvsadm::parse`], [`ipvsadm::rule`]. JSON and other formats: feature
//!   `serde`.
//! - Sysctls and the state of the hash tables: `sysctl` (feature `client`), [`Status`].
//! - Your own netlink connection: [`Message`].
//!
//! Three examples are small agents: `director` (health checks and a sorry server), `registry` (a
//! proxy for a list of services in a file) and `dump` (backup and restore).
//!
//! # Features
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `client` (default) | `Socket`, `Client::open`, `sysctl` |
//! | `tokio` | `AsyncClient` |
//! | `testing` | `FakeKernel`, the kernel's IPVS in memory |
//! | `serde` | `Serialize` and `Deserialize` |
//! | `netlink-packet` | the traits of the rust-netlink crates for `Message`; follows their versions, which are below 1.0 |
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
//! | `-L`, `-L -t …` | [`Client::table`], [`virtual_servers`](Client::virtual_servers), [`virtual_server`](Client::virtual_server), [`real_servers`](Client::real_servers) |
//! | `-L -c` | not in netlink: read `/proc/net/ip_vs_conn` |
//! | `-L --stats`, `--rate` | [`VirtualServerEntry::stats`], [`RealServerEntry::stats`], [`Statistics::rates`] |
//! | `-L --thresholds`, `--persistent-conn` | [`RealServer`], [`RealServerEntry::connections`] |
//! | `-Z` | [`Client::zero_statistics`] |
//! | `-S -n` | [`ipvsadm::virtual_server`], [`ipvsadm::real_server`], [`ipvsadm::rule`] |
//! | `-R` | [`ipvsadm::parse`] and [`Client::apply`] |
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
//! # Kernel behaviour to know
//!
//! - The kernel reads a listing in several steps, and on old kernels its position counts over all
//!   network namespaces (read in Linux 5.10, seen in 6.1). If a virtual server is *deleted*
//!   meanwhile, in any namespace, another one can be missing from the listing, without a sign. If
//!   one is *added*, another one can come twice; then the crate lists again. So a virtual server
//!   that is not in a listing can exist: adding it fails with [`ErrorKind::AlreadyExists`].
//! - The kernel loads a scheduler's module while it holds the mutex of IPVS. `lblc` and `lblcr` also
//!   need the lock of all network namespaces: if one is being removed, the two wait for each other
//!   and IPVS hangs until the next boot (seen in 6.1). Load them beforehand with `modprobe`.
//! - A real server is rejected as not unicast ([`ErrorKind::Rejected`]) in a namespace whose `lo`
//!   was never up.
//! - Adding real servers is slow for two minutes after many were deleted, since each addition
//!   searches the deleted ones (`ip_vs_trash_get_dest`). Change tables in place.
//! - An update sets everything in [`VirtualServer`] or [`RealServer`]. Keys cannot be changed.
//! - The kernel accepts protocols that it does not forward, port 0 without persistence, and an IPv4
//!   netmask of 0. The crate rejects them with [`ErrorKind::Invalid`].
//! - What the kernel stores can differ from what was written. Configurations are therefore compared
//!   by effect: a netmask of all ones equals none, `Protocol::Other(6)` equals TCP. For sync daemons
//!   there is [`SyncDaemon::is_met_by`].
//!
//! # Kernel versions
//!
//! Linux 4.19 and later; tested on 6.1 and 6.12. Newer features, and older ones that explain an
//! optional field:
//!
//! | | Linux |
//! | --- | --- |
//! | real servers of the other address family, by tunnel | 3.18 |
//! | `fo` | 3.18 |
//! | statistics in 64 bits | 4.1 |
//! | length, group, port and TTL of sync daemons; `ovf` | 4.3 |
//! | `mh` | 4.18 |
//! | tunnels by GUE and GRE; older kernels ignore the type and use IPIP | 5.3 |
//! | `twos` | 5.12, where it is built |
//! | sysctl `run_estimation` | 5.16 |
//! | sysctls `est_cpulist`, `est_nice` | 6.2 |
//! | sysctls `conn_lfactor`, `svc_lfactor`; `/proc/net/ip_vs_status` | 7.1 |
//! | sysctl `conn_max` | 7.2 |
//!
//! Attributes and counters of newer kernels are kept in the `unknown` fields of what a client
//! reads, and so are names and numbers that the crate does not know.
//!
//! # The fake kernel
//!
//! `FakeKernel` is compared with the real one: `tests/differential.rs` makes 1,500 random changes to
//! both, and compares each outcome and the whole state after it. As measured in November 2026 on
//! Linux 6.1 and 6.12, there is no difference: both accept 288 of the changes, and reject the others
//! with the same error, of 12 kinds. `IPVS_CHANGES` and `IPVS_SEED` set other numbers.
//!
//! # Comparison
//!
//! As read in their sources in November 2026. The last two are parts of larger programs: the file
//! `libipvs.c` of keepalived, and the package `ipvs` of seesaw.
//!
//! | | this crate | moby/ipvs (Go) | cloudflare/ipvs (Go) | libipvs of ipvsadm 1.31 (C) | nlrs 0.2.3 | netlink-packet-ipvs 0.0.1 | keepalived (C) | seesaw (Go) |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | many changes a datagram, an outcome for each | yes | no | no | no: a socket for each message | no | no socket of its own | no | no |
//! | firewall marks | yes | yes | yes | yes | a table with one cannot be listed | wrong byte order | yes | yes |
//! | tunnels IPIP, GUE, GRE | yes | IPIP | yes | yes | IPIP | no: panics on all but masquerade | yes | IPIP |
//! | real servers of the other family | yes | no: the family is not sent | yes | yes | no | no | yes | no |
//! | statistics | 64 bits, rates | 32 bits, rates | 64 bits, rates | 64 bits, rates | no | 64 bits, rates | 64 bits, rates | 32 bits, rates |
//! | zero statistics | yes | no | no | yes | no | no | yes | no |
//! | timeouts | yes | yes | yes | yes | no | no | yes | no |
//! | sync daemons | yes | no | no | yes | no | no | yes | no |
//! | persistence engines | yes | set, not read | no | yes | read, not set | no | yes | yes |
//! | unknown attributes | kept | dropped | dropped | dropped | their number is kept | a panic | dropped | dropped |
//! | malformed reply | an error | an error; a panic where a value is short | an error; a panic where an address is short | an error | an error | an error or a panic | an error | not examined |
//! | interrupted listing | repeated | not noticed | not noticed | an error | not noticed | up to its user | not examined | not examined |
//! | typed errors | yes | errno or text | errno | errno | yes | text | errno | errno or text |
//! | async | yes, tokio | no | no | no | yes, tokio | up to its user | no | no |
//! | a fake for tests | yes | no | no: an interface to implement | no | no | no | no | no |
//! | network namespaces | yes | yes | the caller's | no | yes | up to its user | one, configured | the caller's |
//!
//! # Performance
//!
//! Compared with raw netlink: the same messages encoded beforehand, in datagrams of the same size,
//! with replies read only for their end. The best of six alternating runs, each in a new network
//! namespace, in a QEMU machine without hardware acceleration (TCG, 2 CPUs, Debian's Linux 6.1).
//! Everything is slower there than on a real machine: compare the ratios.
//!
//! | | ipvs / raw |
//! | --- | --- |
//! | add 10,000 virtual servers with 3 real servers each, in one batch | 1.02 |
//! | list all of them | 1.06 |
//! | change one weight, 20,000 times | 1.05 |
//!
//! The program is `benches/benches/ipvs_kernel.rs`. On a busy host each ratio varies by some
//! hundredths.
//!
//! Encoding a message allocates nothing. A batch of any length allocates two lists, as counted in
//! `tests/allocations.rs`. A [`VirtualServer`] takes at most 88 bytes, a [`RealServer`] 48.
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
#[cfg(feature = "client")]
mod namespace;
mod plan;
mod protocol;
mod real_server;
mod scheduler;
#[cfg(feature = "serde")]
mod serde;
mod settings;
mod status;
mod sync_daemon;
#[cfg(feature = "client")]
pub mod sysctl;
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
#[cfg(feature = "client")]
pub use namespace::in_namespace;
pub use plan::{Plan, TableEntry, Wanted};
pub use protocol::{Family, Protocol};
pub use real_server::{Forwarding, RealServer, Tunnel, TunnelChecksum};
pub use scheduler::{PersistenceEngine, Scheduler};
pub use settings::{Info, Timeouts, TimeoutsEntry, Version};
pub use status::{HashTable, Status};
pub use sync_daemon::{InterfaceName, SyncDaemon, SyncDaemonEntry, SyncRole};
pub use virtual_server::{Flags, Netmask, Persistence, VirtualServer};
pub use wire::{DecodeError, Message};
