//! What a client must find on whichever kernel, fake or real. Each check wants an empty table.

use std::num::NonZeroU32;

use ipvs::*;

/// Makes a test of each check, which `$run` gives a client.
macro_rules! conformance {
    ($run:path $(, #[$attribute:meta])?) => {
        conformance! { @all $run, [$(#[$attribute])?];
            virtual_server_life
            schedulers
            virtual_server_errors
            refused
            real_server_life
            real_server_errors
            mixed_families
            mixed_table
            batch_outcomes
            batch_all_failing
            zero
            timeouts
            sync_daemons
            info
            probe
            flush
        }
    };
    (@all $run:path, $attributes:tt; $($check:ident)*) => {
        $(conformance! { @one $run, $attributes, $check })*
    };
    (@one $run:path, [$(#[$attribute:meta])?], $check:ident) => {
        #[test]
        $(#[$attribute])?
        fn $check() {
            $run(conformance::$check);
        }
    };
}
pub(crate) use conformance;

pub(crate) fn key(text: &str) -> VirtualServerKey {
    text.parse().unwrap()
}

pub(crate) fn real(text: &str) -> RealServer {
    RealServer::new(text.parse().unwrap())
}

pub(crate) fn kind<R>(result: Result<R>) -> ErrorKind {
    result
        .err()
        .map(|error| error.kind().clone())
        .expect("an error")
}

pub(crate) fn virtual_server_life<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let hour = Persistence::new(3600);
    let v4_net = Netmask::from_prefix(Family::V4, 24).unwrap();
    let v6_net = Netmask::from_prefix(Family::V6, 64).unwrap();
    let v4_host = Netmask::from_prefix(Family::V4, 32).unwrap();
    let v6_host = Netmask::from_prefix(Family::V6, 128).unwrap();
    let plain = |text: &str| VirtualServer::new(key(text));
    let servers = [
        plain("tcp 10.96.0.1:80"),
        plain("udp 10.96.0.1:80").with_flags(Flags::ONE_PACKET),
        plain("sctp 10.96.0.1:80").with_persistence(hour),
        plain("tcp 10.96.0.2:80").with_persistence(hour.with_netmask(v4_net)),
        plain("tcp 10.96.0.3:0").with_persistence(hour),
        // A netmask of one address is reported as none, and equals it.
        plain("tcp 10.96.0.8:80").with_persistence(hour.with_netmask(v4_host)),
        plain("tcp [fd00::8]:80").with_persistence(hour.with_netmask(v6_host)),
        plain("tcp [fd00::1]:80"),
        plain("udp [fd00::1]:53").with_persistence(hour.with_netmask(v6_net)),
        plain("tcp 10.96.0.4:80")
            .with_scheduler(Scheduler::SourceHash)
            .with_flags(Flags::SH_FALLBACK | Flags::SH_PORT),
        plain("tcp 10.96.0.5:80")
            .with_scheduler(Scheduler::MaglevHash)
            .with_flags(Flags::MH_PORT),
        plain("udp 10.96.0.6:5060")
            .with_persistence(hour)
            .with_engine(PersistenceEngine::Sip),
        plain("fwmark 1 ipv4").with_tag(0x4906),
        plain("tcp 10.96.0.7:80").with_tag(u16::MAX),
        plain("fwmark 1 ipv6").with_persistence(hour.with_netmask(v6_net)),
    ];
    for server in &servers {
        client.add_virtual_server(server)?;
        let entry = client.virtual_server(&server.key)?;
        assert_eq!(entry.server, *server);
        assert_eq!(entry.stats, Some(Statistics::default()));
        assert_eq!(entry.unknown, []);
        assert_eq!(client.real_servers(&server.key)?, []);
    }
    let mut listed: Vec<VirtualServer> = client
        .virtual_servers()?
        .iter()
        .map(|entry| entry.server)
        .collect();
    listed.sort_by_key(|server| server.key);
    let mut expected = servers.to_vec();
    expected.sort_by_key(|server| server.key);
    assert_eq!(listed, expected);

    let changed = servers[1]
        .with_scheduler(Scheduler::LeastConnection)
        .with_flags(Flags::NONE)
        .with_persistence(Persistence::new(60));
    client.update_virtual_server(&changed)?;
    assert_eq!(client.virtual_server(&changed.key)?.server, changed);
    client.update_virtual_server(&servers[1])?;
    assert_eq!(client.virtual_server(&changed.key)?.server, servers[1]);
    let tagged = servers[1].with_tag(7);
    client.update_virtual_server(&tagged)?;
    assert_eq!(client.virtual_server(&changed.key)?.server, tagged);

    for server in &servers {
        client.delete_virtual_server(&server.key)?;
    }
    assert_eq!(client.virtual_servers()?, []);
    Ok(())
}

pub(crate) fn schedulers<T: Transport>(client: &mut Client<T>) -> Result<()> {
    for (port, scheduler) in (1..).zip(Scheduler::known()) {
        let key = VirtualServerKey::tcp(([10, 96, 0, 1], port).into());
        let server = VirtualServer::new(key).with_scheduler(scheduler);
        let added = client.add_virtual_server(&server);
        // Distributions leave this one out.
        let may_lack = scheduler == Scheduler::RandomTwosChoice;
        if may_lack && matches!(&added, Err(e) if *e.kind() == ErrorKind::UnknownScheduler) {
            continue;
        }
        added?;
        assert_eq!(client.virtual_server(&key)?.server.scheduler, scheduler);
    }
    Ok(())
}

pub(crate) fn virtual_server_errors<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let web = VirtualServer::new(key("tcp 10.96.0.1:80"));
    for missing in [
        client.virtual_server(&web.key).map(drop),
        client.real_servers(&web.key).map(drop),
        client.update_virtual_server(&web),
        client.delete_virtual_server(&web.key),
        client.zero_statistics(Some(&web.key)),
        client.add_real_server(&web.key, &real("10.244.0.1:80")),
    ] {
        assert_eq!(missing.as_ref().err().and_then(Error::errno), Some(3));
        assert!(missing.is_err_and(|error| error.is_not_found()));
    }
    client.add_virtual_server(&web)?;
    assert_eq!(
        kind(client.add_virtual_server(&web)),
        ErrorKind::AlreadyExists
    );
    let unknown = web.with_scheduler("nosuch".parse().unwrap());
    assert_eq!(
        kind(client.update_virtual_server(&unknown)),
        ErrorKind::UnknownScheduler
    );
    let mut unknown = unknown;
    unknown.key = key("tcp 10.96.0.2:80");
    assert_eq!(
        kind(client.add_virtual_server(&unknown)),
        ErrorKind::UnknownScheduler
    );
    let unknown = web.with_engine("nosuch".parse().unwrap());
    assert_eq!(
        kind(client.update_virtual_server(&unknown)),
        ErrorKind::UnknownScheduler
    );
    assert_eq!(client.virtual_server(&web.key)?.server, web);
    Ok(())
}

pub(crate) fn probe<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let web = VirtualServer::new(key("tcp 192.0.2.1:9")).with_scheduler(Scheduler::RoundRobin);
    let v6 = VirtualServer::new(key("tcp [2001:db8::1]:9"));
    for server in [web, v6] {
        assert_eq!(client.probe_virtual_server(&server)?.server, server);
    }
    let unknown = web.with_scheduler("nosuch".parse().unwrap());
    let error = client.probe_virtual_server(&unknown).unwrap_err();
    assert_eq!(error.operation(), Operation::AddVirtualServer);
    assert_eq!(*error.kind(), ErrorKind::UnknownScheduler);
    assert_eq!(client.virtual_servers()?, []);
    // One that is there stays.
    client.add_virtual_server(&web)?;
    assert_eq!(
        kind(client.probe_virtual_server(&web)),
        ErrorKind::AlreadyExists
    );
    assert_eq!(client.virtual_servers()?.len(), 1);
    Ok(())
}

pub(crate) fn refused<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let before = client.counters();
    for (text, invalid) in [
        ("0 10.96.0.1:80", Invalid::Protocol),
        ("99 10.96.0.1:80", Invalid::Protocol),
        ("tcp 10.96.0.1:0", Invalid::PortZero),
    ] {
        let server = VirtualServer::new(key(text));
        assert_eq!(
            kind(client.add_virtual_server(&server)),
            ErrorKind::Invalid(invalid)
        );
    }
    assert_eq!(client.counters(), before);
    Ok(())
}

pub(crate) fn real_server_life<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let v4 = key("tcp 10.96.0.1:80");
    let v6 = key("tcp [fd00::1]:80");
    let mark = VirtualServerKey::firewall_mark(NonZeroU32::MIN, Family::V4);
    for key in [v4, v6, mark] {
        client.add_virtual_server(&VirtualServer::new(key))?;
    }
    let (none, full) = (TunnelChecksum::None, TunnelChecksum::Full);
    let tunnel = |server: RealServer, tunnel| server.with_forwarding(Forwarding::Tunnel(tunnel));
    let servers = [
        (v4, real("10.244.0.1:8080")),
        (v4, real("10.244.0.2:8080").with_weight(0)),
        (
            v4,
            real("10.244.0.3:80")
                .with_forwarding(Forwarding::DirectRouting)
                .with_weight(65_535),
        ),
        (v4, tunnel(real("10.244.0.4:80"), Tunnel::Ipip)),
        (
            v4,
            tunnel(
                real("10.244.0.5:80"),
                Tunnel::Gue {
                    port: 6080,
                    checksum: none,
                },
            ),
        ),
        (
            v4,
            tunnel(real("10.244.0.6:80"), Tunnel::Gre { checksum: full }),
        ),
        (v4, real("10.244.0.7:80").with_thresholds(50, 100)),
        (v6, real("[fd00::2:1]:8080")),
        (
            v6,
            tunnel(
                real("[fd00::2:2]:80"),
                Tunnel::Gue {
                    port: 6080,
                    checksum: TunnelChecksum::Remote,
                },
            ),
        ),
        (mark, real("10.244.0.1:0")),
    ];
    for (key, server) in &servers {
        client.add_real_server(key, server)?;
    }
    for wanted in [v4, v6, mark] {
        let entries = client.real_servers(&wanted)?;
        let listed: Vec<RealServer> = entries.iter().map(|entry| entry.server).collect();
        let of_it = servers.iter().rev().filter(|(key, _)| *key == wanted);
        let expected: Vec<RealServer> = of_it.map(|(_, server)| *server).collect();
        assert_eq!(listed, expected, "the last added first");
        for entry in entries {
            assert_eq!(entry.connections, Some(Connections::default()));
            assert_eq!(entry.stats, Some(Statistics::default()));
            assert_eq!(entry.unknown, []);
        }
    }
    let changed = real("10.244.0.1:8080")
        .with_weight(7)
        .with_thresholds(1, 2)
        .with_forwarding(Forwarding::DirectRouting);
    client.update_real_server(&v4, &changed)?;
    let listed = client.real_servers(&v4)?;
    assert!(listed.iter().any(|entry| entry.server == changed));
    for (key, server) in &servers {
        client.delete_real_server(key, &server.key)?;
    }
    assert_eq!(client.real_servers(&v4)?, []);
    Ok(())
}

pub(crate) fn real_server_errors<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let web = key("tcp 10.96.0.1:80");
    client.add_virtual_server(&VirtualServer::new(web))?;
    client.add_virtual_server(&VirtualServer::new(key("tcp [fd00::1]:80")))?;
    let one = real("10.244.0.1:80");
    for missing in [
        client.update_real_server(&web, &one),
        client.delete_real_server(&web, &one.key),
    ] {
        assert_eq!(missing.as_ref().err().and_then(Error::errno), Some(2));
        assert!(missing.is_err_and(|error| error.is_not_found()));
    }
    client.add_real_server(&web, &one)?;
    assert_eq!(
        kind(client.add_real_server(&web, &one)),
        ErrorKind::AlreadyExists
    );
    for out_of_range in [
        one.with_thresholds(2, 1),
        one.with_weight(1 << 31),
        one.with_weight(u32::MAX),
    ] {
        assert_eq!(
            kind(client.update_real_server(&web, &out_of_range)),
            ErrorKind::OutOfRange
        );
        let mut other = out_of_range;
        other.key = "10.244.0.2:80".parse().unwrap();
        assert_eq!(
            kind(client.add_real_server(&web, &other)),
            ErrorKind::OutOfRange
        );
    }
    // Linux of 2026: later than the order of the two, sooner than whether it exists.
    let missing = real("10.244.0.9:80").with_thresholds(0, 1 << 31);
    assert_eq!(
        kind(client.update_real_server(&web, &missing)),
        ErrorKind::Rejected
    );
    let crossed = missing.with_thresholds(u32::MAX, 1 << 31);
    assert_eq!(
        kind(client.update_real_server(&web, &crossed)),
        ErrorKind::OutOfRange
    );
    let v6 = key("tcp [fd00::1]:80");
    for (key, address) in [
        (web, "0.0.0.0:80"),
        (web, "224.0.0.1:80"),
        (web, "255.255.255.255:80"),
        (web, "127.255.255.255:80"),
        (v6, "[::]:80"),
        (v6, "[ff02::1]:80"),
        (v6, "[fe80::1]:80"),
        (v6, "[::ffff:10.0.0.1]:80"),
    ] {
        let added = client.add_real_server(&key, &real(address));
        let kind = added.map_err(|error| error.kind().clone());
        assert_eq!(kind, Err(ErrorKind::Rejected), "{address}");
    }
    let checksum = TunnelChecksum::None;
    let flags = 9;
    for no_port in [
        Tunnel::Gue { port: 0, checksum },
        Tunnel::Other {
            kind: 1,
            port: 0,
            flags,
        },
    ] {
        let tunnel = real("10.244.0.3:80").with_forwarding(Forwarding::Tunnel(no_port));
        let added = client.add_real_server(&web, &tunnel);
        assert_eq!(kind(added), ErrorKind::Rejected);
    }
    // Unicast for the kernel.
    for address in ["0.1.2.3:80", "127.0.0.1:80", "240.0.0.1:80"] {
        client.add_real_server(&web, &real(address))?;
    }
    for address in ["[::1]:80", "[::10.0.0.1]:80", "[fec0::1]:80"] {
        client.add_real_server(&v6, &real(address))?;
    }
    Ok(())
}

pub(crate) fn mixed_families<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let web = key("tcp 10.96.0.1:80");
    client.add_virtual_server(&VirtualServer::new(web))?;
    let v6 = real("[fd00::2:1]:80");
    assert_eq!(kind(client.add_real_server(&web, &v6)), ErrorKind::Rejected);
    let tunnel = v6.with_forwarding(Forwarding::Tunnel(Tunnel::Ipip));
    client.add_real_server(&web, &tunnel)?;
    let entries = client.real_servers(&web)?;
    assert_eq!(
        entries.iter().map(|entry| entry.server).collect::<Vec<_>>(),
        [tunnel]
    );
    client.delete_real_server(&web, &v6.key)
}

pub(crate) fn mixed_table<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let keys = [
        "tcp 10.96.0.1:80",
        "udp [fd00::1]:53",
        "fwmark 7 ipv4",
        "fwmark 7 ipv6",
    ]
    .map(key);
    for key in keys {
        client.add_virtual_server(&VirtualServer::new(key))?;
    }
    let mut listed: Vec<VirtualServerKey> = client
        .virtual_servers()?
        .iter()
        .map(|entry| entry.server.key)
        .collect();
    listed.sort();
    assert_eq!(listed, keys);
    Ok(())
}

pub(crate) fn batch_outcomes<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let web = VirtualServer::new(key("tcp 10.96.0.1:80"));
    let gone = key("tcp 10.96.0.2:80");
    let add = |text| Change::AddRealServer {
        virtual_server: web.key,
        real_server: real(text),
    };
    let changes = [
        Change::AddVirtualServer(web),
        Change::AddVirtualServer(web),
        Change::AddVirtualServer(VirtualServer::new(key("99 10.96.0.1:80"))),
        add("10.244.0.1:80"),
        Change::DeleteVirtualServer(gone),
        add("10.244.0.2:80"),
        Change::DeleteRealServer {
            virtual_server: web.key,
            real_server: "10.244.0.9:80".parse().unwrap(),
        },
        add("10.244.0.2:80"),
    ];
    let before = client.counters();
    let outcomes = client.apply(changes);
    assert_eq!(
        client.counters().changes - before.changes,
        7,
        "one was refused unsent"
    );
    let kinds: Vec<Option<ErrorKind>> = outcomes
        .into_iter()
        .map(|outcome| outcome.err().map(|e| e.kind().clone()))
        .collect();
    let expected = [
        None,
        Some(ErrorKind::AlreadyExists),
        Some(ErrorKind::Invalid(Invalid::Protocol)),
        None,
        Some(ErrorKind::NotFound),
        None,
        Some(ErrorKind::NotFound),
        Some(ErrorKind::AlreadyExists),
    ];
    assert_eq!(kinds, expected);
    let real_servers = client.real_servers(&web.key)?;
    assert_eq!(real_servers.len(), 2);
    Ok(())
}

pub(crate) fn batch_all_failing<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let web = key("tcp 10.96.0.1:80");
    let deletes: Vec<Change> = (1..=1000)
        .map(|port| {
            Change::DeleteVirtualServer(VirtualServerKey::tcp(([10, 96, 0, 1], port).into()))
        })
        .collect();
    let outcomes = client.apply(&deletes);
    assert_eq!(outcomes.failures().count(), deletes.len());
    for ((place, error), change) in outcomes.failures().zip(&deletes) {
        assert!(error.is_not_found(), "change {place}: {error}");
        assert_eq!(*error.object(), change.object());
    }
    // What comes next is not disturbed.
    client.add_virtual_server(&VirtualServer::new(web))?;
    assert_eq!(client.virtual_servers()?.len(), 1);
    Ok(())
}

pub(crate) fn zero<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let web = VirtualServer::new(key("tcp 10.96.0.1:80"));
    client.add_virtual_server(&web)?;
    client.add_real_server(&web.key, &real("10.244.0.1:80"))?;
    client.zero_statistics(Some(&web.key))?;
    client.zero_statistics(None)?;
    assert_eq!(
        client.virtual_server(&web.key)?.stats,
        Some(Statistics::default())
    );
    Ok(())
}

pub(crate) fn timeouts<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let wanted = Timeouts::default()
        .with_tcp(800)
        .with_tcp_fin(90)
        .with_udp(70);
    client.set_timeouts(&wanted)?;
    assert_eq!(client.timeouts()?, wanted.into());
    client.set_timeouts(&Timeouts::default().with_udp(60))?;
    assert_eq!(client.timeouts()?, wanted.with_udp(60).into());
    for seconds in [0, Timeouts::MAX + 1] {
        let error = kind(client.set_timeouts(&Timeouts::default().with_tcp(seconds)));
        assert_eq!(error, ErrorKind::Invalid(Invalid::Timeout));
    }
    client.set_timeouts(
        &Timeouts::default()
            .with_tcp(900)
            .with_tcp_fin(120)
            .with_udp(300),
    )
}

pub(crate) fn sync_daemons<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let lo: InterfaceName = "lo".parse().unwrap();
    assert_eq!(client.sync_daemons()?, []);
    for role in [SyncRole::Master, SyncRole::Backup] {
        assert_eq!(kind(client.stop_sync_daemon(role)), ErrorKind::NotFound);
    }
    let nowhere = SyncDaemon::new(SyncRole::Master, "nosuch".parse().unwrap(), 1);
    let error = client.start_sync_daemon(&nowhere).unwrap_err();
    assert_eq!(error.errno(), Some(19));
    let unicast =
        SyncDaemon::new(SyncRole::Master, lo, 1).with_group("10.0.0.1".parse().unwrap(), 9000);
    assert_eq!(
        kind(client.start_sync_daemon(&unicast)),
        ErrorKind::Rejected
    );
    let many = SyncDaemon::new(SyncRole::Master, lo, 256);
    assert_eq!(
        kind(client.start_sync_daemon(&many)),
        ErrorKind::Invalid(Invalid::SyncId)
    );

    let master = SyncDaemon::new(SyncRole::Master, lo, 7);
    let backup = SyncDaemon::new(SyncRole::Backup, lo, 8)
        .with_group("224.0.0.82".parse().unwrap(), 9000)
        .with_max_length(1400)
        .with_ttl(3);
    client.start_sync_daemon(&master)?;
    assert_eq!(
        kind(client.start_sync_daemon(&master)),
        ErrorKind::AlreadyExists
    );
    client.start_sync_daemon(&backup)?;
    let group = "224.0.0.81".parse().unwrap();
    let filled = master
        .with_max_length(1472)
        .with_group(group, 8848)
        .with_ttl(1);
    assert!(master.is_met_by(&filled) && backup.is_met_by(&backup));
    assert_eq!(client.sync_daemons()?, [filled.into(), backup.into()]);
    client.stop_sync_daemon(SyncRole::Master)?;
    assert_eq!(client.sync_daemons()?, [backup.into()]);
    // A missing interface is noticed before a daemon that runs.
    let mut nowhere = backup;
    nowhere.interface = "nosuch".parse().unwrap();
    let error = client.start_sync_daemon(&nowhere).unwrap_err();
    assert_eq!(error.errno(), Some(19));
    client.stop_sync_daemon(SyncRole::Backup)?;
    let v6 = master.with_group("ff02::81".parse().unwrap(), 8848);
    client.start_sync_daemon(&v6)?;
    assert_eq!(
        client.sync_daemons()?,
        [v6.with_max_length(1452).with_ttl(1).into()]
    );
    client.stop_sync_daemon(SyncRole::Master)?;
    // Values that the kernel replaces.
    let odd = backup.with_group(group, 0).with_ttl(0).with_max_length(100);
    client.start_sync_daemon(&odd)?;
    let mended = odd
        .with_group(group, 8848)
        .with_ttl(1)
        .with_max_length(1024);
    assert!(odd.is_met_by(&mended));
    assert_eq!(client.sync_daemons()?, [mended.into()]);
    client.stop_sync_daemon(SyncRole::Backup)
}

pub(crate) fn info<T: Transport>(client: &mut Client<T>) -> Result<()> {
    let info = client.info()?;
    assert_eq!(info.version.to_string(), "1.2.1");
    assert!(info.connection_table_size.is_power_of_two());
    Ok(())
}

pub(crate) fn flush<T: Transport>(client: &mut Client<T>) -> Result<()> {
    for text in ["tcp 10.96.0.1:80", "fwmark 9 ipv4"] {
        client.add_virtual_server(&VirtualServer::new(key(text)))?;
        client.add_real_server(&key(text), &real("10.244.0.1:80"))?;
    }
    client.flush()?;
    assert_eq!(client.virtual_servers()?, []);
    client.flush()
}
