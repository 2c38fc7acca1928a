//! The attributes of a real server.

use super::attribute::{
    Attribute, DecodeError, Decoded, Sink, keep_unknown, put_address, put_fixed, put_nested,
    put_unknown,
};
use super::key::{family_from, family_number};
use super::statistics::{StatisticsParser, put_statistics64};
use crate::{
    Connections, Family, Forwarding, RealServer, RealServerEntry, RealServerKey, Tunnel,
    TunnelChecksum,
};

const IPVS_DEST_ATTR_ADDR: u16 = 1;
const IPVS_DEST_ATTR_PORT: u16 = 2;
const IPVS_DEST_ATTR_FWD_METHOD: u16 = 3;
const IPVS_DEST_ATTR_WEIGHT: u16 = 4;
const IPVS_DEST_ATTR_U_THRESH: u16 = 5;
const IPVS_DEST_ATTR_L_THRESH: u16 = 6;
const IPVS_DEST_ATTR_ACTIVE_CONNS: u16 = 7;
const IPVS_DEST_ATTR_INACT_CONNS: u16 = 8;
const IPVS_DEST_ATTR_PERSIST_CONNS: u16 = 9;
const IPVS_DEST_ATTR_STATS: u16 = 10;
const IPVS_DEST_ATTR_ADDR_FAMILY: u16 = 11;
const IPVS_DEST_ATTR_STATS64: u16 = 12;
const IPVS_DEST_ATTR_TUN_TYPE: u16 = 13;
const IPVS_DEST_ATTR_TUN_PORT: u16 = 14;
const IPVS_DEST_ATTR_TUN_FLAGS: u16 = 15;

const IP_VS_CONN_F_FWD_MASK: u32 = 7;
const IP_VS_CONN_F_FWD_MASK_BITS: u8 = 7;
const IP_VS_CONN_F_MASQ: u8 = 0;
const IP_VS_CONN_F_LOCALNODE: u8 = 1;
const IP_VS_CONN_F_TUNNEL: u8 = 2;
const IP_VS_CONN_F_DROUTE: u8 = 3;
const IP_VS_CONN_F_BYPASS: u8 = 4;

const IP_VS_CONN_F_TUNNEL_TYPE_IPIP: u8 = 0;
pub(crate) const IP_VS_CONN_F_TUNNEL_TYPE_GUE: u8 = 1;
const IP_VS_CONN_F_TUNNEL_TYPE_GRE: u8 = 2;

const IP_VS_TUNNEL_ENCAP_FLAG_NOCSUM: u16 = 0;
const IP_VS_TUNNEL_ENCAP_FLAG_CSUM: u16 = 1;
const IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM: u16 = 2;

/// Tunnel type, port and flags.
pub(crate) type TunnelFields = (u8, u16, u16);

pub(super) fn put_real_server_key<S: Sink>(sink: &mut S, key: &RealServerKey) {
    let family = family_number(Family::of(&key.address));
    put_fixed(sink, IPVS_DEST_ATTR_ADDR_FAMILY, family.to_ne_bytes());
    put_address(sink, IPVS_DEST_ATTR_ADDR, key.address);
    put_fixed(sink, IPVS_DEST_ATTR_PORT, key.port.to_be_bytes());
}

pub(super) fn put_real_server<S: Sink>(sink: &mut S, server: &RealServer) {
    let RealServer {
        key,
        forwarding,
        weight,
        upper_threshold,
        lower_threshold,
    } = server;
    put_real_server_key(sink, key);
    let (method, (kind, port, flags)) = forwarding_fields(*forwarding);
    put_fixed(
        sink,
        IPVS_DEST_ATTR_FWD_METHOD,
        u32::from(method).to_ne_bytes(),
    );
    put_fixed(sink, IPVS_DEST_ATTR_WEIGHT, weight.to_ne_bytes());
    put_fixed(sink, IPVS_DEST_ATTR_TUN_TYPE, [kind]);
    put_fixed(sink, IPVS_DEST_ATTR_TUN_PORT, port.to_be_bytes());
    put_fixed(sink, IPVS_DEST_ATTR_TUN_FLAGS, flags.to_ne_bytes());
    put_fixed(sink, IPVS_DEST_ATTR_U_THRESH, upper_threshold.to_ne_bytes());
    put_fixed(sink, IPVS_DEST_ATTR_L_THRESH, lower_threshold.to_ne_bytes());
}

pub(super) fn put_real_server_entry<S: Sink>(sink: &mut S, entry: &RealServerEntry) {
    put_real_server(sink, &entry.server);
    if let Some(Connections {
        active,
        inactive,
        persistent,
    }) = entry.connections
    {
        put_fixed(sink, IPVS_DEST_ATTR_ACTIVE_CONNS, active.to_ne_bytes());
        put_fixed(sink, IPVS_DEST_ATTR_INACT_CONNS, inactive.to_ne_bytes());
        put_fixed(sink, IPVS_DEST_ATTR_PERSIST_CONNS, persistent.to_ne_bytes());
    }
    if let Some(stats) = &entry.stats {
        put_nested(sink, IPVS_DEST_ATTR_STATS64, |sink| {
            put_statistics64(sink, stats);
            put_unknown(sink, &entry.unknown_counters);
        });
    }
    put_unknown(sink, &entry.unknown);
}

pub(crate) fn forwarding_fields(forwarding: Forwarding) -> (u8, TunnelFields) {
    match forwarding {
        Forwarding::Masquerade => (IP_VS_CONN_F_MASQ, (0, 0, 0)),
        Forwarding::LocalNode => (IP_VS_CONN_F_LOCALNODE, (0, 0, 0)),
        Forwarding::Tunnel(tunnel) => (IP_VS_CONN_F_TUNNEL, tunnel_fields(tunnel)),
        Forwarding::DirectRouting => (IP_VS_CONN_F_DROUTE, (0, 0, 0)),
        Forwarding::Bypass => (IP_VS_CONN_F_BYPASS, (0, 0, 0)),
        // A known method under another name is itself, a tunnel then IPIP; of an unknown one the
        // kernel keeps three bits.
        Forwarding::Other(method) => (method & IP_VS_CONN_F_FWD_MASK_BITS, (0, 0, 0)),
    }
}

pub(crate) fn forwarding_from((method, tunnel): (u8, TunnelFields)) -> Forwarding {
    match method {
        IP_VS_CONN_F_MASQ => Forwarding::Masquerade,
        IP_VS_CONN_F_LOCALNODE => Forwarding::LocalNode,
        IP_VS_CONN_F_TUNNEL => Forwarding::Tunnel(tunnel_from(tunnel)),
        IP_VS_CONN_F_DROUTE => Forwarding::DirectRouting,
        IP_VS_CONN_F_BYPASS => Forwarding::Bypass,
        other => Forwarding::Other(other),
    }
}

pub(crate) fn tunnel_fields(tunnel: Tunnel) -> TunnelFields {
    match tunnel {
        Tunnel::Ipip => (IP_VS_CONN_F_TUNNEL_TYPE_IPIP, 0, 0),
        Tunnel::Gue { port, checksum } => {
            (IP_VS_CONN_F_TUNNEL_TYPE_GUE, port, checksum_flags(checksum))
        }
        Tunnel::Gre { checksum } => (IP_VS_CONN_F_TUNNEL_TYPE_GRE, 0, checksum_flags(checksum)),
        Tunnel::Other { kind, port, flags } => (kind, port, flags),
    }
}

pub(crate) fn tunnel_from((kind, port, flags): TunnelFields) -> Tunnel {
    match (kind, port, checksum_from(flags)) {
        (IP_VS_CONN_F_TUNNEL_TYPE_IPIP, 0, Some(TunnelChecksum::None)) => Tunnel::Ipip,
        (IP_VS_CONN_F_TUNNEL_TYPE_GUE, port, Some(checksum)) => Tunnel::Gue { port, checksum },
        (IP_VS_CONN_F_TUNNEL_TYPE_GRE, 0, Some(checksum)) => Tunnel::Gre { checksum },
        _ => Tunnel::Other { kind, port, flags },
    }
}

const fn checksum_flags(checksum: TunnelChecksum) -> u16 {
    match checksum {
        TunnelChecksum::None => IP_VS_TUNNEL_ENCAP_FLAG_NOCSUM,
        TunnelChecksum::Full => IP_VS_TUNNEL_ENCAP_FLAG_CSUM,
        TunnelChecksum::Remote => IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM,
    }
}

const fn checksum_from(flags: u16) -> Option<TunnelChecksum> {
    match flags {
        IP_VS_TUNNEL_ENCAP_FLAG_NOCSUM => Some(TunnelChecksum::None),
        IP_VS_TUNNEL_ENCAP_FLAG_CSUM => Some(TunnelChecksum::Full),
        IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM => Some(TunnelChecksum::Remote),
        _ => None,
    }
}

/// Collects the identifying attributes. The family comes after the address.
#[derive(Default)]
struct KeyParser<'a> {
    family: Option<Family>,
    address: Option<Attribute<'a>>,
    port: Option<u16>,
}

impl<'a> KeyParser<'a> {
    fn take(&mut self, attribute: Attribute<'a>) -> Decoded<bool> {
        match attribute.kind {
            IPVS_DEST_ATTR_ADDR => self.address = Some(attribute),
            IPVS_DEST_ATTR_PORT => self.port = Some(attribute.be16("real server's port")?),
            IPVS_DEST_ATTR_ADDR_FAMILY => {
                let name = "real server's address family";
                // Unset in requests of old programs.
                self.family = match attribute.u16(name)? {
                    0 => None,
                    number => Some(family_from(number, name)?),
                };
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `virtual_server` is the family if there is no other: Linux before 3.18 does not report it.
    fn finish(self, virtual_server: Option<Family>) -> Decoded<RealServerKey> {
        let family = self.family.or(virtual_server);
        let family = family.ok_or(DecodeError::Missing("real server's address family"))?;
        let address = self
            .address
            .ok_or(DecodeError::Missing("real server's address"))?;
        Ok(RealServerKey {
            address: address.address(family, "real server's address")?,
            port: self
                .port
                .ok_or(DecodeError::Missing("real server's port"))?,
        })
    }
}

pub(super) fn parse_real_server_key(
    attribute: Attribute<'_>,
    virtual_server: Option<Family>,
) -> Decoded<RealServerKey> {
    let mut key = KeyParser::default();
    for attribute in attribute.nested("real server") {
        key.take(attribute?)?;
    }
    key.finish(virtual_server)
}

pub(super) fn parse_real_server(
    attribute: Attribute<'_>,
    virtual_server: Option<Family>,
) -> Decoded<RealServerEntry> {
    let mut key = KeyParser::default();
    let mut stats = StatisticsParser::default();
    let (mut method, mut weight, mut upper, mut lower) = (None, None, None, None);
    let mut tunnel: TunnelFields = (0, 0, 0);
    let (mut active, mut inactive, mut persistent) = (None, None, None);
    let mut unknown = Vec::new();
    for attribute in attribute.nested("real server") {
        let attribute = attribute?;
        match attribute.kind {
            IPVS_DEST_ATTR_FWD_METHOD => method = Some(attribute.u32("forwarding method")?),
            IPVS_DEST_ATTR_WEIGHT => weight = Some(attribute.u32("weight")?),
            IPVS_DEST_ATTR_TUN_TYPE => tunnel.0 = attribute.u8("tunnel type")?,
            IPVS_DEST_ATTR_TUN_PORT => tunnel.1 = attribute.be16("tunnel port")?,
            IPVS_DEST_ATTR_TUN_FLAGS => tunnel.2 = attribute.u16("tunnel flags")?,
            IPVS_DEST_ATTR_U_THRESH => upper = Some(attribute.u32("upper threshold")?),
            IPVS_DEST_ATTR_L_THRESH => lower = Some(attribute.u32("lower threshold")?),
            IPVS_DEST_ATTR_ACTIVE_CONNS => active = Some(attribute.u32("connections")?),
            IPVS_DEST_ATTR_INACT_CONNS => inactive = Some(attribute.u32("connections")?),
            IPVS_DEST_ATTR_PERSIST_CONNS => persistent = Some(attribute.u32("connections")?),
            IPVS_DEST_ATTR_STATS => stats.bits_32 = Some(attribute),
            IPVS_DEST_ATTR_STATS64 => stats.bits_64 = Some(attribute),
            _ if key.take(attribute)? => {}
            _ => keep_unknown(&mut unknown, attribute),
        }
    }
    let method: u32 = method.ok_or(DecodeError::Missing("forwarding method"))?;
    // The mask leaves three bits.
    let method = u8::try_from(method & IP_VS_CONN_F_FWD_MASK).unwrap_or_default();
    let server = RealServer {
        key: key.finish(virtual_server)?,
        forwarding: forwarding_from((method, tunnel)),
        weight: weight.ok_or(DecodeError::Missing("weight"))?,
        upper_threshold: upper.ok_or(DecodeError::Missing("upper threshold"))?,
        lower_threshold: lower.ok_or(DecodeError::Missing("lower threshold"))?,
    };
    let connections = active.map(|active| Connections {
        active,
        inactive: inactive.unwrap_or_default(),
        persistent: persistent.unwrap_or_default(),
    });
    let (stats, unknown_counters) = stats.finish()?;
    Ok(RealServerEntry {
        server,
        connections,
        stats,
        unknown,
        unknown_counters,
    })
}
