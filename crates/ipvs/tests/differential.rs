//! The fake kernel against the real one: the same random changes to both, the same results.
//!
//! A difference does not end the run. Both are emptied and it goes on, so that one run shows all
//! differences. `IPVS_CHANGES` and `IPVS_SEED` set its length and its changes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::process::Command;

use ipvs::*;
use testbed::Namespace;

/// xorshift64: the same changes on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// Few names, so that they meet; values at the edges of what the kernel accepts.
fn key(random: &mut Random) -> VirtualServerKey {
    if random.one_in(5) {
        let mark = random.of(&[1, u32::MAX]);
        let family = random.of(&[Family::V4, Family::V6]);
        return VirtualServerKey::firewall_mark(NonZeroU32::new(mark).unwrap(), family);
    }
    let protocols = [
        Protocol::Tcp,
        Protocol::Tcp,
        Protocol::Other(6),
        Protocol::Udp,
        Protocol::Sctp,
    ];
    let protocol = if random.one_in(100) {
        Protocol::Other(99)
    } else {
        random.of(&protocols)
    };
    let addresses = [
        "10.96.0.1",
        "10.96.0.1",
        "fd00::1",
        "fd00::1",
        "0.0.0.0",
        "::",
    ];
    let address = random.of(&addresses).parse().unwrap();
    VirtualServerKey::Address {
        protocol,
        address,
        port: random.of(&[80, 80, 80, 80, 80, 80, 21, 0]),
    }
}

fn virtual_server(random: &mut Random, schedulers: &[Scheduler]) -> VirtualServer {
    let mut server = VirtualServer::new(key(random)).with_scheduler(random.of(schedulers));
    if random.one_in(20) {
        server = server.with_scheduler("nosuch".parse().unwrap());
    }
    let bits = [0, 0, 4, 8, 0x38, 0x40, 0x8000_0000, u32::MAX];
    server = server.with_flags(Flags::from_bits(random.of(&bits)));
    if random.one_in(2) {
        let mut persistence =
            Persistence::new(random.of(&[1, 1, 360, 360, 360, 2_678_400, 2_678_400, 0, 2_678_401]));
        let v4 = |a, b, c, d| Some(Netmask::V4(Ipv4Addr::new(a, b, c, d)));
        let masks = match server.key.family() {
            Family::V4 => [
                None,
                v4(255, 255, 255, 0),
                v4(255, 255, 255, 255),
                v4(0, 255, 0, 1),
            ],
            Family::V6 => [
                None,
                Some(Netmask::V6(1)),
                Some(Netmask::V6(64)),
                Some(Netmask::V6(128)),
            ],
        };
        persistence.netmask = random.of(&masks);
        server = server.with_persistence(persistence);
    } else {
        server = server.with_tag(random.of(&[0, 1, u16::MAX]));
    }
    if random.one_in(8) {
        server = server.with_engine(random.of(&["sip", "sip", "nosuch"]).parse().unwrap());
    }
    server
}

fn real_server(random: &mut Random) -> RealServer {
    const ADDRESSES: [&str; 24] = [
        "10.244.0.1",
        "10.244.0.1",
        "10.244.0.2",
        "10.244.0.3",
        "fd00::2:1",
        "fd00::2:1",
        "fd00::2:2",
        "fd00::2:3",
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "169.254.1.1",
        "::",
        "::1",
        "::10.0.0.1",
        "::ffff:10.0.0.1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
    ];
    let address = random.of(&ADDRESSES).parse().unwrap();
    let mut server = RealServer::new(RealServerKey::new(address, random.of(&[80, 80, 8080, 0])));
    let checksums = [
        TunnelChecksum::None,
        TunnelChecksum::Full,
        TunnelChecksum::Remote,
    ];
    let checksum = random.of(&checksums);
    let tunnels = [
        Tunnel::Ipip,
        Tunnel::Gue {
            port: 6080,
            checksum,
        },
        Tunnel::Gue { port: 0, checksum },
        Tunnel::Gre { checksum },
        Tunnel::Other {
            kind: 1,
            port: 0,
            flags: 9,
        },
        Tunnel::Other {
            kind: 2,
            port: 7,
            flags: 0,
        },
        Tunnel::Other {
            kind: 200,
            port: 7,
            flags: 0xffff,
        },
    ];
    server.forwarding = match random.below(8) {
        0..=2 => Forwarding::Masquerade,
        3..=5 => Forwarding::Tunnel(random.of(&tunnels)),
        6 => random.of(&[
            Forwarding::DirectRouting,
            Forwarding::LocalNode,
            Forwarding::Bypass,
        ]),
        _ => Forwarding::Other(random.of(&[0, 5, 7, 9])),
    };
    let above = u32::try_from(i32::MAX).unwrap() + 1;
    server.weight = random.of(&[1, 1, 0, 65_535, above - 1, above, u32::MAX]);
    let thresholds = [0, 0, 0, 1, 100, above - 1, above, u32::MAX];
    server.lower_threshold = random.of(&thresholds);
    server.upper_threshold = random.of(&thresholds);
    server
}

fn sync_daemon(random: &mut Random) -> SyncDaemon {
    let interface = random.of(&["lo", "lo", "lo", "nosuch"]).parse().unwrap();
    let role = random.of(&[SyncRole::Master, SyncRole::Backup]);
    let mut daemon = SyncDaemon::new(role, interface, random.of(&[0, 7, 255, 256]));
    let groups = [
        "",
        "224.0.0.81",
        "239.1.1.1",
        "10.0.0.1",
        "fd00::1",
        "ff02::81",
    ];
    daemon.group = random.of(&groups).parse().ok();
    daemon.port = random.of(&[None, Some(0), Some(8848), Some(9000)]);
    daemon.ttl = random.of(&[None, Some(0), Some(1), Some(255)]);
    let lengths = [
        None,
        Some(0),
        Some(1),
        Some(100),
        Some(1400),
        Some(u16::MAX),
    ];
    daemon.max_length = random.of(&lengths);
    daemon
}

fn change(random: &mut Random, schedulers: &[Scheduler]) -> Change {
    let virtual_server_key = key(random);
    let timeout = |random: &mut Random| random.of(&[None, Some(1), Some(2_678_400), Some(0)]);
    match random.below(100) {
        0..=18 => Change::AddVirtualServer(virtual_server(random, schedulers)),
        19..=25 => Change::UpdateVirtualServer(virtual_server(random, schedulers)),
        26..=28 => Change::DeleteVirtualServer(virtual_server_key),
        29..=58 => Change::AddRealServer {
            virtual_server: virtual_server_key,
            real_server: real_server(random),
        },
        59..=73 => Change::UpdateRealServer {
            virtual_server: virtual_server_key,
            real_server: real_server(random),
        },
        74..=82 => Change::DeleteRealServer {
            virtual_server: virtual_server_key,
            real_server: real_server(random).key,
        },
        83..=90 => Change::StartSyncDaemon(sync_daemon(random)),
        91..=94 => Change::StopSyncDaemon(random.of(&[SyncRole::Master, SyncRole::Backup])),
        95 | 96 => {
            let mut timeouts = Timeouts::default();
            timeouts.tcp = timeout(random);
            timeouts.tcp_fin = timeout(random);
            timeouts.udp = timeout(random);
            Change::SetTimeouts(timeouts)
        }
        97 | 98 => Change::ZeroStatistics(Some(virtual_server_key).filter(|_| random.one_in(2))),
        _ => Change::Flush,
    }
}

/// Everything that a client can read.
#[derive(Debug, PartialEq)]
struct State {
    virtual_servers: Vec<VirtualServerEntry>,
    real_servers: Vec<Vec<RealServerEntry>>,
    timeouts: TimeoutsEntry,
    sync_daemons: Vec<SyncDaemonEntry>,
}

fn state<T: Transport>(client: &mut Client<T>) -> State {
    let mut virtual_servers = client.virtual_servers().unwrap();
    virtual_servers.sort_by_key(|entry| entry.server.key);
    let keys = virtual_servers.iter().map(|entry| entry.server.key);
    let real_servers = keys.map(|key| client.real_servers(&key).unwrap()).collect();
    State {
        virtual_servers,
        real_servers,
        timeouts: client.timeouts().unwrap(),
        sync_daemons: client.sync_daemons().unwrap(),
    }
}

/// Both start again from here after a difference.
fn reset<T: Transport>(client: &mut Client<T>) {
    client.flush().unwrap();
    for entry in client.sync_daemons().unwrap() {
        client.stop_sync_daemon(entry.daemon.role).unwrap();
    }
    let defaults = Timeouts::default()
        .with_tcp(900)
        .with_tcp_fin(120)
        .with_udp(300);
    client.set_timeouts(&defaults).unwrap();
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[test]
#[ignore = "kernel: needs IPVS"]
fn the_fake_answers_as_the_kernel() {
    // See `tests/kernel.rs` for why not left to the kernel.
    let modules = ["-a", "ip_vs", "ip_vs_lblc", "ip_vs_lblcr"];
    assert!(
        Command::new("modprobe")
            .args(modules)
            .status()
            .unwrap()
            .success()
    );
    let namespace = Namespace::new("twin").unwrap();
    let route = "ip -6 route add multicast ff02::81 dev lo table local";
    namespace.run(route.split(' ')).unwrap();
    let handle = File::open(format!("/run/netns/{}", namespace.name())).unwrap();
    let mut real = Client::open_in_namespace(handle.as_fd()).unwrap();
    let kernel = FakeKernel::new();
    let mut fake = kernel.client().unwrap();

    // A kernel can be built without a scheduler.
    let mut schedulers = Vec::new();
    for scheduler in Scheduler::known() {
        let server = VirtualServer::new("tcp 192.0.2.1:9".parse().unwrap());
        match real.probe_virtual_server(&server.with_scheduler(scheduler)) {
            Ok(_) => schedulers.push(scheduler),
            Err(error) => assert_eq!(*error.kind(), ErrorKind::UnknownScheduler),
        }
    }
    assert!(schedulers.len() >= 13, "{schedulers:?}");

    let (count, seed) = (
        setting("IPVS_CHANGES", 1500),
        setting("IPVS_SEED", 0x1f5b_6d3a),
    );
    let mut random = Random(seed);
    let mut outcomes = BTreeMap::new();
    let mut differences = Vec::new();
    for number in 0..count {
        let change = change(&mut random, &schedulers);
        let text = |outcome: Result<()>| match outcome {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("{:?} {:?}", error.kind(), error.errno()),
        };
        let (by_fake, by_real) = (text(fake.change(change)), text(real.change(change)));
        let difference = if by_fake == by_real {
            *outcomes.entry(by_real).or_insert(0) += 1;
            let (in_fake, in_real) = (state(&mut fake), state(&mut real));
            (in_fake != in_real).then(|| format!("fake {in_fake:#?}\nkernel {in_real:#?}"))
        } else {
            Some(format!("fake {by_fake}, kernel {by_real}"))
        };
        if let Some(difference) = difference {
            differences.push(format!("{number}: {change:?}\n{difference}"));
            reset(&mut fake);
            reset(&mut real);
        }
    }
    eprintln!(
        "{count} changes, seed {seed:#x}, {} differences",
        differences.len()
    );
    for (outcome, count) in &outcomes {
        eprintln!("{count:6} {outcome}");
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    // A run that changes nothing shows nothing.
    assert!(outcomes["ok"] > count / 8, "{outcomes:?}");
}
