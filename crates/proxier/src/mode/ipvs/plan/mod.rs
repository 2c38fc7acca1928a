//! Plans the steps from the observed to the desired state of a node.
//!
//! [`Plan::new`] compares a [`DesiredState`](crate::desired::DesiredState) with the [`NodeState`]
//! that was observed or applied, and yields [`Step`]s in the order of execution. A plan is a value:
//! it can be printed, and exactly what it contains is done.

mod diff;
mod element;
mod forgotten;
mod frontend;
mod lower;
mod marked;
mod node_state;
mod step;

pub use diff::{Plan, Scope};
pub use element::{Audience, Comment, Element, Elements, Purpose};
pub(crate) use frontend::drains;
pub use lower::{base_elements, base_routes, base_sysctls};
pub(crate) use lower::{local_route, missing_sysctls};
pub use node_state::{LocalRoute, NodeState, Obstacle, PolicyRoute, VirtualServerState};
pub use step::{Part, Step};
