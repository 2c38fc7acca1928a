//! Kubernetes Services on a Linux node.
//!
//! Turns Services and their endpoint slices into the node's data plane: IPVS virtual servers,
//! packet-filter sets and local routes. Data goes one way:
//!
//! ```text
//! source ──Change──▶ store ──▶ desired ──▶ plan ──▶ backend ──▶ report
//! ```
//!
//! - [`source`] yields checked changes of the API objects in [`model`];
//! - [`store`] keeps them, and knows which Services a change touched;
//! - [`desired`] says what this node should have. Pure;
//! - a [`mode`] plans the steps that lead there from what the node has, carries them out, and
//!   reads back what the node has.
//!
//! [`Proxier`] puts the stages together, and [`reconcile::run`] is a loop around it. A change to one Service
//! costs work for that Service alone at every stage, however many there are.
//!
//! An agent with a source of its own feeds a [`Proxier`] with [`store::Change`]s:
//!
//! ```no_run
//! # #[cfg(feature = "ipvs")] {
//! use std::sync::Arc;
//!
//! use proxier::Proxier;
//! use proxier::mode::ipvs::IpvsBackend;
//! use proxier::desired::Config;
//! use proxier::model::{ObjectName, Service};
//! use proxier::store::Change;
//!
//! let config = Arc::new(Config::new("node-a", vec!["192.0.2.1".parse()?]));
//! let mut proxier = Proxier::new(config, IpvsBackend::open()?);
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
//! | `manifest` (default) | Services from YAML manifests |
//! | `kube` | Services from a cluster's API server |
//! | `ipvs` (default) | the IPVS backend |
//! | `iptables` (default) | the iptables backend |
//! | `health` (default) | answers to load balancers' health checks |
//! | `metrics` (default) | metrics and the proxy's own health, over HTTP |
//! | `testing` | an in-memory backend with the kernel's semantics |
//!
//! With none of them the crate does no I/O at all.
#![forbid(unsafe_code)]

pub mod desired;
mod escaped;
mod hash;
pub mod mode;
pub mod model;
pub mod notice;
#[cfg(feature = "health")]
pub mod observe;
#[cfg(feature = "iptables")]
mod program;
pub mod reconcile;
#[cfg(feature = "health")]
mod runtime;
pub mod source;
pub mod store;
#[cfg(all(feature = "ipvs", feature = "iptables"))]
pub mod takeover;

pub use self::reconcile::Proxier;
#[cfg(feature = "health")]
pub use self::runtime::Runtime;
