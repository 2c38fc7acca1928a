//! Netlink for svcproxy. This crate does not know Services.
//!
//! - [`Writer`], [`Messages`] and [`Attributes`] encode and decode netlink's format. Decoding is
//!   strict: malformed input is an error with its place.
//! - [`Socket`] sends transactions and list requests to netfilter. The kernel executes a request
//!   before `send` returns, so nothing blocks here. [`Batch`] builds a transaction of nf_tables, and
//!   knows which step each error belongs to.
//! - [`uapi`] has the kernel's numbers; [`nftables`] is for expressions, tables and chains,
//!   [`filter`] for what rules decide, [`conntrack`] for connection tracking, [`ipset`] for ipsets.
//! - [`Watch`] reports changes by other processes.
//! - `faults` (feature `testing`) makes single requests fail.
//!
//! This crate is internal to svcproxy: its interface changes with svcproxy's needs.
#![forbid(unsafe_code)]

mod batch;
pub mod conntrack;
mod error;
#[cfg(feature = "testing")]
pub mod faults;
#[cfg(not(feature = "testing"))]
#[doc(hidden)]
#[path = "no_faults.rs"]
pub mod faults;
pub mod filter;
pub mod ipset;
pub mod nftables;
mod read;
mod socket;
#[allow(missing_docs, reason = "the kernel's headers document these numbers")]
#[rustfmt::skip]
pub mod uapi;
pub mod user_data;
mod watch;
mod write;

pub use batch::{Batch, Packing, Refused, without_rejected};
pub use error::{Error, Flaw, Malformed, Place, again};
pub use read::{Attribute, Attributes, Message, Messages};
pub use socket::{Refusal, Socket};
pub use watch::{Listener, Own, Watch};
pub use write::Writer;

use std::net::IpAddr;

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The `struct nfgenmsg` of a message about this family.
    pub const fn header(self) -> [u8; 4] {
        let family = match self {
            Self::V4 => uapi::NFPROTO_IPV4,
            Self::V6 => uapi::NFPROTO_IPV6,
        };
        [family, 0, 0, 0]
    }
}
