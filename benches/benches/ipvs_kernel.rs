//! `ipvs` compared with raw netlink: the same messages, pre-encoded in datagrams of the same size,
//! whose replies are only searched for their end. Needs root and IPVS:
//!
//! ```sh
//! cargo bench --bench ipvs_kernel --no-run
//! cargo xtask vm run -- target/release/deps/ipvs_kernel-…
//! ```
//!
//! Each run has a fresh network namespace, because adding real servers is slow after many were
//! deleted.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark may end"
)]

use std::fs::File;
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipvs::{
    Change, Client, Message, RealServer, RealServerKey, Socket, Transport, VirtualServer,
    VirtualServerKey,
};
use netlink_packet_core::Emitable;
use netlink_packet_generic::GenlFamily;
use testbed::Namespace;

const VIRTUAL_SERVERS: u32 = 10_000;
const REAL_SERVERS: u32 = 3;
const BATCH: usize = 128;
const WEIGHT_CHANGES: u32 = 20_000;
/// Runs of each kind, alternating.
const RUNS: usize = 6;
const CLEAN_UP: Duration = Duration::from_secs(2);

const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

fn main() {
    // The family's number is the same in every namespace.
    let Some(family) = family() else {
        println!("skipped: no IPVS, or not root");
        return;
    };
    let changes = changes();
    println!("| | raw | ipvs | ratio |");
    println!("| --- | --- | --- | --- |");
    row("add 10,000 virtual servers of 3 real servers", |raw| {
        let bench = Bench::new();
        if raw {
            bench.raw_batches(&encode(family, &changes, BATCH))
        } else {
            bench.client_batches(&changes)
        }
    });
    row("list all of them", |raw| {
        let bench = Bench::filled(&changes);
        if raw {
            bench.raw_listing(family)
        } else {
            bench.client_listing()
        }
    });
    row("change one weight, 20,000 times", |raw| {
        let bench = Bench::filled(&changes[..4]);
        let weights = weight_changes();
        if raw {
            bench.raw_batches(&encode(family, &weights, 1))
        } else {
            bench.client_one_by_one(&weights)
        }
    });
}

/// Runs a row, if its name contains the argument of the command line.
fn row(name: &str, mut run: impl FnMut(bool) -> Duration) {
    if std::env::args()
        .nth(1)
        .is_some_and(|wanted| !name.contains(&wanted))
    {
        return;
    }
    let (mut raw, mut svcproxy) = (Vec::new(), Vec::new());
    for n in 0..RUNS {
        // Each kind is first as often as second.
        for first in [n % 2 == 0, n % 2 != 0] {
            let times = if first { &mut raw } else { &mut svcproxy };
            times.push(run(first));
            // The kernel removes the namespace in the background.
            sleep(CLEAN_UP);
        }
    }
    // Other load on the machine makes a run longer, never shorter.
    let best = |times: &[Duration]| {
        times
            .iter()
            .min()
            .copied()
            .unwrap_or_default()
            .as_secs_f64()
    };
    let (raw, svcproxy) = (best(&raw), best(&svcproxy));
    println!(
        "| {name} | {raw:.3} s | {svcproxy:.3} s | {:.2} |",
        svcproxy / raw
    );
}

/// The virtual server's address and port.
fn virtual_server(index: u32) -> VirtualServerKey {
    let [_, _, high, low] = index.to_be_bytes();
    VirtualServerKey::tcp(([10, 96, high, low], 80).into())
}

fn real_server(index: u32, n: u32) -> RealServer {
    let [_, a, b, c] = (index * REAL_SERVERS + n).to_be_bytes();
    RealServer::new(RealServerKey::new([10, 128 + a, b, c].into(), 8080))
}

fn changes() -> Vec<Change> {
    let one = |index| {
        let virtual_server = virtual_server(index);
        let real = move |n| Change::AddRealServer {
            virtual_server,
            real_server: real_server(index, n),
        };
        let add = Change::AddVirtualServer(VirtualServer::new(virtual_server));
        std::iter::once(add).chain((0..REAL_SERVERS).map(real))
    };
    (0..VIRTUAL_SERVERS).flat_map(one).collect()
}

fn weight_changes() -> Vec<Change> {
    let change = |n| Change::UpdateRealServer {
        virtual_server: virtual_server(0),
        real_server: real_server(0, 0).with_weight(1 + n % 100),
    };
    (0..WEIGHT_CHANGES).map(change).collect()
}

/// A network namespace and a client in it.
struct Bench {
    client: Client,
    namespace: Namespace,
}

impl Bench {
    fn new() -> Self {
        let namespace = Namespace::new("bench").unwrap();
        let client = Client::open_in_namespace(handle(&namespace).as_fd()).unwrap();
        Self { client, namespace }
    }

    fn filled(changes: &[Change]) -> Self {
        let mut bench = Self::new();
        bench.client.apply(changes).into_result().unwrap();
        bench
    }

    /// Returns the time of a run, and flushes the table, which leaves less work in the background.
    fn done(mut self, elapsed: Duration) -> Duration {
        self.client.flush().unwrap();
        elapsed
    }

    fn raw(&self) -> Raw {
        let socket = Socket::open_in_namespace(handle(&self.namespace).as_fd()).unwrap();
        Raw {
            socket,
            buffer: vec![0; 64 * 1024],
        }
    }

    fn client_batches(mut self, changes: &[Change]) -> Duration {
        let start = Instant::now();
        self.client.apply(changes).into_result().unwrap();
        let elapsed = start.elapsed();
        self.done(elapsed)
    }

    fn client_one_by_one(mut self, changes: &[Change]) -> Duration {
        let start = Instant::now();
        for change in changes {
            self.client.change(*change).unwrap();
        }
        let elapsed = start.elapsed();
        self.done(elapsed)
    }

    fn client_listing(mut self) -> Duration {
        let start = Instant::now();
        let servers = self.client.virtual_servers().unwrap();
        let mut count = 0;
        for entry in &servers {
            count += self.client.real_servers(&entry.server.key).unwrap().len();
        }
        let elapsed = start.elapsed();
        assert_eq!(u32::try_from(count), Ok(VIRTUAL_SERVERS * REAL_SERVERS));
        self.done(elapsed)
    }

    fn raw_batches(self, datagrams: &[Vec<u8>]) -> Duration {
        let mut raw = self.raw();
        let start = Instant::now();
        for datagram in datagrams {
            raw.exchange(datagram);
        }
        let elapsed = start.elapsed();
        self.done(elapsed)
    }

    fn raw_listing(self, family: u16) -> Duration {
        let dump = |message| {
            let mut datagram = Vec::new();
            put(&mut datagram, family, NLM_F_REQUEST | NLM_F_DUMP, &message);
            datagram
        };
        let servers = dump(Message::GetVirtualServer(None));
        let real_servers: Vec<_> = (0..VIRTUAL_SERVERS)
            .map(|index| dump(Message::GetRealServers(virtual_server(index))))
            .collect();
        let mut raw = self.raw();
        let start = Instant::now();
        raw.exchange(&servers);
        for datagram in &real_servers {
            raw.exchange(datagram);
        }
        let elapsed = start.elapsed();
        self.done(elapsed)
    }
}

fn handle(namespace: &Namespace) -> File {
    File::open(format!("/run/netns/{}", namespace.name())).unwrap()
}

/// A socket and its receive buffer.
struct Raw {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Raw {
    /// Sends a datagram and reads up to the acknowledgement or the end of a dump.
    fn exchange(&mut self, datagram: &[u8]) {
        self.socket.send(datagram).unwrap();
        loop {
            let length = self.socket.receive(&mut self.buffer).unwrap();
            let mut rest = &self.buffer[..length];
            while !rest.is_empty() {
                let length = u32::from_ne_bytes(rest[..4].try_into().unwrap());
                let kind = u16::from_ne_bytes(rest[4..6].try_into().unwrap());
                if kind == NLMSG_ERROR {
                    assert_eq!(rest[16..20], [0; 4], "an error");
                }
                if matches!(kind, NLMSG_ERROR | NLMSG_DONE) {
                    return;
                }
                rest = &rest[length.next_multiple_of(4) as usize..];
            }
        }
    }
}

/// Encodes changes into datagrams of `batch` messages; the last one of each requests an
/// acknowledgement.
fn encode(family: u16, changes: &[Change], batch: usize) -> Vec<Vec<u8>> {
    let datagram = |changes: &[Change]| {
        let mut datagram = Vec::new();
        for (place, change) in changes.iter().enumerate() {
            let ack = if place + 1 == changes.len() {
                NLM_F_ACK
            } else {
                0
            };
            put(
                &mut datagram,
                family,
                NLM_F_REQUEST | ack,
                &Message::from(*change),
            );
        }
        datagram
    };
    changes.chunks(batch).map(datagram).collect()
}

fn put(datagram: &mut Vec<u8>, family: u16, flags: u16, message: &Message) {
    let start = datagram.len();
    let length = 20 + message.buffer_len();
    datagram.extend_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
    datagram.extend_from_slice(&family.to_ne_bytes());
    datagram.extend_from_slice(&flags.to_ne_bytes());
    datagram.extend_from_slice(&[0; 8]);
    datagram.extend_from_slice(&[message.command(), message.version(), 0, 0]);
    datagram.resize(start + length, 0);
    message.emit(&mut datagram[start + 20..]);
}

/// The family's number, from the header of a client's request.
fn family() -> Option<u16> {
    /// Passes packets on, and keeps the last one.
    struct Tap(Socket, Vec<u8>);
    impl Transport for &mut Tap {
        fn send(&mut self, packets: &[u8]) -> std::io::Result<()> {
            self.1 = packets.to_vec();
            self.0.send(packets)
        }
        fn receive(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.receive(buffer)
        }
    }
    let mut tap = Tap(Socket::open().ok()?, Vec::new());
    Client::with_transport(&mut tap).ok()?.info().ok()?;
    let kind = tap.1.get(4..6)?.try_into().ok()?;
    Some(u16::from_ne_bytes(kind))
}
