//! The attributes of a sync daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attribute::{
    Attribute, DecodeError, Decoded, Sink, keep_unknown, put_fixed, put_text, put_unknown,
};
use crate::{InterfaceName, SyncDaemon, SyncDaemonEntry, SyncRole};

const IPVS_DAEMON_ATTR_STATE: u16 = 1;
const IPVS_DAEMON_ATTR_MCAST_IFN: u16 = 2;
const IPVS_DAEMON_ATTR_SYNC_ID: u16 = 3;
const IPVS_DAEMON_ATTR_SYNC_MAXLEN: u16 = 4;
const IPVS_DAEMON_ATTR_MCAST_GROUP: u16 = 5;
const IPVS_DAEMON_ATTR_MCAST_GROUP6: u16 = 6;
const IPVS_DAEMON_ATTR_MCAST_PORT: u16 = 7;
const IPVS_DAEMON_ATTR_MCAST_TTL: u16 = 8;

const IP_VS_STATE_MASTER: u32 = 1;
const IP_VS_STATE_BACKUP: u32 = 2;

pub(super) fn put_role<S: Sink>(sink: &mut S, role: SyncRole) {
    let state = match role {
        SyncRole::Master => IP_VS_STATE_MASTER,
        SyncRole::Backup => IP_VS_STATE_BACKUP,
    };
    put_fixed(sink, IPVS_DAEMON_ATTR_STATE, state.to_ne_bytes());
}

pub(super) fn put_sync_daemon_entry<S: Sink>(sink: &mut S, entry: &SyncDaemonEntry) {
    put_sync_daemon(sink, &entry.daemon);
    put_unknown(sink, &entry.unknown);
}

/// The port is in native byte order, unlike any other.
pub(super) fn put_sync_daemon<S: Sink>(sink: &mut S, daemon: &SyncDaemon) {
    let SyncDaemon {
        role,
        interface,
        sync_id,
        max_length,
        group,
        port,
        ttl,
    } = daemon;
    put_role(sink, *role);
    put_text(sink, IPVS_DAEMON_ATTR_MCAST_IFN, interface.as_bytes());
    put_fixed(sink, IPVS_DAEMON_ATTR_SYNC_ID, sync_id.to_ne_bytes());
    if let Some(bytes) = max_length {
        put_fixed(sink, IPVS_DAEMON_ATTR_SYNC_MAXLEN, bytes.to_ne_bytes());
    }
    if let Some(port) = port {
        put_fixed(sink, IPVS_DAEMON_ATTR_MCAST_PORT, port.to_ne_bytes());
    }
    if let Some(ttl) = ttl {
        put_fixed(sink, IPVS_DAEMON_ATTR_MCAST_TTL, [*ttl]);
    }
    match group {
        Some(IpAddr::V4(group)) => put_fixed(sink, IPVS_DAEMON_ATTR_MCAST_GROUP, group.octets()),
        Some(IpAddr::V6(group)) => put_fixed(sink, IPVS_DAEMON_ATTR_MCAST_GROUP6, group.octets()),
        None => {}
    }
}

fn parse_role_value(attribute: Attribute<'_>) -> Decoded<SyncRole> {
    match attribute.u32("sync daemon's role")? {
        IP_VS_STATE_MASTER => Ok(SyncRole::Master),
        IP_VS_STATE_BACKUP => Ok(SyncRole::Backup),
        value => Err(DecodeError::Value {
            attribute: "sync daemon's role",
            value,
        }),
    }
}

/// Parses the role and skips the others.
pub(super) fn parse_role(attribute: Attribute<'_>) -> Decoded<SyncRole> {
    for attribute in attribute.nested("sync daemon") {
        let attribute = attribute?;
        if attribute.kind == IPVS_DAEMON_ATTR_STATE {
            return parse_role_value(attribute);
        }
    }
    Err(DecodeError::Missing("sync daemon's role"))
}

pub(super) fn parse_sync_daemon(attribute: Attribute<'_>) -> Decoded<SyncDaemonEntry> {
    let (mut role, mut interface, mut sync_id, mut max_length) = (None, None, None, None);
    let (mut group, mut port, mut ttl) = (None, None, None);
    let mut unknown = Vec::new();
    for attribute in attribute.nested("sync daemon") {
        let attribute = attribute?;
        match attribute.kind {
            IPVS_DAEMON_ATTR_STATE => role = Some(parse_role_value(attribute)?),
            IPVS_DAEMON_ATTR_MCAST_IFN => {
                let name = InterfaceName::from_bytes(attribute.c_string());
                interface = Some(name.ok_or(DecodeError::Text("interface"))?);
            }
            IPVS_DAEMON_ATTR_SYNC_ID => sync_id = Some(attribute.u32("sync id")?),
            IPVS_DAEMON_ATTR_SYNC_MAXLEN => max_length = Some(attribute.u16("maximum length")?),
            IPVS_DAEMON_ATTR_MCAST_GROUP => {
                group = Some(Ipv4Addr::from(attribute.array::<4>("multicast group")?).into());
            }
            IPVS_DAEMON_ATTR_MCAST_GROUP6 => {
                group = Some(Ipv6Addr::from(attribute.array::<16>("multicast group")?).into());
            }
            IPVS_DAEMON_ATTR_MCAST_PORT => port = Some(attribute.u16("multicast port")?),
            IPVS_DAEMON_ATTR_MCAST_TTL => ttl = Some(attribute.u8("multicast TTL")?),
            _ => keep_unknown(&mut unknown, attribute),
        }
    }
    let daemon = SyncDaemon {
        role: role.ok_or(DecodeError::Missing("sync daemon's role"))?,
        interface: interface.ok_or(DecodeError::Missing("interface"))?,
        sync_id: sync_id.ok_or(DecodeError::Missing("sync id"))?,
        max_length,
        group,
        port,
        ttl,
    };
    Ok(SyncDaemonEntry { daemon, unknown })
}
