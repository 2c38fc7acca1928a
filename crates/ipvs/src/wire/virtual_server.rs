//! The attributes of a virtual server.

use std::net::Ipv4Addr;

use super::IP_VS_SVC_F_PERSISTENT;
use super::attribute::{
    Attribute, DecodeError, Decoded, Sink, keep_unknown, put_fixed, put_nested, put_text,
    put_unknown,
};
use super::key::{KeyParser, put_key};
use super::statistics::{StatisticsParser, put_statistics64};
use crate::{
    Family, Flags, Netmask, Persistence, PersistenceEngine, Scheduler, VirtualServer,
    VirtualServerEntry, VirtualServerKey,
};

const IPVS_SVC_ATTR_SCHED_NAME: u16 = 6;
const IPVS_SVC_ATTR_FLAGS: u16 = 7;
const IPVS_SVC_ATTR_TIMEOUT: u16 = 8;
const IPVS_SVC_ATTR_NETMASK: u16 = 9;
const IPVS_SVC_ATTR_STATS: u16 = 10;
const IPVS_SVC_ATTR_PE_NAME: u16 = 11;
const IPVS_SVC_ATTR_STATS64: u16 = 12;

pub(super) fn put_virtual_server<S: Sink>(sink: &mut S, server: &VirtualServer) {
    let VirtualServer {
        key,
        scheduler,
        flags,
        persistence,
        engine,
        tag,
    } = server;
    put_key(sink, key);
    put_text(sink, IPVS_SVC_ATTR_SCHED_NAME, scheduler.as_bytes());
    if let Some(engine) = engine {
        put_text(sink, IPVS_SVC_ATTR_PE_NAME, engine.as_bytes());
    }
    let persistent = if persistence.is_some() {
        IP_VS_SVC_F_PERSISTENT
    } else {
        0
    };
    let [f0, f1, f2, f3] = (flags.bits() | persistent).to_ne_bytes();
    // The mask: set every flag to its value.
    let flags = [f0, f1, f2, f3, 0xff, 0xff, 0xff, 0xff];
    put_fixed(sink, IPVS_SVC_ATTR_FLAGS, flags);
    let timeout = persistence.map_or((*tag).into(), |persistence| persistence.timeout);
    put_fixed(sink, IPVS_SVC_ATTR_TIMEOUT, timeout.to_ne_bytes());
    let netmask = persistence.and_then(|persistence| persistence.netmask);
    put_fixed(
        sink,
        IPVS_SVC_ATTR_NETMASK,
        netmask_bytes(netmask, key.family()),
    );
}

pub(super) fn put_virtual_server_entry<S: Sink>(sink: &mut S, entry: &VirtualServerEntry) {
    put_virtual_server(sink, &entry.server);
    if let Some(stats) = &entry.stats {
        put_nested(sink, IPVS_SVC_ATTR_STATS64, |sink| {
            put_statistics64(sink, stats);
            put_unknown(sink, &entry.unknown_counters);
        });
    }
    put_unknown(sink, &entry.unknown);
}

/// IPv4: a mask in network byte order. IPv6: a prefix length in native byte order.
fn netmask_bytes(netmask: Option<Netmask>, family: Family) -> [u8; 4] {
    match (netmask, family) {
        (Some(Netmask::V4(mask)), _) => mask.octets(),
        (Some(Netmask::V6(length)), _) => u32::from(length).to_ne_bytes(),
        (None, Family::V4) => Ipv4Addr::BROADCAST.octets(),
        (None, Family::V6) => 128u32.to_ne_bytes(),
    }
}

fn parse_netmask(bytes: [u8; 4], family: Family) -> Decoded<Option<Netmask>> {
    let netmask = match family {
        Family::V4 => Netmask::V4(bytes.into()),
        Family::V6 => {
            let value = u32::from_ne_bytes(bytes);
            let length = u8::try_from(value).ok().filter(|&length| length <= 128);
            Netmask::V6(length.ok_or(DecodeError::Value {
                attribute: "netmask",
                value,
            })?)
        }
    };
    Ok(netmask.unless_host())
}

fn parse_scheduler(attribute: Attribute<'_>) -> Decoded<Scheduler> {
    let name = attribute.c_string();
    Scheduler::from_bytes(name).ok_or(DecodeError::Text("scheduler"))
}

fn parse_engine(attribute: Attribute<'_>) -> Decoded<Option<PersistenceEngine>> {
    match attribute.c_string() {
        [] => Ok(None),
        name => PersistenceEngine::from_bytes(name)
            .map(Some)
            .ok_or(DecodeError::Text("persistence engine")),
    }
}

/// Parses the attributes that identify a virtual server and skips the others.
pub(super) fn parse_key(attribute: Attribute<'_>) -> Decoded<VirtualServerKey> {
    let mut key = KeyParser::default();
    for attribute in attribute.nested("virtual server") {
        key.take(attribute?)?;
    }
    key.finish()
}

pub(super) fn parse_virtual_server(attribute: Attribute<'_>) -> Decoded<VirtualServerEntry> {
    let mut key = KeyParser::default();
    let mut stats = StatisticsParser::default();
    let (mut scheduler, mut engine, mut bits, mut timeout, mut netmask) = Default::default();
    let mut unknown = Vec::new();
    for attribute in attribute.nested("virtual server") {
        let attribute = attribute?;
        match attribute.kind {
            IPVS_SVC_ATTR_SCHED_NAME => scheduler = Some(parse_scheduler(attribute)?),
            IPVS_SVC_ATTR_PE_NAME => engine = parse_engine(attribute)?,
            IPVS_SVC_ATTR_FLAGS => {
                let [f0, f1, f2, f3, ..] = attribute.array::<8>("flags")?;
                bits = Some(u32::from_ne_bytes([f0, f1, f2, f3]));
            }
            IPVS_SVC_ATTR_TIMEOUT => timeout = Some(attribute.u32("persistence timeout")?),
            IPVS_SVC_ATTR_NETMASK => netmask = Some(attribute.array::<4>("netmask")?),
            IPVS_SVC_ATTR_STATS => stats.bits_32 = Some(attribute),
            IPVS_SVC_ATTR_STATS64 => stats.bits_64 = Some(attribute),
            _ if key.take(attribute)? => {}
            _ => keep_unknown(&mut unknown, attribute),
        }
    }
    let key = key.finish()?;
    let bits: u32 = bits.ok_or(DecodeError::Missing("flags"))?;
    let timeout = timeout.ok_or(DecodeError::Missing("persistence timeout"))?;
    let netmask = netmask.ok_or(DecodeError::Missing("netmask"))?;
    let persistence = if bits & IP_VS_SVC_F_PERSISTENT == 0 {
        None
    } else {
        Some(Persistence {
            timeout,
            netmask: parse_netmask(netmask, key.family())?,
        })
    };
    let server = VirtualServer {
        key,
        scheduler: scheduler.ok_or(DecodeError::Missing("scheduler"))?,
        flags: Flags::from_bits(bits),
        persistence,
        engine,
        // A larger value is not a tag: another program set it.
        tag: match persistence {
            None => u16::try_from(timeout).unwrap_or(0),
            Some(_) => 0,
        },
    };
    let (stats, unknown_counters) = stats.finish()?;
    Ok(VirtualServerEntry {
        server,
        stats,
        unknown,
        unknown_counters,
    })
}
