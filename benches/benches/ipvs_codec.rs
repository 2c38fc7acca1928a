//! Encoding changes and decoding listings: one message, and a whole table of 40,000.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark may end"
)]

use std::hint::black_box;
use std::io;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipvs::{
    Change, Client, Connections, Message, RealServer, RealServerEntry, RealServerKey, Statistics,
    Transport, VirtualServer, VirtualServerEntry, VirtualServerKey,
};
use netlink_packet_core::Emitable;

fn virtual_server(index: u32) -> VirtualServerKey {
    let [_, _, high, low] = index.to_be_bytes();
    VirtualServerKey::tcp(([10, 96, high, low], 80).into())
}

fn real_server(index: u32) -> RealServer {
    let [_, a, b, c] = index.to_be_bytes();
    RealServer::new(RealServerKey::new([10, 128 + a, b, c].into(), 8080))
}

/// 10,000 virtual servers of 3 real servers each.
fn table() -> Vec<Change> {
    let one = |index| {
        let virtual_server = virtual_server(index);
        let real = move |n| Change::AddRealServer {
            virtual_server,
            real_server: real_server(index * 3 + n),
        };
        let add = Change::AddVirtualServer(VirtualServer::new(virtual_server));
        std::iter::once(add).chain((0..3).map(real))
    };
    (0..10_000).flat_map(one).collect()
}

/// A kernel that does nothing and acknowledges everything.
#[derive(Default)]
struct Yes {
    sequence: [u8; 4],
    family_asked: bool,
}

impl Transport for Yes {
    fn send(&mut self, packets: &[u8]) -> io::Result<()> {
        let mut rest = packets;
        while let Some(header) = rest.first_chunk::<16>() {
            self.sequence.copy_from_slice(&header[8..12]);
            self.family_asked = header[4..6] == 16u16.to_ne_bytes();
            let length = u32::from_ne_bytes(header[..4].try_into().unwrap());
            rest = &rest[length as usize..];
        }
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The family's number is 30; everything else gets an acknowledgement.
        let (kind, payload): (u16, &[u8]) = if self.family_asked {
            (16, &[1, 2, 0, 0, 6, 0, 1, 0, 30, 0, 0, 0])
        } else {
            (2, &[0; 20])
        };
        let length = 16 + payload.len();
        buffer[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
        buffer[4..6].copy_from_slice(&kind.to_ne_bytes());
        buffer[6..8].fill(0);
        buffer[8..12].copy_from_slice(&self.sequence);
        buffer[12..16].fill(0);
        buffer[16..length].copy_from_slice(payload);
        Ok(length)
    }
}

fn encode(c: &mut Criterion) {
    let table = table();
    let mut group = c.benchmark_group("encode");
    let message = Message::from(table[1]);
    let mut buffer = vec![0; message.buffer_len()];
    group.bench_function("one real server", |b| {
        b.iter(|| black_box(&message).emit(black_box(&mut buffer)));
    });
    group
        .throughput(Throughput::Elements(table.len() as u64))
        .sample_size(20);
    group.bench_function("40,000 changes through Client::apply", |b| {
        let mut client = Client::with_transport(Yes::default()).unwrap();
        b.iter(|| assert!(client.apply(black_box(&table)).all_ok()));
    });
    group.finish();
}

fn decode(c: &mut Criterion) {
    let mut server = VirtualServerEntry::from(VirtualServer::new(virtual_server(1)));
    server.stats = Some(Statistics::default());
    let mut real = RealServerEntry::from(real_server(1));
    real.stats = Some(Statistics::default());
    real.connections = Some(Connections::default());
    let messages = [
        Message::NewVirtualServer(server),
        Message::NewRealServer(None, real),
    ]
    .map(|message| {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        (message.command(), bytes)
    });
    let parse = |(command, bytes): &(u8, Vec<u8>)| Message::parse(*command, bytes).unwrap();
    let mut group = c.benchmark_group("decode");
    for (name, message) in ["one virtual server", "one real server"]
        .iter()
        .zip(&messages)
    {
        group.bench_function(*name, |b| b.iter(|| parse(black_box(message))));
    }
    group
        .throughput(Throughput::Elements(40_000))
        .sample_size(20);
    group.bench_function("40,000 entries", |b| {
        b.iter(|| {
            for _ in 0..10_000 {
                black_box(parse(black_box(&messages[0])));
                for _ in 0..3 {
                    black_box(parse(black_box(&messages[1])));
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, encode, decode);
criterion_main!(benches);
