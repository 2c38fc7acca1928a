//! Netlink to the kernel's netfilter: nftables and connection tracking.

#![cfg_attr(
    not(feature = "ipvs"),
    allow(dead_code, reason = "the parts that nftables alone needs")
)]

pub(crate) mod error;
mod read;
#[cfg(feature = "ipvs")]
pub(crate) mod rtnetlink;
pub(crate) mod socket;
pub(crate) mod wire;
