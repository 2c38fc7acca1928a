//! Linux IPVS over generic netlink.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod change;
mod client;
mod entry;
mod error;
#[cfg(any(feature = "testing", test))]
mod fake;
pub mod ipvsadm;
mod key;
mod name;
mod protocol;
mod real_server;
mod scheduler;
mod settings;
mod sync_daemon;
mod virtual_server;
mod wire;

pub use change::Change;
#[cfg(feature = "tokio")]
pub use client::AsyncClient;
#[cfg(feature = "client")]
pub use client::Socket;
pub use client::{Client, Counters, Outcomes, Transport};
pub use entry::{
    Connections, Rates, RealServerEntry, Statistics, UnknownAttribute, VirtualServerEntry,
};
pub use error::{Error, ErrorKind, Invalid, Object, Operation, ParseError, Result};
#[cfg(any(feature = "testing", test))]
pub use fake::{FakeClient, FakeKernel, FakeSocket};
pub use key::{RealServerKey, VirtualServerKey};
pub use name::Name;
pub use protocol::{Family, Protocol};
pub use real_server::{Forwarding, RealServer, Tunnel, TunnelChecksum};
pub use scheduler::{PersistenceEngine, Scheduler};
pub use settings::{Info, Timeouts, Version};
pub use sync_daemon::{InterfaceName, SyncDaemon, SyncRole};
pub use virtual_server::{Flags, Netmask, Persistence, VirtualServer};
pub use wire::{DecodeError, Message};
