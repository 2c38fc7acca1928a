//! Whether the kernel accepts a virtual server.

use super::batch::check;
use super::exchange::{Failure, Transport};
use super::{Client, Result};
use crate::error::errno;
use crate::wire::{Body, Header, Message, put_change, put_message, put_packet};
use crate::{
    Change, Error, ErrorKind, Object, Operation, VirtualServer, VirtualServerEntry,
    VirtualServerKey,
};

/// The requests of a probe, in order.
const OPERATIONS: [Operation; 3] = [
    Operation::AddVirtualServer,
    Operation::GetVirtualServer,
    Operation::DeleteVirtualServer,
];

impl<T: Transport> Client<T> {
    /// Adds a virtual server, reads it back and deletes it: a test whether the kernel has the
    /// scheduler, the persistence engine and the address family.
    ///
    /// All requests are in one datagram, which the kernel executes as a whole. The process cannot
    /// be killed in between, so nothing is left behind.
    ///
    /// Choose a key that no other program uses: what it adds under this key meanwhile is deleted.
    ///
    /// ```no_run
    /// use ipvs::{Client, VirtualServer};
    ///
    /// let server = VirtualServer::new("tcp 192.0.2.1:9".parse()?);
    /// let entry = Client::open()?.probe_virtual_server(&server)?;
    /// assert_eq!(entry.server.scheduler, server.scheduler);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] if the key exists, and nothing was changed; otherwise the error
    /// of the first of the three requests that failed.
    pub fn probe_virtual_server(&mut self, server: &VirtualServer) -> Result<VirtualServerEntry> {
        check(&Change::AddVirtualServer(*server))?;
        match self.virtual_server(&server.key) {
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let object = Object::VirtualServer(server.key);
                let kind = ErrorKind::AlreadyExists;
                return Err(Error::new(Operation::AddVirtualServer, object, kind));
            }
        }
        let mut replies = self.send_probe(server);
        // ENOENT can also mean that the family number has changed because the module was reloaded.
        if matches!(
            &replies.failed,
            Some((
                _,
                Failure::Kernel {
                    errno: errno::ENOENT,
                    ..
                }
            ))
        ) && matches!(self.exchange.resolve(), Ok(true))
        {
            replies = self.send_probe(server);
        }
        replies.into_result(server.key)
    }

    fn send_probe(&mut self, server: &VirtualServer) -> Replies {
        let exchange = &mut self.exchange;
        let first = exchange.reserve_sequence(3);
        let header = |place: u32, flags| Header {
            kind: exchange.family,
            flags: Header::REQUEST | flags,
            sequence: first + place,
        };
        let headers = [header(0, 0), header(1, 0), header(2, Header::ACK)];
        let [add, get, delete] = headers;
        let buffer = &mut exchange.send_buffer;
        buffer.clear();
        put_packet(buffer, add, |buffer| {
            put_change(buffer, &Change::AddVirtualServer(*server));
        });
        put_packet(buffer, get, |buffer| {
            put_message(buffer, &Message::GetVirtualServer(Some(server.key)));
        });
        put_packet(buffer, delete, |buffer| {
            put_change(buffer, &Change::DeleteVirtualServer(server.key));
        });
        exchange.counters.changes += 2;
        exchange.counters.reads += 1;
        exchange.counters.sends += 1;
        let mut replies = Replies::default();
        if let Err(error) = exchange.transport.send(&exchange.send_buffer) {
            replies.fail(0, Failure::Io(error));
            return replies;
        }
        let mut ended = false;
        while !ended {
            let received = exchange.receive(first, 3, |packet| {
                let place = packet.header.sequence.wrapping_sub(first);
                match packet.body {
                    Body::Status { errno: 0, .. } => {}
                    Body::Status { errno, message } => {
                        let message = message.map(Into::into);
                        replies.fail(place, Failure::Kernel { errno, message });
                    }
                    Body::Message {
                        command,
                        attributes,
                    } => match Message::parse_for(command, attributes, None) {
                        Ok(Message::NewVirtualServer(entry)) => replies.entry = Some(entry),
                        Ok(_) => {}
                        Err(error) => replies.fail(place, Failure::Malformed(error)),
                    },
                    _ => {}
                }
                place == 2 && matches!(packet.body, Body::Status { .. })
            });
            match received {
                Ok(end) => ended = end,
                Err(failure) => {
                    ended = matches!(failure, Failure::Io(_) | Failure::NoReply);
                    replies.fail(2, failure);
                }
            }
        }
        replies
    }
}

/// The kernel's replies.
#[derive(Debug, Default)]
struct Replies {
    entry: Option<VirtualServerEntry>,
    /// The first request that failed.
    failed: Option<(u32, Failure)>,
}

impl Replies {
    fn fail(&mut self, place: u32, failure: Failure) {
        let is_first = self.failed.as_ref().is_none_or(|(first, _)| place < *first);
        if is_first {
            self.failed = Some((place, failure));
        }
    }

    fn into_result(self, key: VirtualServerKey) -> Result<VirtualServerEntry> {
        let object = Object::VirtualServer(key);
        if let Some((place, failure)) = self.failed {
            let operation = usize::try_from(place)
                .ok()
                .and_then(|at| OPERATIONS.get(at));
            let operation = operation.copied().unwrap_or(Operation::GetVirtualServer);
            return Err(failure.into_error(operation, object));
        }
        let lost = || Error::new(Operation::GetVirtualServer, object, ErrorKind::NoReply);
        self.entry.ok_or_else(lost)
    }
}
