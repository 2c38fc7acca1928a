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
mod services;
mod table;

pub use cluster::Cluster;
pub use services::{NEW_ADDRESS_V4, NEW_ADDRESS_V6, manifest};
pub use table::{Cell, Client, Expected, Seen, Service, Way, Who, table};
