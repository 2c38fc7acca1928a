//! The desired state of this node, computed from Services and node settings.
//!
//! Everything here is pure: no clock, no I/O, no randomness. The result is independent of IPVS and
//! iptables; [`plan`](crate::mode::ipvs::plan) turns it into steps for a data plane.

mod absence;
mod config;
mod counter;
mod endpoints;
mod follow_node;
mod frontend;
mod health;
mod interface;
mod marks;
mod need;
mod service;
mod state;

pub use absence::NoEndpoints;
pub use config::{Config, ConfigError, Conntrack, PodInterfaces};
pub use follow_node::FollowNode;
pub use frontend::{
    Backend, Frontend, FrontendKey, FrontendKind, Place, ServicePortName, WithoutBackends,
};
pub use health::HealthCheck;
pub use interface::{InterfaceName, InvalidInterfaceName};
pub use marks::Marks;
pub use need::Need;
pub use state::{DesiredState, Problem, Touched};
