//! The table of which endpoints answer a client of a Service, and which source address they see
//! (`docs/traffic.md`); and a cluster that tests each of its cells.
//!
//! ```no_run
//! use testbed::Topology;
//! use testbed::traffic::{Cluster, manifest, table};
//!
//! let topology = Topology::new("example", &[2, 2])?;
//! let cluster = Cluster::new(&topology)?;
//! // Start a proxy on the first node, with `manifest()`.
//! assert_eq!(cluster.failures(&table().expect("a table without mistakes")), [""; 0]);
//! # Ok::<(), testbed::Error>(())
//! ```

mod cluster;
mod packets;
mod services;
mod table;

use crate::Family;

pub use cluster::Cluster;
pub use packets::{Fate, TablePacket};
pub use services::{NEW_ADDRESS_V4, NEW_ADDRESS_V6, manifest};
pub use table::{Cell, Client, Expected, Seen, Service, Way, Who, table};

/// A host firewall whose policies drop, as input of iptables-restore: what comes in or is forwarded
/// passes only for the table's other listeners, and for programs that ask themselves.
pub fn firewall(family: Family) -> String {
    let (icmp, other) = match family {
        Family::V4 => ("icmp", services::OTHER_NODE.0.to_string()),
        Family::V6 => ("ipv6-icmp", services::OTHER_NODE.1.to_string()),
    };
    let port = services::NODES_OWN_PORT;
    let listeners = ["tcp", "udp", "sctp"].map(|protocol| {
        let to = format!("-p {protocol} --dport {port} -j ACCEPT");
        let answers = format!("-s {other} -p {protocol} --sport {port} -j ACCEPT");
        format!("-A INPUT {to}\n-A FORWARD -d {other} {to}\n-A FORWARD {answers}\n")
    });
    format!(
        "*filter\n:INPUT DROP\n:FORWARD DROP\n:OUTPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n\
         -A INPUT -p {icmp} -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
         {}COMMIT\n",
        listeners.concat()
    )
}
