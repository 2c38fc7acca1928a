//! The attributes of timeouts and of the version, both at the first level of their messages.

use super::attribute::{
    Attributes, DecodeError, Decoded, Sink, keep_unknown, put_fixed, put_unknown,
};
use crate::{Info, Timeouts, TimeoutsEntry, Version};

const IPVS_CMD_ATTR_TIMEOUT_TCP: u16 = 4;
const IPVS_CMD_ATTR_TIMEOUT_TCP_FIN: u16 = 5;
const IPVS_CMD_ATTR_TIMEOUT_UDP: u16 = 6;

const IPVS_INFO_ATTR_VERSION: u16 = 1;
const IPVS_INFO_ATTR_CONN_TAB_SIZE: u16 = 2;

pub(super) fn put_timeouts_entry<S: Sink>(sink: &mut S, entry: &TimeoutsEntry) {
    put_timeouts(sink, &entry.timeouts);
    put_unknown(sink, &entry.unknown);
}

pub(super) fn put_timeouts<S: Sink>(sink: &mut S, timeouts: &Timeouts) {
    for (kind, seconds) in [
        (IPVS_CMD_ATTR_TIMEOUT_TCP, timeouts.tcp),
        (IPVS_CMD_ATTR_TIMEOUT_TCP_FIN, timeouts.tcp_fin),
        (IPVS_CMD_ATTR_TIMEOUT_UDP, timeouts.udp),
    ] {
        if let Some(seconds) = seconds {
            put_fixed(sink, kind, seconds.to_ne_bytes());
        }
    }
}

pub(super) fn parse_timeouts(bytes: &[u8]) -> Decoded<TimeoutsEntry> {
    let mut timeouts = Timeouts::default();
    let mut unknown = Vec::new();
    for attribute in Attributes::new(bytes, "timeouts") {
        let attribute = attribute?;
        let timeout = match attribute.kind {
            IPVS_CMD_ATTR_TIMEOUT_TCP => &mut timeouts.tcp,
            IPVS_CMD_ATTR_TIMEOUT_TCP_FIN => &mut timeouts.tcp_fin,
            IPVS_CMD_ATTR_TIMEOUT_UDP => &mut timeouts.udp,
            _ => {
                keep_unknown(&mut unknown, attribute);
                continue;
            }
        };
        *timeout = Some(attribute.u32("timeout")?);
    }
    Ok(TimeoutsEntry { timeouts, unknown })
}

pub(super) fn put_info<S: Sink>(sink: &mut S, info: &Info) {
    let Version {
        major,
        minor,
        patch,
    } = info.version;
    let version = u32::from_be_bytes([0, major, minor, patch]);
    put_fixed(sink, IPVS_INFO_ATTR_VERSION, version.to_ne_bytes());
    put_fixed(
        sink,
        IPVS_INFO_ATTR_CONN_TAB_SIZE,
        info.connection_table_size.to_ne_bytes(),
    );
    put_unknown(sink, &info.unknown);
}

pub(super) fn parse_info(bytes: &[u8]) -> Decoded<Info> {
    let (mut version, mut connection_table_size) = (None, None);
    let mut unknown = Vec::new();
    for attribute in Attributes::new(bytes, "info") {
        let attribute = attribute?;
        match attribute.kind {
            IPVS_INFO_ATTR_VERSION => {
                let [_, major, minor, patch] = attribute.u32("version")?.to_be_bytes();
                version = Some(Version {
                    major,
                    minor,
                    patch,
                });
            }
            IPVS_INFO_ATTR_CONN_TAB_SIZE => {
                connection_table_size = Some(attribute.u32("connection table size")?);
            }
            _ => keep_unknown(&mut unknown, attribute),
        }
    }
    let missing = DecodeError::Missing;
    Ok(Info {
        version: version.ok_or(missing("version"))?,
        connection_table_size: connection_table_size.ok_or(missing("connection table size"))?,
        unknown,
    })
}
