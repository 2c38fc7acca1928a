//! Network namespaces as hosts on one machine, for svcproxy's tests, benchmarks and demo.
//!
//! - [`Namespace`]: one host's network; removed when dropped.
//! - [`Topology`]: nodes with pods, and a client outside, in IPv4 and IPv6.
//! - [`Backend`]: a server that answers with its name and the source address it saw.
//! - [`ApiServer`]: a fake API server, with faults on demand.
//! - [`ask`], [`Client`], [`ping`]: clients that distinguish failures.
//! - [`spawn_confined`]: a process that may make the system calls of a profile alone.
//! - [`traffic`]: which endpoints answer a Service's clients, and which source address they see:
//!   the table, and its test.
//!
//! Everything but the API server, which is on loopback, needs root and the `ip` program; no packet
//! leaves these namespaces.
//!
//! ```no_run
//! use std::net::SocketAddr;
//! use testbed::{Backend, Protocol, Topology, ask};
//!
//! let topology = Topology::new("example", &[2])?;
//! let pod = &topology.node().pods[0];
//! let address = SocketAddr::from((pod.v4, 8080));
//! let _web = Backend::start(pod, Protocol::Http, address, "web-0")?;
//!
//! let answer = ask(&topology.node().host, Protocol::Http, address).expect("an answer");
//! assert_eq!(answer.backend, "web-0");
//! # Ok::<(), testbed::Error>(())
//! ```

#![forbid(unsafe_code)]

mod api_server;
mod backend;
mod client;
mod command;
mod confined;
mod kube_proxy;
mod namespace;
mod ping;
mod port;
mod topology;
pub mod traffic;
mod wait;

use nix::sys::socket::{setsockopt, sockopt};

pub use api_server::{
    ApiServer, Ask, Authority, Behaviour, Clients, Cut, Fault, ForwardProxy, Https, Identity,
    Resource, Verb, protobuf,
};
pub use backend::Backend;
pub use client::{Answer, AskError, Client, Connection, ask};
pub use command::Error;
pub use confined::spawn_confined;
pub use kube_proxy::{KubeProxy, ServicePort};
pub use namespace::Namespace;
pub use ping::ping;
pub use port::reserve_port;
pub use topology::{
    EXTERNAL_CIDR_V4, EXTERNAL_CIDR_V6, Family, Host, Node, POD_CIDR_V4, POD_CIDR_V6,
    SERVICE_CIDR_V4, SERVICE_CIDR_V6, Topology,
};
pub use wait::{eventually, stays};

/// The protocol of a [`Backend`] and a [`Client`].
///
/// Each request is one line and each answer is one line, so a connection can carry many;
/// except for HTTP, which closes after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0 over TCP.
    Http,
    /// Lines over TCP.
    Tcp,
    /// A datagram for each line.
    Udp,
    /// Lines over a one-to-one SCTP association; needs the kernel module `sctp`.
    Sctp,
}

impl Protocol {
    /// An unbound socket of this protocol in the calling thread's namespace.
    fn socket(self, address: std::net::SocketAddr) -> std::io::Result<socket2::Socket> {
        /// IANA's number for SCTP; socket2 names it on some systems only.
        const SCTP: i32 = 132;
        let (kind, protocol) = match self {
            Self::Http | Self::Tcp => (socket2::Type::STREAM, socket2::Protocol::TCP),
            Self::Udp => (socket2::Type::DGRAM, socket2::Protocol::UDP),
            Self::Sctp => (socket2::Type::STREAM, SCTP.into()),
        };
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(address), kind, Some(protocol))?;
        if self == Self::Sctp {
            // Without this option, SCTP does not report ICMP errors.
            if address.is_ipv4() {
                setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            } else {
                setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            }
        }
        Ok(socket)
    }
}
