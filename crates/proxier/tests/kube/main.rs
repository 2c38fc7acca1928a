//! A node that follows an API server: whatever the server does, the node ends in the state of its
//! objects.
//!
//! The server is a fake with HTTP on loopback; the node is in memory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod bounds;
mod cluster;
mod connection;
mod credentials;
mod encoding;
mod events;
mod exec;
mod failures;
#[cfg(feature = "metrics")]
mod health;
mod lists;
mod node;
mod notices;
mod tls;
