//! Values of the crate's types, from the fuzzer's bytes.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

use arbitrary::{Arbitrary, Result, Unstructured};
use ipvs::*;

type Source<'a, 'b> = &'a mut Unstructured<'b>;

/// Any message.
pub fn message(u: Source) -> Result<Message> {
    Ok(match u.int_in_range(0..=16)? {
        0 => Message::NewVirtualServer(virtual_server_entry(u)?),
        1 => Message::SetVirtualServer(virtual_server_entry(u)?),
        2 => Message::DeleteVirtualServer(key(u)?),
        3 => Message::GetVirtualServer(option(u, key)?),
        4 => Message::NewRealServer(option(u, key)?, real_server_entry(u)?),
        5 => Message::SetRealServer(key(u)?, real_server_entry(u)?),
        6 => Message::DeleteRealServer(key(u)?, real_server_key(u)?),
        7 => Message::GetRealServers(key(u)?),
        8 => Message::NewSyncDaemon(sync_daemon(u)?.into()),
        9 => Message::DeleteSyncDaemon(role(u)?),
        10 => Message::GetSyncDaemons,
        11 => Message::SetTimeouts(timeouts(u)?.into()),
        12 => Message::GetTimeouts,
        13 => {
            let (major, minor, patch, connection_table_size) = u.arbitrary()?;
            let version = Version {
                major,
                minor,
                patch,
            };
            Message::Info(Info::new(version, connection_table_size))
        }
        14 => Message::GetInfo,
        15 => Message::ZeroStatistics(option(u, key)?),
        _ => Message::Flush,
    })
}

fn option<T>(u: Source, value: fn(Source) -> Result<T>) -> Result<Option<T>> {
    if u.arbitrary()? {
        value(u).map(Some)
    } else {
        Ok(None)
    }
}

pub fn family(u: Source) -> Result<Family> {
    Ok(if u.arbitrary()? {
        Family::V4
    } else {
        Family::V6
    })
}

pub fn key(u: Source) -> Result<VirtualServerKey> {
    Ok(if u.ratio(1, 5)? {
        VirtualServerKey::firewall_mark(NonZeroU32::arbitrary(u)?, family(u)?)
    } else {
        let protocol = match u.int_in_range(0..=3)? {
            0 => Protocol::Tcp,
            1 => Protocol::Udp,
            2 => Protocol::Sctp,
            _ => Protocol::from_number(u.arbitrary()?),
        };
        VirtualServerKey::new(protocol, (IpAddr::arbitrary(u)?, u.arbitrary()?).into())
    })
}

fn real_server_key(u: Source) -> Result<RealServerKey> {
    Ok(RealServerKey::new(u.arbitrary()?, u.arbitrary()?))
}

/// A name of 1 to `longest` letters.
fn name(u: Source, longest: usize) -> Result<String> {
    let length = u.int_in_range(1..=longest)?;
    (0..length)
        .map(|_| Ok(char::from(u.int_in_range(b'a'..=b'z')?)))
        .collect()
}

pub fn virtual_server(u: Source) -> Result<VirtualServer> {
    let key = key(u)?;
    let known: Vec<Scheduler> = Scheduler::known().collect();
    let scheduler = match u.ratio(1, 4)? {
        true => name(u, 15)?.parse().unwrap(),
        false => *u.choose(&known)?,
    };
    let mut server = VirtualServer::new(key)
        .with_scheduler(scheduler)
        .with_flags(Flags::from_bits(u.arbitrary()?));
    if u.arbitrary()? {
        server.persistence = Some(Persistence::new(u.arbitrary()?));
        if u.arbitrary()? {
            // A mask of all ones means no mask.
            let netmask = match key.family() {
                Family::V4 => Netmask::V4(Ipv4Addr::from_bits(u.int_in_range(0..=u32::MAX - 1)?)),
                Family::V6 => Netmask::V6(u.int_in_range(0..=127)?),
            };
            server.persistence = server.persistence.map(|p| p.with_netmask(netmask));
        }
    }
    if u.arbitrary()? {
        server.engine = Some(name(u, 16)?.parse().unwrap());
    }
    Ok(server)
}

fn forwarding(u: Source) -> Result<Forwarding> {
    let checksums = [
        TunnelChecksum::None,
        TunnelChecksum::Full,
        TunnelChecksum::Remote,
    ];
    Ok(match u.int_in_range(0..=8)? {
        0 => Forwarding::Masquerade,
        1 => Forwarding::LocalNode,
        2 => Forwarding::DirectRouting,
        3 => Forwarding::Bypass,
        4 => Forwarding::Other(u.int_in_range(5..=7)?),
        5 => Forwarding::Tunnel(Tunnel::Ipip),
        6 => Forwarding::Tunnel(Tunnel::Gue {
            port: u.arbitrary()?,
            checksum: *u.choose(&checksums)?,
        }),
        7 => Forwarding::Tunnel(Tunnel::Gre {
            checksum: *u.choose(&checksums)?,
        }),
        _ => Forwarding::Tunnel(Tunnel::Other {
            kind: u.int_in_range(3..=255)?,
            port: u.arbitrary()?,
            flags: u.arbitrary()?,
        }),
    })
}

pub fn real_server(u: Source) -> Result<RealServer> {
    Ok(RealServer::new(real_server_key(u)?)
        .with_forwarding(forwarding(u)?)
        .with_weight(u.arbitrary()?)
        .with_thresholds(u.arbitrary()?, u.arbitrary()?))
}

fn statistics(u: Source) -> Result<Statistics> {
    let [c, ip, op, ib, ob, rc, rip, rop, rib, rob] = u.arbitrary()?;
    let mut stats = Statistics::default();
    stats.connections = c;
    stats.incoming_packets = ip;
    stats.outgoing_packets = op;
    stats.incoming_bytes = ib;
    stats.outgoing_bytes = ob;
    stats.rates.connections = rc;
    stats.rates.incoming_packets = rip;
    stats.rates.outgoing_packets = rop;
    stats.rates.incoming_bytes = rib;
    stats.rates.outgoing_bytes = rob;
    Ok(stats)
}

/// Attributes that are unknown for virtual and real servers.
fn unknown(u: Source) -> Result<Vec<UnknownAttribute>> {
    let count = u.int_in_range(0..=3)?;
    let attribute = |_| {
        let kind = u.int_in_range(16..=0x3fff)?;
        let length = u.int_in_range(0..=40)?;
        Ok(UnknownAttribute::new(kind, u.bytes(length)?.to_vec()))
    };
    (0..count).map(attribute).collect()
}

fn virtual_server_entry(u: Source) -> Result<VirtualServerEntry> {
    let mut entry = VirtualServerEntry::from(virtual_server(u)?);
    entry.stats = option(u, statistics)?;
    entry.unknown = unknown(u)?;
    Ok(entry)
}

fn real_server_entry(u: Source) -> Result<RealServerEntry> {
    let mut entry = RealServerEntry::from(real_server(u)?);
    entry.connections = option(u, |u| {
        let (active, inactive, persistent) = u.arbitrary()?;
        Ok(Connections::new(active, inactive, persistent))
    })?;
    entry.stats = option(u, statistics)?;
    entry.unknown = unknown(u)?;
    Ok(entry)
}

fn role(u: Source) -> Result<SyncRole> {
    Ok(if u.arbitrary()? {
        SyncRole::Master
    } else {
        SyncRole::Backup
    })
}

fn sync_daemon(u: Source) -> Result<SyncDaemon> {
    let mut daemon = SyncDaemon::new(role(u)?, name(u, 15)?.parse().unwrap(), u.arbitrary()?);
    daemon.max_length = u.arbitrary()?;
    daemon.group = u.arbitrary()?;
    daemon.port = u.arbitrary()?;
    daemon.ttl = u.arbitrary()?;
    Ok(daemon)
}

fn timeouts(u: Source) -> Result<Timeouts> {
    let mut timeouts = Timeouts::default();
    timeouts.tcp = u.arbitrary()?;
    timeouts.tcp_fin = u.arbitrary()?;
    timeouts.udp = u.arbitrary()?;
    Ok(timeouts)
}
