//! Kubernetes Services on a Linux node.
//!
//! Programs the node's data plane from Services and their endpoint slices: IPVS virtual servers,
//! nftables sets and local routes, or iptables rules. Data flows in one direction:
//!
//! ```text
//! source ──Change──▶ store ──▶ desired ──▶ plan ──▶ kernel ──▶ report
//! ```
//!
//! - [`source`] yields checked changes of the API objects in [`model`].
//! - [`store`] keeps the objects, and records which Services a change touched.
//! - [`desired`] computes the desired state of this node. Pure.
//! - A [`mode`] plans the steps from the observed to the desired state, executes them, and reads
//!   the node.
//!
//! [`Proxier`] connects the stages; [`reconcile::run`] is the loop around it. A change to one
//! Service costs work for that Service alone at every stage, however many Services there are.
//!
//! An agent with its own source sends [`store::Change`]s to a [`Proxier`]. [`guide`] explains how, with
//! a complete program and with tests that need no kernel.
//!
//! ```no_run
//! # #[cfg(feature = "ipvs")] {
//! use std::sync::Arc;
//!
//! use proxier::Proxier;
//! use proxier::mode::ipvs::{Ipvs, IpvsKernel};
//! use proxier::desired::Config;
//! use proxier::model::{ObjectName, Service};
//! use proxier::store::Change;
//!
//! let config = Arc::new(Config::new("node-a", vec!["192.0.2.1".parse()?]));
//! let mut proxier = Proxier::new(config, Ipvs::new(IpvsKernel::open()?));
//! let web = Service::new(ObjectName::new("default", "web")?);
//! proxier.handle([Change::ServicesReplaced(vec![web]), Change::EndpointSlicesReplaced(vec![])])?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `ipvs` (default) | mode ipvs |
//! | `iptables` (default) | mode iptables |
//! | `nftables` | mode nftables |
//! | `userspace` | the proxy of userspace mode |
//! | `manifest` | Services from YAML and JSON manifests of Kubernetes |
//! | `kube` | Services from a Kubernetes cluster's API server |
//! | `k8s` | the objects of the Kubernetes API and their conversion, as part of both |
//! | `health` | health checks of load balancers |
//! | `dns` | a DNS server for the names of Services |
//! | `metrics` | metrics and the proxy's own health over HTTP |
//! | `testing` | nodes in memory with the kernel's semantics |
//!
//! Without features, the crate does no I/O at all.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod desired;
pub mod discovery;
mod errno;
mod escaped;
pub mod guide;
mod hash;
#[cfg(all(feature = "ipvs", feature = "iptables"))]
pub mod host;
pub mod mode;
pub mod model;
#[cfg(feature = "health")]
pub mod observe;
#[cfg(any(feature = "iptables", feature = "kube"))]
mod program;
pub mod reconcile;
#[cfg(any(
    feature = "dns",
    feature = "health",
    feature = "kube",
    feature = "userspace"
))]
mod runtime;
pub mod source;
pub mod store;
#[cfg(all(feature = "ipvs", feature = "iptables"))]
pub mod takeover;

pub use self::model::notice;
pub use self::reconcile::Proxier;
#[cfg(any(
    feature = "dns",
    feature = "health",
    feature = "kube",
    feature = "userspace"
))]
pub use self::runtime::Runtime;
