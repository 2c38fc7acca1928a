//! Arbitrary bytes as the kernel's replies: each operation ends, with a result or an error.
#![no_main]

use std::io;

use ipvs::{Change, Client, Transport, VirtualServer, VirtualServerKey};
use libfuzzer_sys::fuzz_target;

/// Replies with the given bytes: datagrams, each after a byte with its length in units of 4. Their
/// sequence numbers are corrected, so that the client processes them.
struct Given<'a> {
    rest: &'a [u8],
    sequence: [u8; 4],
    asked: bool,
}

impl Transport for Given<'_> {
    fn send(&mut self, packets: &[u8]) -> io::Result<()> {
        self.sequence.copy_from_slice(&packets[8..12]);
        self.asked = packets[4..6] == 16u16.to_ne_bytes();
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The first reply is the family's number, 30: without it, the client does nothing.
        if std::mem::take(&mut self.asked) {
            let reply = [28, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            buffer[..16].copy_from_slice(&reply);
            buffer[8..12].copy_from_slice(&self.sequence);
            buffer[16..28].copy_from_slice(&[1, 2, 0, 0, 6, 0, 1, 0, 30, 0, 0, 0]);
            return Ok(28);
        }
        let (&length, rest) = self.rest.split_first().ok_or(io::ErrorKind::WouldBlock)?;
        let length = rest.len().min(usize::from(length) * 4);
        let (datagram, rest) = rest.split_at(length);
        self.rest = rest;
        buffer[..length].copy_from_slice(datagram);
        let mut start = 0;
        while let Some(header) = buffer[..length].get_mut(start..start + 16) {
            header[8..12].copy_from_slice(&self.sequence);
            let packet = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
            start = start.saturating_add((packet as usize).max(16).next_multiple_of(4));
        }
        Ok(length)
    }
}

fuzz_target!(|data: &[u8]| {
    let transport = Given {
        rest: data,
        sequence: [0; 4],
        asked: false,
    };
    let Ok(mut client) = Client::with_transport(transport) else {
        return;
    };
    let key = VirtualServerKey::tcp(([10, 96, 0, 1], 80).into());
    let _ = client.virtual_servers();
    let _ = client.real_servers(&key);
    let _ = client.virtual_server(&key);
    let _ = client.info();
    let _ = client.timeouts();
    let _ = client.sync_daemons();
    let changes = [
        Change::AddVirtualServer(VirtualServer::new(key)),
        Change::Flush,
    ];
    assert_eq!(client.apply(changes).as_slice().len(), 2);
});
