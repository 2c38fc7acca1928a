//! Guide: a proxy for your own registry of services.
//!
//! The registry may be a file, a database or a message bus. It becomes a proxy in three steps:
//!
//! 1. Convert what the registry lists to [`model`](crate::model) types. A
//!    [`Service`](crate::model::Service) has virtual IPs and ports; its endpoints are in
//!    [`EndpointSlice`](crate::model::EndpointSlice)s, one for each port number, which
//!    [`EndpointSlice::of_port`](crate::model::EndpointSlice::of_port) makes. Names are DNS names:
//!    [`ObjectName::new`](crate::model::ObjectName::new) rejects others.
//! 2. Send [`Change`](crate::store::Change)s. The first ones must be `ServicesReplaced` and
//!    `EndpointSlicesReplaced`, since nothing is programmed before both lists are complete:
//!    [`Change::replace_all`](crate::store::Change::replace_all) makes both. Later
//!    ones may be complete lists again, or single objects; both cost work only for the services that
//!    differ.
//! 3. Let [`run`](crate::reconcile::run()) do the rest: it syncs, retries with back-off, drains, and
//!    repairs what other programs changed.
//!
//! What a service requests and cannot get is a [`Problem`](crate::desired::Problem) of that service
//! alone: an address that cannot be a virtual IP, an endpoint that cannot be reached, a key that
//! another service holds. All else is served.
//!
//! This is the example `json_registry` in full. The file lists each service with its endpoints and their
//! weights.
//!
#![doc = "```no_run"]
#![cfg_attr(feature = "ipvs", doc = include_str!("../examples/json_registry.rs"))]
#![doc = "```"]
//!
//! # Addresses and names
//!
//! | field | use it for |
//! | --- | --- |
//! | [`cluster_ips`](crate::model::Service::cluster_ips) | virtual IPs that clients reach through this node; at most one a family. They define the families of the service |
//! | [`external_ips`](crate::model::Service::external_ips), [`load_balancer_ips`](crate::model::Service::load_balancer_ips) | further virtual IPs, which may be addresses of another machine |
//! | [`node_port`](crate::model::ServicePort::node_port) | a port on the node's own addresses |
//! | [`service_cidrs`](crate::desired::Config::service_cidrs) | networks that have nothing but virtual IPs: one route for all, and packets to ports without a service are rejected. Without it, each cluster IP gets a route of its own |
//! | [`cluster_cidrs`](crate::desired::Config::cluster_cidrs) | networks whose endpoints route their replies through this node. Clients from elsewhere are masqueraded; without it, no client of a cluster IP is |
//!
//! # Tests without a kernel
//!
//! With the feature `testing`, `FakeNode` is a node in memory that accepts and rejects what Linux
//! accepts and rejects. It can fail on request, and a test can change it behind the proxy's back.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use std::sync::Arc;
//!
//! use proxier::Proxier;
//! use proxier::desired::Config;
//! use proxier::mode::ipvs::{FakeNode, Ipvs};
//! use proxier::model::{
//!     Endpoint, EndpointSlice, ObjectName, PortName, Protocol, Service, ServicePort,
//! };
//! use proxier::store::Change;
//!
//! let node = FakeNode::default();
//! let config = Arc::new(Config::new("node-a", vec!["192.0.2.1".parse()?]));
//! let mut proxier = Proxier::new(config, Ipvs::new(node.kernel()?));
//!
//! let mut web = Service::new(ObjectName::new("shop", "web")?);
//! let http = ServicePort::new(PortName::UNNAMED, Protocol::Tcp, 80.try_into()?);
//! web.cluster_ips = ["10.96.0.80".parse()?].into();
//! web.ports = [http.clone()].into();
//! let endpoint = Endpoint::new("10.244.1.7".parse()?);
//! let slices = EndpointSlice::of_port(&web, &http, [(8080.try_into()?, endpoint)])?;
//! let lists = Change::replace_all([(web, slices)]);
//!
//! // The kernel lacks memory for one step; it is reported, and tried again in the audit.
//! let web = "tcp 10.96.0.80:80".parse()?;
//! node.fail_virtual_server(web, Some(12));
//! let report = proxier.handle(lists)?.expect("both lists are complete");
//! assert!(!report.is_success());
//! node.fail_virtual_server(web, None);
//! proxier.audit()?;
//!
//! // Look into the node with a client of the IPVS library.
//! let table = node.ipvs().client()?.table()?;
//! assert_eq!(table[0].virtual_server.server.key, web);
//! assert_eq!(table[0].real_servers[0].server.key, "10.244.1.7:8080".parse()?);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
