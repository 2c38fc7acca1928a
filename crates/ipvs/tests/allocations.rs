//! Encoding allocates nothing for a message: counted.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::hint::black_box;

use ipvs::*;

/// How many allocations `action` makes.
fn allocations<R>(action: impl FnOnce() -> R) -> (u64, R) {
    let mut result = None;
    let info = allocation_counter::measure(|| result = Some(action()));
    (info.count_total, result.unwrap())
}

/// A kernel that accepts each request, and records none.
struct Yes {
    reply: [u8; 36],
    length: usize,
}

impl Transport for Yes {
    fn send(&mut self, packets: &[u8]) -> std::io::Result<()> {
        let mut last = packets;
        loop {
            let (head, _) = last.split_at(16);
            let length = u32::from_ne_bytes(head[..4].try_into().unwrap());
            match last.split_at(usize::try_from(length).unwrap()) {
                (_, []) => break,
                (_, rest) => last = rest,
            }
        }
        self.reply = [0; 36];
        // The family's number to the controller (16), an acknowledgement to others.
        let payload: &[u8] = match last[4..6] {
            [16, 0] => &[1, 2, 0, 0, 6, 0, 1, 0, 30, 0, 0, 0],
            _ => &[0; 20],
        };
        self.length = 16 + payload.len();
        self.reply[..4].copy_from_slice(&u32::try_from(self.length).unwrap().to_ne_bytes());
        self.reply[4] = if payload.len() == 20 { 2 } else { 16 };
        self.reply[8..12].copy_from_slice(&last[8..12]);
        self.reply[16..self.length].copy_from_slice(payload);
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        buffer[..self.length].copy_from_slice(&self.reply[..self.length]);
        Ok(self.length)
    }
}

fn changes(count: u16) -> Vec<Change> {
    let virtual_server = |port| VirtualServerKey::tcp(([10, 96, 0, 1], port).into());
    let both = |port| {
        let key = virtual_server(port);
        let real_server = RealServer::new("10.244.0.1:80".parse().unwrap());
        let persistence = Persistence::new(60);
        [
            Change::AddVirtualServer(VirtualServer::new(key).with_persistence(persistence)),
            Change::AddRealServer {
                virtual_server: key,
                real_server,
            },
        ]
    };
    (1..=count).flat_map(both).collect()
}

#[test]
fn a_batch_allocates_two_lists_however_long_it_is() {
    let mut client = Client::with_transport(Yes {
        reply: [0; 36],
        length: 0,
    })
    .unwrap();
    client.apply(changes(200)).into_result().unwrap();
    for count in [1, 100, 20_000] {
        let changes = changes(count);
        let (allocated, outcomes) = allocations(|| client.apply(black_box(&changes)));
        assert!(outcomes.all_ok());
        assert_eq!(allocated, 2, "{count}");
    }
}

#[test]
fn one_change_allocates_nothing() {
    let mut client = Client::with_transport(Yes {
        reply: [0; 36],
        length: 0,
    })
    .unwrap();
    let [add, real, ..] = changes(1)[..] else {
        unreachable!()
    };
    client.apply([add, real]).into_result().unwrap();
    let (allocated, result) = allocations(|| client.change(add).and(client.change(real)));
    result.unwrap();
    assert_eq!(allocated, 0);
}

#[test]
fn decoding_allocates_nothing_for_what_it_knows() {
    use netlink_packet_core::Emitable;
    for change in changes(1) {
        let message = Message::from(change);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let (allocated, parsed) = allocations(|| Message::parse(message.command(), &bytes));
        assert_eq!((allocated, parsed), (0, Ok(message)));
    }
}
