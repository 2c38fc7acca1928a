//! How clients find a Service: by its name in the environment of a container, or in DNS.
//!
//! Discovery reads the [`model`](crate::model) and needs no data plane. A source must keep Services
//! that no node serves: [`Extent::Named`](crate::source::Extent::Named).

pub mod environment;
