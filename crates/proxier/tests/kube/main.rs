//! A node that follows an API server: whatever the server does, the node ends as its objects say.
//!
//! The server is a stand-in that speaks HTTP on loopback, the node one in memory.
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
mod events;
mod exec;
mod failures;
#[cfg(feature = "metrics")]
mod health;
mod lists;
mod node;
mod notices;
mod tls;
