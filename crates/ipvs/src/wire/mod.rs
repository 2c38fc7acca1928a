//! The generic netlink ABI: `include/uapi/linux/ip_vs.h` and `ip_vs_ctl.c` of Linux.
//!
//! Only this module uses the kernel's terms: its service is a virtual server, its destination a
//! real server.

mod attribute;
mod key;
mod message;
mod netlink;
mod real_server;
mod settings;
mod statistics;
mod sync_daemon;
mod virtual_server;

pub use attribute::DecodeError;
pub use message::Message;

pub(crate) use message::{put_change, put_message};
pub(crate) use netlink::{
    Body, CONTROLLER, Header, Packet, Packets, parse_family_id, put_family_request, put_packet,
};
pub(crate) use real_server::{forwarding_fields, forwarding_from, tunnel_fields, tunnel_from};
#[cfg(any(feature = "testing", test))]
pub(crate) use {
    netlink::{put_done, put_error, put_family_reply},
    real_server::IP_VS_CONN_F_TUNNEL_TYPE_GUE,
};

/// The family's name.
pub(crate) const FAMILY_NAME: &str = "IPVS";

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

const IP_VS_SVC_F_PERSISTENT: u32 = 0x0001;

const IPVS_CMD_NEW_SERVICE: u8 = 1;
const IPVS_CMD_SET_SERVICE: u8 = 2;
const IPVS_CMD_DEL_SERVICE: u8 = 3;
const IPVS_CMD_GET_SERVICE: u8 = 4;
const IPVS_CMD_NEW_DEST: u8 = 5;
const IPVS_CMD_SET_DEST: u8 = 6;
const IPVS_CMD_DEL_DEST: u8 = 7;
const IPVS_CMD_GET_DEST: u8 = 8;
const IPVS_CMD_NEW_DAEMON: u8 = 9;
const IPVS_CMD_DEL_DAEMON: u8 = 10;
const IPVS_CMD_GET_DAEMON: u8 = 11;
const IPVS_CMD_SET_CONFIG: u8 = 12;
const IPVS_CMD_GET_CONFIG: u8 = 13;
const IPVS_CMD_SET_INFO: u8 = 14;
const IPVS_CMD_GET_INFO: u8 = 15;
const IPVS_CMD_ZERO: u8 = 16;
const IPVS_CMD_FLUSH: u8 = 17;

const IPVS_CMD_ATTR_SERVICE: u16 = 1;
const IPVS_CMD_ATTR_DEST: u16 = 2;
const IPVS_CMD_ATTR_DAEMON: u16 = 3;
