//! The real kernel: the conformance checks, and `ipvsadm` and `/proc/net/ip_vs` as witnesses.
//! Each test has a network namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod conformance;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use conformance::{conformance, key, kind, real};
use ipvs::*;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use testbed::{Namespace, eventually};

fn namespace() -> (Namespace, Client) {
    // Not left to the kernel: it loads a scheduler with the mutex of IPVS held, lblc and lblcr
    // then want the lock of all network namespaces, and with a namespace being removed at that
    // moment, which takes the two the other way round, IPVS is stuck until the next boot.
    static MODULES: Once = Once::new();
    MODULES.call_once(|| {
        let modules = ["ip_vs", "ip_vs_lblc", "ip_vs_lblcr"];
        assert!(
            Command::new("modprobe")
                .arg("-a")
                .args(modules)
                .status()
                .unwrap()
                .success()
        );
    });
    let namespace = Namespace::new("ipvs").unwrap();
    // For sync daemons in an IPv6 group.
    let route = "ip -6 route add multicast ff02::81 dev lo table local";
    namespace.run(route.split(' ')).unwrap();
    let handle = File::open(format!("/run/netns/{}", namespace.name())).unwrap();
    let client = Client::open_in_namespace(handle.as_fd()).unwrap();
    (namespace, client)
}

fn on_kernel(check: fn(&mut Client) -> Result<()>) {
    let (_namespace, mut client) = namespace();
    check(&mut client).unwrap();
}

conformance!(on_kernel, #[ignore = "kernel: needs IPVS"]);

/// A table with every kind of server, as changes.
fn table() -> Vec<Change> {
    let hour = Persistence::new(3600);
    let v4_net = Netmask::from_prefix(Family::V4, 24).unwrap();
    let v6_net = Netmask::from_prefix(Family::V6, 64).unwrap();
    let with = |text: &str| VirtualServer::new(key(text));
    let (sh, mh) = (Scheduler::SourceHash, Scheduler::MaglevHash);
    let servers = [
        with("tcp 10.96.0.1:80"),
        with("tcp 10.96.0.1:443").with_persistence(hour),
        with("tcp 10.96.0.1:0").with_persistence(hour.with_netmask(v4_net)),
        with("udp 10.96.0.1:53").with_flags(Flags::ONE_PACKET),
        with("udp 10.96.0.2:5060")
            .with_persistence(hour)
            .with_engine(PersistenceEngine::Sip),
        with("sctp 10.96.0.1:80")
            .with_scheduler(sh)
            .with_flags(Flags::SH_FALLBACK),
        with("tcp 10.96.0.3:80")
            .with_scheduler(sh)
            .with_flags(Flags::SH_PORT),
        with("tcp 10.96.0.4:80")
            .with_scheduler(mh)
            .with_flags(Flags::MH_FALLBACK | Flags::MH_PORT),
        with("tcp 10.96.0.5:80").with_flags(Flags::SCHEDULER_1 | Flags::SCHEDULER_3),
        with("tcp [fd00::1]:80").with_persistence(hour.with_netmask(v6_net)),
        with("udp [fd00::1]:53"),
        with("fwmark 7 ipv4").with_persistence(hour),
        with("fwmark 7 ipv6"),
    ];
    let tunnels = [
        Tunnel::Ipip,
        Tunnel::Gue {
            port: 6080,
            checksum: TunnelChecksum::None,
        },
        Tunnel::Gue {
            port: 6081,
            checksum: TunnelChecksum::Full,
        },
        Tunnel::Gue {
            port: 6082,
            checksum: TunnelChecksum::Remote,
        },
        Tunnel::Gre {
            checksum: TunnelChecksum::None,
        },
        Tunnel::Gre {
            checksum: TunnelChecksum::Full,
        },
    ];
    let mut changes: Vec<Change> = servers.map(Change::AddVirtualServer).to_vec();
    for server in servers {
        let virtual_server = server.key;
        let (one, two) = match virtual_server.family() {
            Family::V4 => ("10.244.0.1:0", "10.244.0.2:0"),
            Family::V6 => ("[fd00::2:1]:0", "[fd00::2:2]:0"),
        };
        let (mut one, mut two) = (real(one).with_weight(10), real(two).with_thresholds(5, 10));
        // ipvsadm has another port than the virtual server's with masquerade only; the port of
        // those with port 0 or a firewall mark is the packet's own.
        if let Some(port) = virtual_server.address().map(|address| address.port()) {
            one.key.port = if port == 0 { 0 } else { 8080 };
            two.key.port = port;
        }
        let direct = two.with_forwarding(Forwarding::DirectRouting);
        for real_server in [one, direct] {
            changes.push(Change::AddRealServer {
                virtual_server,
                real_server,
            });
        }
    }
    for (host, tunnel) in (3..).zip(tunnels) {
        for text in [
            format!("10.244.0.{host}:80"),
            format!("[fd00::2:{host}]:80"),
        ] {
            let virtual_server = key("tcp 10.96.0.1:80");
            let real_server = real(&text).with_forwarding(Forwarding::Tunnel(tunnel));
            changes.push(Change::AddRealServer {
                virtual_server,
                real_server,
            });
        }
    }
    changes
}

fn rules(changes: &[Change]) -> Vec<(String, String)> {
    let rule = |change: &Change| match change {
        Change::AddVirtualServer(server) => {
            let rule = ipvsadm::virtual_server(server);
            (format!("{rule}"), format!("{rule:#}"))
        }
        Change::AddRealServer {
            virtual_server,
            real_server,
        } => {
            let rule = ipvsadm::real_server(virtual_server, real_server);
            (format!("{rule}"), format!("{rule:#}"))
        }
        other => panic!("{other}"),
    };
    changes.iter().map(rule).collect()
}

fn sorted<S: Ord>(items: impl IntoIterator<Item = S>) -> Vec<S> {
    let mut items: Vec<S> = items.into_iter().collect();
    items.sort();
    items
}

/// The configuration that the kernel has, as the changes that make it.
fn observed(client: &mut Client) -> Vec<Change> {
    let mut changes = Vec::new();
    for entry in client.virtual_servers().unwrap() {
        let virtual_server = entry.server.key;
        changes.push(Change::AddVirtualServer(entry.server));
        for entry in client.real_servers(&virtual_server).unwrap() {
            changes.push(Change::AddRealServer {
                virtual_server,
                real_server: entry.server,
            });
        }
    }
    changes
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn ipvsadm_saves_what_was_applied() {
    let (namespace, mut client) = namespace();
    let table = table();
    client.apply(&table).into_result().unwrap();
    let saved = namespace.run(["ipvsadm", "--save", "--numeric"]).unwrap();
    let rules = rules(&table);
    assert_eq!(
        sorted(saved.lines()),
        sorted(rules.iter().map(|(rule, _)| rule.as_str()))
    );
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn ipvsadm_restores_what_is_rendered() {
    let (namespace, mut client) = namespace();
    let table = table();
    let rules: String = rules(&table)
        .iter()
        .map(|(_, full)| format!("{full}\n"))
        .collect();
    namespace
        .run_with_input(["ipvsadm", "--restore"], &rules)
        .unwrap();
    let text = |changes: &[Change]| sorted(changes.iter().map(|change| format!("{change:?}")));
    assert_eq!(text(&observed(&mut client)), text(&table));
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn proc_shows_what_was_applied() {
    let (namespace, mut client) = namespace();
    let table = table();
    client.apply(&table).into_result().unwrap();
    let added = |wanted: Operation| table.iter().filter(|c| c.operation() == wanted).count();
    let wanted = (
        added(Operation::AddVirtualServer),
        added(Operation::AddRealServer),
    );
    // What is deleted in another namespace meanwhile may hide a line.
    let whole = || {
        let text = namespace
            .enter(|| fs::read_to_string("/proc/thread-self/net/ip_vs"))
            .unwrap();
        let count = |prefix: &str| text.lines().filter(|l| l.starts_with(prefix)).count();
        let servers = ["TCP", "UDP", "SCTP", "FWM"].map(count).iter().sum();
        // One line of the heading looks like a real server.
        if (servers, count("  -> ") - 1) == wanted {
            Ok(text)
        } else {
            Err(text)
        }
    };
    let text = eventually(Duration::from_secs(60), whole).unwrap();
    for line in [
        "TCP  0A600001:01BB rr persistent 900000 FFFFFFFF",
        "UDP  0A600001:0035 rr ops ",
        "SCTP  0A600001:0050 sh  ",
    ] {
        let words: Vec<&str> = line.split_whitespace().take(3).collect();
        let found = text
            .lines()
            .any(|l| l.split_whitespace().take(3).eq(words.iter().copied()));
        assert!(found, "{line} is not in\n{text}");
    }
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn ipvsadm_sees_timeouts_and_sync_daemons() {
    let (namespace, mut client) = namespace();
    client
        .set_timeouts(
            &Timeouts::default()
                .with_tcp(800)
                .with_tcp_fin(90)
                .with_udp(70),
        )
        .unwrap();
    let timeouts = namespace.run(["ipvsadm", "--list", "--timeout"]).unwrap();
    assert_eq!(timeouts.trim(), "Timeout (tcp tcpfin udp): 800 90 70");
    let backup = SyncDaemon::new(SyncRole::Backup, "lo".parse().unwrap(), 8)
        .with_group("224.0.0.82".parse().unwrap(), 9000)
        .with_max_length(1400)
        .with_ttl(3);
    client.start_sync_daemon(&backup).unwrap();
    let daemons = namespace.run(["ipvsadm", "--list", "--daemon"]).unwrap();
    let expected = "backup sync daemon (mcast=lo, syncid=8, maxlen=1400, group=224.0.0.82, \
                    port=9000, ttl=3)";
    assert_eq!(daemons.trim(), expected);
    namespace
        .run(["ipvsadm", "--stop-daemon", "backup"])
        .unwrap();
    assert_eq!(client.sync_daemons().unwrap(), []);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn real_servers_need_lo_up() {
    let name = format!("ipvs-down-{}", std::process::id());
    let ip_netns = |action: &str| {
        let done = Command::new("ip")
            .args(["netns", action, &name])
            .status()
            .unwrap();
        assert!(done.success());
    };
    ip_netns("add");
    let handle = File::open(format!("/run/netns/{name}")).unwrap();
    let mut client = Client::open_in_namespace(handle.as_fd()).unwrap();
    let web = key("tcp 10.96.0.1:80");
    client.add_virtual_server(&VirtualServer::new(web)).unwrap();
    let added = client.add_real_server(&web, &real("10.244.0.1:80"));
    ip_netns("delete");
    assert_eq!(kind(added), ErrorKind::Rejected);
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn a_large_listing_is_whole_or_an_error() {
    let (namespace, mut client) = namespace();
    let keys: Vec<VirtualServerKey> = (1..=2000)
        .map(|port| VirtualServerKey::tcp(([10, 96, 0, 1], port).into()))
        .collect();
    let add = |key: &VirtualServerKey| Change::AddVirtualServer(VirtualServer::new(*key));
    client.apply(keys.iter().map(add)).into_result().unwrap();
    // Another test may delete a virtual server meanwhile, by which one is left out of a listing.
    let whole = (0..100).any(|_| {
        let listed = client.virtual_servers();
        listed.is_ok_and(|l| sorted(l.iter().map(|entry| entry.server.key)) == keys)
    });
    assert!(whole);
    std::thread::scope(|scope| {
        let handle = File::open(format!("/run/netns/{}", namespace.name())).unwrap();
        let mut writer = Client::open_in_namespace(handle.as_fd()).unwrap();
        let changes = scope.spawn(move || {
            let other = VirtualServer::new(key("udp 10.96.0.1:1"));
            for _ in 0..50 {
                writer.add_virtual_server(&other).unwrap();
                writer.delete_virtual_server(&other.key).unwrap();
            }
        });
        while !changes.is_finished() {
            let Ok(listed) = client.virtual_servers() else {
                continue;
            };
            let listed = sorted(listed.iter().map(|entry| entry.server.key));
            assert!(listed.windows(2).all(|pair| pair[0] != pair[1]));
        }
    });
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn traffic_is_counted() {
    let (namespace, mut client) = namespace();
    namespace
        .ip(&[
            "addr add 10.96.0.1/32 dev lo",
            "addr add 10.244.0.1/32 dev lo",
        ])
        .unwrap();
    let web = key("tcp 10.96.0.1:80");
    client.add_virtual_server(&VirtualServer::new(web)).unwrap();
    client
        .add_real_server(&web, &real("10.244.0.1:8080"))
        .unwrap();
    let listener = namespace
        .enter(|| TcpListener::bind("10.244.0.1:8080"))
        .unwrap();
    let mut connection = namespace
        .enter(|| TcpStream::connect("10.96.0.1:80"))
        .unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    connection.write_all(b"hello").unwrap();
    accepted.read_exact(&mut [0; 5]).unwrap();

    // The kernel sums its counters up every 2 s.
    let stats = eventually(Duration::from_secs(20), || {
        let stats = client.virtual_server(&web).unwrap().stats.unwrap();
        if stats.connections == 1 {
            Ok(stats)
        } else {
            Err(format!("{stats:?}"))
        }
    })
    .unwrap();
    assert!(
        stats.incoming_packets >= 3 && stats.outgoing_packets >= 2,
        "{stats:?}"
    );
    assert!(stats.incoming_bytes > 120, "{stats:?}");
    let entry = &client.real_servers(&web).unwrap()[0];
    let connections = Connections::new(1, 0, 0);
    assert_eq!(entry.connections, Some(connections));

    client.zero_statistics(Some(&web)).unwrap();
    assert_eq!(
        client
            .virtual_server(&web)
            .unwrap()
            .stats
            .unwrap()
            .connections,
        0
    );
    drop((connection, accepted));
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn without_capability_permission_is_denied() {
    let (namespace, _) = namespace();
    let denied = namespace.enter(|| {
        // This thread's alone, and it ends here.
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).unwrap();
        Client::open()
            .and_then(|mut client| client.info())
            .unwrap_err()
    });
    assert!(denied.is_permission_denied(), "{denied}");
    assert!(denied.to_string().contains("CAP_NET_ADMIN"), "{denied}");
}

#[cfg(feature = "tokio")]
#[test]
#[ignore = "kernel: needs IPVS"]
fn the_client_for_tokio_works_too() {
    let (_namespace, client) = namespace();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = AsyncClient::new(client).await.unwrap();
        let table = table();
        client.apply(table.clone()).await.into_result().unwrap();
        let added = table
            .iter()
            .filter(|c| c.operation() == Operation::AddVirtualServer)
            .count();
        assert_eq!(client.virtual_servers().await.unwrap().len(), added);
        client.change(Change::Flush).await.unwrap();
        assert_eq!(client.virtual_servers().await.unwrap(), []);
    });
}

/// A call that is given up never overtakes one that is awaited after it.
#[cfg(feature = "tokio")]
#[test]
#[ignore = "kernel: needs IPVS"]
fn the_last_call_awaited_decides() {
    use std::future::{Future, poll_fn};
    use std::task::Poll;

    let (_namespace, client) = namespace();
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(async {
        let client = AsyncClient::new(client).await.unwrap();
        let (web, one) = (key("tcp 10.96.0.1:80"), real("10.244.0.1:80"));
        client
            .add_virtual_server(&VirtualServer::new(web))
            .await
            .unwrap();
        client.add_real_server(&web, &one).await.unwrap();
        for round in 1..1500 {
            let first = one.with_weight(0);
            let mut given_up = Box::pin(client.update_real_server(&web, &first));
            poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context).is_ready())).await;
            drop(given_up);
            let last = one.with_weight(round);
            client.update_real_server(&web, &last).await.unwrap();
            let listed = client.real_servers(&web).await.unwrap();
            assert_eq!(listed[0].server.weight, round);
        }
    });
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn a_sync_daemon_that_has_hardly_begun_can_be_stopped() {
    let (_namespace, mut client) = namespace();
    let daemon = SyncDaemon::new(SyncRole::Master, "lo".parse().unwrap(), 7);
    for _ in 0..50 {
        client.start_sync_daemon(&daemon).unwrap();
        client.stop_sync_daemon(SyncRole::Master).unwrap();
        assert_eq!(client.sync_daemons().unwrap(), []);
    }
}

/// Linux accepts any bytes but spaces, `/` and `:` in the name of an interface.
#[test]
#[ignore = "kernel: needs IPVS"]
fn a_sync_daemon_on_an_interface_that_is_not_utf8_is_listed() {
    let (namespace, mut client) = namespace();
    let interface = InterfaceName::from_bytes(b"eth\xff").unwrap();
    let ip = |before: &[&str], after: &[&str]| {
        let mut ip = namespace.command("ip");
        ip.args(before).arg(OsStr::from_bytes(interface.as_bytes()));
        assert!(ip.args(after).status().unwrap().success());
    };
    ip(&["link", "add"], &["type", "veth", "peer", "name", "peer"]);
    ip(&["address", "add", "192.0.2.1/24", "dev"], &[]);
    ip(&["link", "set"], &["up"]);
    let daemon = SyncDaemon::new(SyncRole::Master, interface, 7);
    client.start_sync_daemon(&daemon).unwrap();
    let listed = client.sync_daemons().unwrap();
    assert_eq!(listed.len(), 1);
    assert!(daemon.is_met_by(&listed[0].daemon), "{listed:?}");
    assert_eq!(listed[0].daemon.interface, interface);
}
