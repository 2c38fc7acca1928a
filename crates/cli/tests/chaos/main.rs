//! svcproxy while it is killed, while others change what it made, for long, and beside another
//! version of itself. `cargo xtask chaos` runs these tests for long and with figures; the ordinary
//! test run has short forms of the same code.
//!
//! Mode ipvs needs the kernel VM, the other modes only network namespaces.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

#[allow(dead_code, reason = "the kernel's tests use more of it")]
#[path = "../kernel/follower.rs"]
mod follower;
#[allow(dead_code, reason = "the kernel's tests use more of it")]
#[path = "../kernel/lab.rs"]
mod lab;
#[allow(dead_code, reason = "the kernel's tests use more of it")]
#[path = "../kernel/ports.rs"]
mod ports;
#[allow(dead_code, reason = "the kernel's tests use more of it")]
#[path = "../kernel/shop.rs"]
mod shop;

mod node;
mod options;
mod phase;
mod state;
mod trace;
mod traffic;

mod drift;
mod kill;
mod soak;
mod upgrade;
