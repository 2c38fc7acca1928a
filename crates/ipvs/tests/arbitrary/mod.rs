//! Any value of each type that goes over the wire.

use std::net::{IpAddr, Ipv4Addr};

use ipvs::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(crate) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        virtual_server_entry().prop_map(Message::NewVirtualServer),
        virtual_server_entry().prop_map(Message::SetVirtualServer),
        virtual_server_key().prop_map(Message::DeleteVirtualServer),
        option::of(virtual_server_key()).prop_map(Message::GetVirtualServer),
        (option::of(virtual_server_key()), real_server_entry())
            .prop_map(|(key, entry)| Message::NewRealServer(key, entry)),
        (virtual_server_key(), real_server_entry())
            .prop_map(|(key, entry)| Message::SetRealServer(key, entry)),
        (virtual_server_key(), real_server_key())
            .prop_map(|(key, real_server)| Message::DeleteRealServer(key, real_server)),
        virtual_server_key().prop_map(Message::GetRealServers),
        sync_daemon().prop_map(Message::NewSyncDaemon),
        sync_role().prop_map(Message::DeleteSyncDaemon),
        Just(Message::GetSyncDaemons),
        timeouts().prop_map(Message::SetTimeouts),
        Just(Message::GetTimeouts),
        info().prop_map(Message::Info),
        Just(Message::GetInfo),
        option::of(virtual_server_key()).prop_map(Message::ZeroStatistics),
        Just(Message::Flush),
    ]
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let of_both = |to: fn(VirtualServerKey, RealServer) -> Change| {
        (virtual_server_key(), real_server()).prop_map(move |(key, real)| to(key, real))
    };
    prop_oneof![
        virtual_server().prop_map(Change::AddVirtualServer),
        virtual_server().prop_map(Change::UpdateVirtualServer),
        virtual_server_key().prop_map(Change::DeleteVirtualServer),
        of_both(|virtual_server, real_server| Change::AddRealServer {
            virtual_server,
            real_server
        }),
        of_both(|virtual_server, real_server| Change::UpdateRealServer {
            virtual_server,
            real_server
        }),
        of_both(|virtual_server, real_server| Change::DeleteRealServer {
            virtual_server,
            real_server: real_server.key
        }),
        option::of(virtual_server_key()).prop_map(Change::ZeroStatistics),
        Just(Change::Flush),
        timeouts().prop_map(Change::SetTimeouts),
        sync_daemon().prop_map(Change::StartSyncDaemon),
        sync_role().prop_map(Change::StopSyncDaemon),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Sctp),
        any::<u16>().prop_map(Protocol::from_number),
    ]
}

pub(crate) fn virtual_server_key() -> impl Strategy<Value = VirtualServerKey> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    prop_oneof![
        (protocol(), any::<IpAddr>(), any::<u16>())
            .prop_map(|(protocol, ip, port)| VirtualServerKey::new(protocol, (ip, port).into())),
        (any::<std::num::NonZeroU32>(), family)
            .prop_map(|(mark, family)| VirtualServerKey::firewall_mark(mark, family)),
    ]
}

pub(crate) fn real_server_key() -> impl Strategy<Value = RealServerKey> {
    any::<(IpAddr, u16)>().prop_map(|(address, port)| RealServerKey::new(address, port))
}

fn name(length: usize) -> impl Strategy<Value = String> {
    vec(proptest::char::range('!', '~'), 1..=length)
        .prop_map(|characters| characters.into_iter().collect::<String>().replace('/', "_"))
}

fn scheduler() -> impl Strategy<Value = Scheduler> {
    let known: Vec<Scheduler> = Scheduler::known().collect();
    prop_oneof![
        proptest::sample::select(known),
        name(15).prop_map(|name| name.parse().unwrap()),
    ]
}

fn persistence(family: Family) -> impl Strategy<Value = Persistence> {
    let netmask = match family {
        // A mask of all ones is none.
        Family::V4 => (0..u32::MAX)
            .prop_map(|bits| Netmask::V4(Ipv4Addr::from_bits(bits)))
            .boxed(),
        Family::V6 => (0u8..128).prop_map(Netmask::V6).boxed(),
    };
    (any::<u32>(), option::of(netmask)).prop_map(|(timeout, netmask)| {
        let persistence = Persistence::new(timeout);
        netmask.map_or(persistence, |netmask| persistence.with_netmask(netmask))
    })
}

pub(crate) fn virtual_server() -> impl Strategy<Value = VirtualServer> {
    let engine = name(16).prop_map(|name| name.parse::<PersistenceEngine>().unwrap());
    let persistent = virtual_server_key()
        .prop_flat_map(|key| (Just(key), option::of(persistence(key.family()))));
    let parts = (
        persistent,
        scheduler(),
        any::<u32>(),
        option::of(engine),
        any::<u16>(),
    );
    parts.prop_map(|((key, persistence), scheduler, flags, engine, tag)| {
        let mut server = VirtualServer::new(key)
            .with_scheduler(scheduler)
            .with_flags(Flags::from_bits(flags));
        server.persistence = persistence;
        server.tag = if persistence.is_none() { tag } else { 0 };
        server.engine = engine;
        server
    })
}

fn checksum() -> impl Strategy<Value = TunnelChecksum> {
    use TunnelChecksum::*;
    proptest::sample::select(vec![None, Full, Remote])
}

fn forwarding() -> impl Strategy<Value = Forwarding> {
    let tunnel = prop_oneof![
        Just(Tunnel::Ipip),
        (any::<u16>(), checksum()).prop_map(|(port, checksum)| Tunnel::Gue { port, checksum }),
        checksum().prop_map(|checksum| Tunnel::Gre { checksum }),
        (3u8.., any::<u16>(), any::<u16>()).prop_map(|(kind, port, flags)| Tunnel::Other {
            kind,
            port,
            flags
        }),
    ];
    prop_oneof![
        proptest::sample::select(vec![
            Forwarding::Masquerade,
            Forwarding::LocalNode,
            Forwarding::DirectRouting,
            Forwarding::Bypass,
        ]),
        (5u8..8).prop_map(Forwarding::Other),
        tunnel.prop_map(Forwarding::Tunnel),
    ]
}

pub(crate) fn real_server() -> impl Strategy<Value = RealServer> {
    (real_server_key(), forwarding(), any::<(u32, u32, u32)>()).prop_map(
        |(key, forwarding, (weight, lower, upper))| {
            RealServer::new(key)
                .with_forwarding(forwarding)
                .with_weight(weight)
                .with_thresholds(lower, upper)
        },
    )
}

fn statistics() -> impl Strategy<Value = Statistics> {
    any::<[u64; 10]>().prop_map(|[c, ip, op, ib, ob, rc, rip, rop, rib, rob]| Statistics {
        connections: c,
        incoming_packets: ip,
        outgoing_packets: op,
        incoming_bytes: ib,
        outgoing_bytes: ob,
        rates: Rates {
            connections: rc,
            incoming_packets: rip,
            outgoing_packets: rop,
            incoming_bytes: rib,
            outgoing_bytes: rob,
        },
    })
}

/// Attributes that neither a virtual nor a real server has yet.
fn unknown() -> impl Strategy<Value = Vec<UnknownAttribute>> {
    let attribute = (16u16..0x4000, vec(any::<u8>(), 0..20));
    vec(
        attribute.prop_map(|(kind, value)| UnknownAttribute { kind, value }),
        0..3,
    )
}

fn virtual_server_entry() -> impl Strategy<Value = VirtualServerEntry> {
    (virtual_server(), option::of(statistics()), unknown()).prop_map(|(server, stats, unknown)| {
        let mut entry = VirtualServerEntry::from(server);
        entry.stats = stats;
        entry.unknown = unknown;
        entry
    })
}

fn real_server_entry() -> impl Strategy<Value = RealServerEntry> {
    let connections =
        any::<(u32, u32, u32)>().prop_map(|(active, inactive, persistent)| Connections {
            active,
            inactive,
            persistent,
        });
    (
        real_server(),
        option::of(connections),
        option::of(statistics()),
        unknown(),
    )
        .prop_map(|(server, connections, stats, unknown)| {
            let mut entry = RealServerEntry::from(server);
            entry.connections = connections;
            entry.stats = stats;
            entry.unknown = unknown;
            entry
        })
}

fn sync_role() -> impl Strategy<Value = SyncRole> {
    prop_oneof![Just(SyncRole::Master), Just(SyncRole::Backup)]
}

fn sync_daemon() -> impl Strategy<Value = SyncDaemon> {
    let options = any::<(Option<u16>, Option<IpAddr>, Option<u16>, Option<u8>)>();
    (sync_role(), name(15), any::<u32>(), options).prop_map(
        |(role, interface, sync_id, (max_length, group, port, ttl))| {
            let mut daemon = SyncDaemon::new(role, interface.parse().unwrap(), sync_id);
            daemon.max_length = max_length;
            daemon.group = group;
            daemon.port = port;
            daemon.ttl = ttl;
            daemon
        },
    )
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    any::<[Option<u32>; 3]>().prop_map(|[tcp, tcp_fin, udp]| {
        let mut timeouts = Timeouts::default();
        timeouts.tcp = tcp;
        timeouts.tcp_fin = tcp_fin;
        timeouts.udp = udp;
        timeouts
    })
}

fn info() -> impl Strategy<Value = Info> {
    any::<(u8, u8, u8, u32)>().prop_map(|(major, minor, patch, connection_table_size)| Info {
        version: Version {
            major,
            minor,
            patch,
        },
        connection_table_size,
    })
}
