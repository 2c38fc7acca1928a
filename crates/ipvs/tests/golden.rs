//! Bytes captured from ipvsadm and the kernel, see `golden/ipvsadm.txt`: parsed, compared with
//! what the command line says, written again over a buffer of 0xFF.

#![cfg(target_endian = "little")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;

use ipvs::*;
use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_generic::GenlHeader;

/// Requests and replies of one command line, in their order.
#[derive(Default)]
struct Exchange {
    requests: Vec<Vec<u8>>,
    replies: Vec<Vec<u8>>,
}

fn captured() -> BTreeMap<&'static str, Exchange> {
    let mut exchanges: BTreeMap<_, Exchange> = BTreeMap::new();
    let mut command = "";
    for line in include_str!("golden/ipvsadm.txt").lines() {
        match line.split_once(' ') {
            Some((">", hex)) => exchanges
                .entry(command)
                .or_default()
                .requests
                .push(bytes(hex)),
            Some(("<", hex)) => exchanges
                .entry(command)
                .or_default()
                .replies
                .push(bytes(hex)),
            Some(("ipvsadm", arguments)) => command = arguments,
            _ => {}
        }
    }
    exchanges
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |place| u8::from_str_radix(&hex[place..place + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn parse(packet: &[u8]) -> Message {
    let header = GenlHeader::parse(packet).unwrap();
    assert_eq!(header.version, 1);
    let message = Message::parse_with_param(&packet[4..], header).unwrap();
    assert_eq!(message.command(), header.cmd);
    message
}

fn emit(message: &Message) -> Vec<u8> {
    let mut buffer = vec![0xff; message.buffer_len()];
    message.emit(&mut buffer);
    buffer
}

fn key(text: &str) -> VirtualServerKey {
    text.parse().unwrap()
}

fn server(text: &str, scheduler: Scheduler) -> VirtualServer {
    VirtualServer::new(key(text)).with_scheduler(scheduler)
}

fn real(text: &str) -> RealServer {
    RealServer::new(text.parse().unwrap())
}

fn tunnelled(text: &str, tunnel: Tunnel) -> RealServer {
    real(text).with_forwarding(Forwarding::Tunnel(tunnel))
}

/// How far what we write is what ipvsadm writes.
#[derive(PartialEq)]
enum Same {
    /// To the byte.
    Bytes,
    /// To the byte but for the virtual server, which ipvsadm sends whole where its key does.
    RealServer,
    /// In meaning: ipvsadm sends a whole server where its key does.
    Meaning,
}

/// What each command line asks for.
fn requests() -> Vec<(&'static str, Same, Message)> {
    use Scheduler::*;
    let netmask = |family, length| Netmask::from_prefix(family, length).unwrap();
    let minute = Persistence::new(60);
    let new = |server: VirtualServer| Message::NewVirtualServer(server.into());
    let add = |to: &str, real: RealServer| Message::NewRealServer(Some(key(to)), real.into());
    let lo: InterfaceName = "lo".parse().unwrap();
    let dns = "tcp 10.96.0.10:53";
    let one = "10.244.0.3:5353".parse().unwrap();
    vec![
        (
            "-A -t 10.96.0.10:53 -s rr -p 10800",
            Same::Bytes,
            new(server(dns, RoundRobin).with_persistence(Persistence::new(10_800))),
        ),
        (
            "-A -u [fd00::10]:53 -s wlc -p 600 -M 64 -o",
            Same::Bytes,
            new(server("udp [fd00::10]:53", WeightedLeastConnection)
                .with_persistence(Persistence::new(600).with_netmask(netmask(Family::V6, 64)))
                .with_flags(Flags::ONE_PACKET)),
        ),
        (
            "-A --sctp-service 10.96.0.11:132 -s sh -b sh-fallback,sh-port",
            Same::Bytes,
            new(server("sctp 10.96.0.11:132", SourceHash)
                .with_flags(Flags::SH_FALLBACK | Flags::SH_PORT)),
        ),
        (
            "-A -t 10.96.0.12:80 -s mh -b mh-port",
            Same::Bytes,
            new(server("tcp 10.96.0.12:80", MaglevHash).with_flags(Flags::MH_PORT)),
        ),
        (
            "-A -f 7 -s wrr -p 60 -M 255.255.255.0",
            Same::Bytes,
            new(server("fwmark 7 ipv4", WeightedRoundRobin)
                .with_persistence(minute.with_netmask(netmask(Family::V4, 24)))),
        ),
        (
            "-A -f 7 -6 -s lc",
            Same::Bytes,
            new(server("fwmark 7 ipv6", LeastConnection)),
        ),
        (
            "-A -u 10.96.0.13:5060 -s rr -p 60 --pe sip -o",
            Same::Bytes,
            new(server("udp 10.96.0.13:5060", RoundRobin)
                .with_persistence(minute)
                .with_engine(PersistenceEngine::Sip)
                .with_flags(Flags::ONE_PACKET)),
        ),
        (
            "-E -t 10.96.0.10:53 -s wlc",
            Same::Bytes,
            Message::SetVirtualServer(server(dns, WeightedLeastConnection).into()),
        ),
        (
            "-a -t 10.96.0.10:53 -r 10.244.0.3:5353 -m -w 100",
            Same::RealServer,
            add(dns, real("10.244.0.3:5353").with_weight(100)),
        ),
        (
            "-a -t 10.96.0.10:53 -r 10.244.0.4:53 -g -w 0 -x 100 -y 50",
            Same::RealServer,
            add(
                dns,
                real("10.244.0.4:53")
                    .with_forwarding(Forwarding::DirectRouting)
                    .with_weight(0)
                    .with_thresholds(50, 100),
            ),
        ),
        (
            "-a -t 10.96.0.10:53 -r 10.244.0.5:53 -i",
            Same::RealServer,
            add(dns, tunnelled("10.244.0.5:53", Tunnel::Ipip)),
        ),
        (
            "-a -t 10.96.0.10:53 -r 10.244.0.6:53 -i --tun-type gue --tun-port 6080 --tun-remcsum",
            Same::RealServer,
            add(
                dns,
                tunnelled(
                    "10.244.0.6:53",
                    Tunnel::Gue {
                        port: 6080,
                        checksum: TunnelChecksum::Remote,
                    },
                ),
            ),
        ),
        (
            "-a -t 10.96.0.10:53 -r 10.244.0.7:53 -i --tun-type gre --tun-csum",
            Same::RealServer,
            add(
                dns,
                tunnelled(
                    "10.244.0.7:53",
                    Tunnel::Gre {
                        checksum: TunnelChecksum::Full,
                    },
                ),
            ),
        ),
        (
            "-a -t 10.96.0.10:53 -r [fd00::2:1]:53 -i",
            Same::RealServer,
            add(dns, tunnelled("[fd00::2:1]:53", Tunnel::Ipip)),
        ),
        (
            "-a -u [fd00::10]:53 -r [fd00::2:2]:5353 -m",
            Same::RealServer,
            add("udp [fd00::10]:53", real("[fd00::2:2]:5353")),
        ),
        (
            "-a -f 7 -r 10.244.0.3 -m",
            Same::RealServer,
            add("fwmark 7 ipv4", real("10.244.0.3:0")),
        ),
        (
            "-e -t 10.96.0.10:53 -r 10.244.0.3:5353 -m -w 7",
            Same::RealServer,
            Message::SetRealServer(key(dns), real("10.244.0.3:5353").with_weight(7).into()),
        ),
        ("-Ln", Same::Bytes, Message::GetVirtualServer(None)),
        (
            "-Ln -t 10.96.0.10:53",
            Same::Meaning,
            Message::GetVirtualServer(Some(key(dns))),
        ),
        (
            "-d -t 10.96.0.10:53 -r 10.244.0.3:5353",
            Same::Meaning,
            Message::DeleteRealServer(key(dns), one),
        ),
        (
            "-D -f 7",
            Same::Meaning,
            Message::DeleteVirtualServer(key("fwmark 7 ipv4")),
        ),
        (
            "-Z -t 10.96.0.10:53",
            Same::Meaning,
            Message::ZeroStatistics(Some(key(dns))),
        ),
        ("-Z", Same::Bytes, Message::ZeroStatistics(None)),
        ("(each call)", Same::Bytes, Message::GetInfo),
        (
            "--set 900 120 300",
            Same::Bytes,
            Message::SetTimeouts(
                Timeouts::default()
                    .with_tcp(900)
                    .with_tcp_fin(120)
                    .with_udp(300)
                    .into(),
            ),
        ),
        ("-l --timeout", Same::Bytes, Message::GetTimeouts),
        (
            "--start-daemon master --mcast-interface lo --syncid 7",
            Same::Bytes,
            Message::NewSyncDaemon(SyncDaemon::new(SyncRole::Master, lo, 7).into()),
        ),
        (
            "--start-daemon backup --mcast-interface lo --syncid 8 --sync-maxlen 1400 \
             --mcast-group 224.0.0.82 --mcast-port 9000 --mcast-ttl 3",
            Same::Bytes,
            Message::NewSyncDaemon(backup_daemon().into()),
        ),
        ("-l --daemon", Same::Bytes, Message::GetSyncDaemons),
        (
            "--stop-daemon master",
            Same::Meaning,
            Message::DeleteSyncDaemon(SyncRole::Master),
        ),
        (
            "--stop-daemon backup",
            Same::Meaning,
            Message::DeleteSyncDaemon(SyncRole::Backup),
        ),
        ("-C", Same::Bytes, Message::Flush),
    ]
}

fn backup_daemon() -> SyncDaemon {
    SyncDaemon::new(SyncRole::Backup, "lo".parse().unwrap(), 8)
        .with_max_length(1400)
        .with_group("224.0.0.82".parse().unwrap(), 9000)
        .with_ttl(3)
}

#[test]
fn requests_are_those_of_ipvsadm() {
    let captured = captured();
    let expected = requests();
    assert_eq!(
        captured.len(),
        expected.len(),
        "each command line has its meaning"
    );
    for (command, same, message) in expected {
        let request = &captured[command].requests[0];
        assert_eq!(parse(request), message, "{command}");
        let emitted = emit(&message);
        assert_eq!(
            Message::parse(message.command(), &emitted),
            Ok(message),
            "{command}"
        );
        let attributes = &request[4..];
        match same {
            Same::Bytes => assert_eq!(emitted, attributes, "{command}"),
            Same::RealServer => {
                let length = |bytes: &[u8]| usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
                let (emitted_key, captured_key) = (length(&emitted), length(attributes));
                assert_eq!(
                    emitted[emitted_key..],
                    attributes[captured_key..],
                    "{command}"
                );
            }
            Same::Meaning => {}
        }
    }
}

#[test]
fn a_listing_asks_for_real_servers_by_key_alone() {
    let request = &captured()["-Ln"].requests[1];
    let message = Message::GetRealServers(key("tcp 10.96.0.10:53"));
    assert_eq!(parse(request), message);
    assert_eq!(emit(&message), request[4..]);
}

#[test]
fn listed_virtual_servers_are_what_was_added() {
    // What was added under this name and then changed was listed as it was changed.
    let changed = "tcp 10.96.0.10:53";
    let mut expected: Vec<VirtualServer> = requests()
        .into_iter()
        .filter_map(|(_, _, message)| match message {
            Message::NewVirtualServer(entry) if entry.server.key != key(changed) => {
                Some(entry.server)
            }
            Message::SetVirtualServer(entry) => Some(entry.server),
            _ => None,
        })
        .collect();
    let mut listed = Vec::new();
    for reply in &captured()["-Ln"].replies {
        if let Message::NewVirtualServer(entry) = parse(reply) {
            assert_eq!(entry.stats, Some(Statistics::default()));
            assert_eq!(entry.unknown, []);
            listed.push(entry.server);
        }
    }
    listed.sort_by_key(|server| server.key);
    expected.sort_by_key(|server| server.key);
    assert_eq!(listed, expected);
    let one = parse(&captured()["-Ln -t 10.96.0.10:53"].replies[0]);
    let Message::NewVirtualServer(one) = one else {
        panic!("{one:?}")
    };
    assert_eq!(
        one.server,
        server(changed, Scheduler::WeightedLeastConnection)
    );
}

#[test]
fn listed_real_servers_are_what_was_added() {
    let mut listed = Vec::new();
    for reply in &captured()["-Ln"].replies {
        if let Message::NewRealServer(None, entry) = parse(reply) {
            assert_eq!(entry.stats, Some(Statistics::default()));
            assert_eq!(entry.connections, Some(Connections::default()));
            assert_eq!(entry.unknown, []);
            listed.push(entry.server);
        }
    }
    let mut expected: Vec<RealServer> = requests()
        .into_iter()
        .filter_map(|(_, _, message)| match message {
            Message::NewRealServer(Some(of), entry) if of == key("tcp 10.96.0.10:53") => {
                Some(entry.server)
            }
            _ => None,
        })
        .collect();
    expected.reverse();
    // This one's weight was changed in between.
    expected.last_mut().unwrap().weight = 7;
    assert_eq!(listed, expected);
}

#[test]
fn other_replies() {
    let captured = captured();
    let replies = |command| captured[command].replies.iter().map(|reply| parse(reply));
    let info = replies("(each call)").next();
    let Some(Message::Info(info)) = info else {
        panic!("{info:?}")
    };
    assert_eq!(
        (
            info.version.to_string().as_str(),
            info.connection_table_size
        ),
        ("1.2.1", 4096)
    );
    let timeouts = Timeouts::default()
        .with_tcp(900)
        .with_tcp_fin(120)
        .with_udp(300);
    assert_eq!(
        replies("-l --timeout").next(),
        Some(Message::SetTimeouts(timeouts.into()))
    );
    let master = SyncDaemon::new(SyncRole::Master, "lo".parse().unwrap(), 7)
        .with_max_length(1472)
        .with_group("224.0.0.81".parse().unwrap(), 8848)
        .with_ttl(1);
    let daemons: Vec<Message> = replies("-l --daemon").collect();
    assert_eq!(
        daemons,
        [master, backup_daemon()].map(|daemon| Message::NewSyncDaemon(daemon.into()))
    );
}
