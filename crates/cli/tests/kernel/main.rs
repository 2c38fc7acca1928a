//! svcproxy in a kernel with IPVS: real clients, real backends, `ipvsadm`, `nft`, `ip` and `strace`
//! as witnesses. Each test has its own nodes, pods and client.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

#[allow(dead_code, reason = "the tests in chaos/ use more of it")]
mod follower;
mod lab;
mod ports;

mod affinity;
mod cleanup;
mod confined_shop;
mod every_way;
mod family;
mod kubeadm;
mod lasting;
mod leaving;
mod load;
mod manifests;
mod privileges;
mod refusal;
mod repair;
mod restart;
mod same_port;
mod schedulers;
mod settings;
mod shop;
mod stress;
mod switching;
mod table;
mod takeover;
mod traffic;
mod undone;
