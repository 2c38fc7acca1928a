//! The desired state of this node, computed from Services and node settings.
//!
//! Everything here is pure: no clock, no I/O, no randomness. The result is independent of IPVS and
//! iptables; [`plan`](crate::mode::ipvs::plan) turns it into steps for a data plane.

mod config;
mod endpoints;
mod follow_node;
mod frontend;
mod interface;
mod marks;
mod need;
mod service;
mod state;
mod usage;

pub use config::{Config, ConfigError, Conntrack, PodInterfaces};
pub use endpoints::{NoEndpoints, Unanswered};
pub use follow_node::FollowNode;
pub use frontend::{
    Backend, Frontend, FrontendKey, FrontendKind, Place, ServicePortName, WithoutBackends,
};
pub use interface::{InterfaceName, InvalidInterfaceName};
pub use marks::Marks;
pub use need::{HealthCheck, Need};
pub use state::{DesiredState, Problem, Touched};
pub use usage::{EndpointUse, Unused, endpoint_uses};
