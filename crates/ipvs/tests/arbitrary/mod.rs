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
        (sync_daemon(), unknown()).prop_map(|(daemon, unknown)| {
            let mut entry = SyncDaemonEntry::from(daemon);
            entry.unknown = unknown;
            Message::NewSyncDaemon(entry)
        }),
        sync_role().prop_map(Message::DeleteSyncDaemon),
        Just(Message::GetSyncDaemons),
        (timeouts(), unknown()).prop_map(|(timeouts, unknown)| {
            let mut entry = TimeoutsEntry::from(timeouts);
            entry.unknown = unknown;
            Message::SetTimeouts(entry)
        }),
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

pub(crate) fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Sctp),
        any::<u16>().prop_map(Protocol::Other),
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

pub(crate) fn scheduler() -> impl Strategy<Value = Scheduler> {
    let known: Vec<Scheduler> = Scheduler::known().collect();
    prop_oneof![
        proptest::sample::select(known),
        name(15).prop_map(|name| name.parse().unwrap()),
    ]
}

fn persistence(family: Family) -> impl Strategy<Value = Persistence> {
    let netmask = match family {
        Family::V4 => any::<u32>()
            .prop_map(|bits| Netmask::V4(Ipv4Addr::from_bits(bits)))
            .boxed(),
        Family::V6 => (0u8..=128).prop_map(Netmask::V6).boxed(),
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

pub(crate) fn checksum() -> impl Strategy<Value = TunnelChecksum> {
    use TunnelChecksum::*;
    proptest::sample::select(vec![None, Full, Remote])
}

pub(crate) fn forwarding() -> impl Strategy<Value = Forwarding> {
    let tunnel =
        prop_oneof![
            Just(Tunnel::Ipip),
            (any::<u16>(), checksum()).prop_map(|(port, checksum)| Tunnel::Gue { port, checksum }),
            checksum().prop_map(|checksum| Tunnel::Gre { checksum }),
            (any::<u8>(), any::<u16>(), any::<u16>())
                .prop_map(|(kind, port, flags)| Tunnel::Other { kind, port, flags }),
        ];
    prop_oneof![
        proptest::sample::select(vec![
            Forwarding::Masquerade,
            Forwarding::LocalNode,
            Forwarding::DirectRouting,
            Forwarding::Bypass,
        ]),
        any::<u8>()
            .prop_filter("a tunnel has fields of its own", |method| method & 7 != 2)
            .prop_map(Forwarding::Other),
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
    any::<[u64; 10]>().prop_map(|[c, ip, op, ib, ob, rc, rip, rop, rib, rob]| {
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
        stats
    })
}

/// Attributes that neither a virtual nor a real server has yet.
fn unknown() -> impl Strategy<Value = Vec<UnknownAttribute>> {
    let attribute = (16u16..0x4000, vec(any::<u8>(), 0..20));
    vec(
        attribute.prop_map(|(kind, value)| UnknownAttribute::new(kind, value)),
        0..3,
    )
}

fn virtual_server_entry() -> impl Strategy<Value = VirtualServerEntry> {
    let parts = (
        virtual_server(),
        option::of((statistics(), unknown())),
        unknown(),
    );
    parts.prop_map(|(server, stats, unknown)| {
        let mut entry = VirtualServerEntry::from(server);
        entry.stats = stats.as_ref().map(|(stats, _)| *stats);
        entry.unknown_counters = stats.map(|(_, unknown)| unknown).unwrap_or_default();
        entry.unknown = unknown;
        entry
    })
}

fn real_server_entry() -> impl Strategy<Value = RealServerEntry> {
    let connections = any::<(u32, u32, u32)>()
        .prop_map(|(active, inactive, persistent)| Connections::new(active, inactive, persistent));
    (
        real_server(),
        option::of(connections),
        option::of((statistics(), unknown())),
        unknown(),
    )
        .prop_map(|(server, connections, stats, unknown)| {
            let mut entry = RealServerEntry::from(server);
            entry.connections = connections;
            entry.stats = stats.as_ref().map(|(stats, _)| *stats);
            entry.unknown_counters = stats.map(|(_, unknown)| unknown).unwrap_or_default();
            entry.unknown = unknown;
            entry
        })
}

pub(crate) fn sync_role() -> impl Strategy<Value = SyncRole> {
    prop_oneof![Just(SyncRole::Master), Just(SyncRole::Backup)]
}

fn sync_daemon() -> impl Strategy<Value = SyncDaemon> {
    let options = any::<(Option<u16>, Option<IpAddr>, Option<u16>, Option<u8>)>();
    let interface = vec(1u8.., 1..=15);
    (sync_role(), interface, any::<u32>(), options).prop_map(
        |(role, interface, sync_id, (max_length, group, port, ttl))| {
            let interface = InterfaceName::from_bytes(&interface).unwrap();
            let mut daemon = SyncDaemon::new(role, interface, sync_id);
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
    (any::<(u8, u8, u8, u32)>(), unknown()).prop_map(|((major, minor, patch, size), unknown)| {
        let version = Version {
            major,
            minor,
            patch,
        };
        let mut info = Info::new(version, size);
        info.unknown = unknown;
        info
    })
}
