//! One request and its replies.

use std::io;

use crate::error::errno;
use crate::wire::{
    Body, CONTROLLER, DecodeError, FAMILY_NAME, Header, Message, Packet, Packets, parse_family_id,
    put_family_request, put_message, put_packet,
};
use crate::{Error, ErrorKind, Object, Operation};

/// Carries packets to a kernel and its packets back: a netlink socket, or a fake.
pub trait Transport {
    /// Sends packets, all in one datagram. On return the kernel has carried them out, and its
    /// replies wait.
    fn send(&mut self, packets: &[u8]) -> io::Result<()>;

    /// Receives one waiting datagram, and tells its whole length even if the buffer is shorter.
    /// Where nothing waits it fails with [`io::ErrorKind::WouldBlock`], and where replies were
    /// lost with `ENOBUFS`.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// How many replies can wait at once before some are lost.
    fn capacity(&self) -> usize {
        128
    }
}

/// How much a client has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Requests that read: one for each get and each attempt at a listing.
    pub reads: u64,
    /// Requests that change: one for each [`Change`](crate::Change) sent.
    pub changes: u64,
    /// Datagrams that carried them.
    pub sends: u64,
}

/// Longer than what the kernel puts into one reply, 32 KiB at most.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The kernel answered with an error.
    Kernel { errno: i32, message: Option<String> },
    /// The kernel has no such family.
    Unsupported,
    /// The socket failed.
    Io(io::Error),
    /// The reply is malformed.
    Malformed(DecodeError),
    /// The table changed while it was listed, or part of the list was lost.
    Interrupted,
    /// No reply waits.
    NoReply,
}

impl Failure {
    pub(super) fn into_error(self, operation: Operation, object: Object) -> Error {
        match self {
            Self::Kernel { errno, message } => {
                Error::from_kernel(operation, object, errno, message.as_deref())
            }
            Self::Io(source) => Error::from_io(operation, object, source),
            Self::Unsupported => Error::new(operation, object, ErrorKind::Unsupported),
            Self::Malformed(error) => Error::new(operation, object, ErrorKind::Malformed(error)),
            Self::Interrupted => Error::new(operation, object, ErrorKind::Interrupted),
            Self::NoReply => Error::new(operation, object, ErrorKind::NoReply),
        }
    }
}

/// A transport with what it takes to speak over it: buffers, the family's number, a sequence.
#[derive(Debug)]
pub(super) struct Exchange<T> {
    pub(super) transport: T,
    pub(super) family: u16,
    sequence: u32,
    pub(super) send_buffer: Vec<u8>,
    receive_buffer: Box<[u8]>,
    pub(super) counters: Counters,
}

impl<T: Transport> Exchange<T> {
    pub(super) fn new(transport: T) -> Self {
        Self {
            transport,
            family: 0,
            sequence: 0,
            send_buffer: Vec::new(),
            receive_buffer: vec![0; RECEIVE_BUFFER].into_boxed_slice(),
            counters: Counters::default(),
        }
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// The first of `count` sequence numbers in a row, none of which is 0.
    pub(super) fn reserve_sequence(&mut self, count: u32) -> u32 {
        let first = match self.sequence.checked_add(count) {
            Some(_) => self.sequence + 1,
            None => 1,
        };
        self.sequence = first + (count - 1);
        first
    }

    /// Finds the family's number, for which the kernel loads the module. Tells whether the
    /// number is another than before.
    pub(super) fn resolve(&mut self) -> Result<bool, Failure> {
        let mut family = None;
        let content = |buffer: &mut Vec<u8>| put_family_request(buffer, FAMILY_NAME);
        let answered = self.round_trip(CONTROLLER, 0, content, |command, attributes| {
            family = Some(parse_family_id(command, attributes)?);
            Ok(())
        });
        match (answered, family) {
            (
                Err(Failure::Kernel {
                    errno: errno::ENOENT,
                    ..
                }),
                _,
            ) => Err(Failure::Unsupported),
            (Err(failure), _) => Err(failure),
            (Ok(()), None) => Err(Failure::NoReply),
            (Ok(()), Some(family)) => Ok(std::mem::replace(&mut self.family, family) != family),
        }
    }

    /// Sends a request of the family and hands its replies to `take`. If the family's number
    /// has changed, since the module was loaded anew, does so again.
    pub(super) fn request(
        &mut self,
        request: &Message,
        flags: u16,
        mut take: impl FnMut(Message) -> Result<(), DecodeError>,
    ) -> Result<(), Failure> {
        let family = match request {
            Message::GetRealServers(key) => Some(key.family()),
            _ => None,
        };
        let content = |buffer: &mut Vec<u8>| put_message(buffer, request);
        let mut parse =
            |command, attributes: &[u8]| take(Message::parse_for(command, attributes, family)?);
        self.counters.reads += 1;
        match self.round_trip(self.family, flags, content, &mut parse) {
            Err(Failure::Kernel {
                errno: errno::ENOENT,
                ..
            }) if self.resolve()? => {
                self.counters.reads += 1;
                self.round_trip(self.family, flags, content, &mut parse)
            }
            result => result,
        }
    }

    fn round_trip(
        &mut self,
        kind: u16,
        flags: u16,
        content: impl FnOnce(&mut Vec<u8>),
        mut take: impl FnMut(u8, &[u8]) -> Result<(), DecodeError>,
    ) -> Result<(), Failure> {
        let sequence = self.reserve_sequence(1);
        let header = Header {
            kind,
            flags: Header::REQUEST | flags,
            sequence,
        };
        self.send_buffer.clear();
        put_packet(&mut self.send_buffer, header, content);
        self.counters.sends += 1;
        self.transport
            .send(&self.send_buffer)
            .map_err(Failure::Io)?;
        // A dump goes on to its end whatever happens: the kernel starts no other before it.
        let mut failure = None;
        loop {
            let ended = self.receive(sequence, 1, |packet| match packet.body {
                Body::Message {
                    command,
                    attributes,
                } => {
                    if packet.interrupted {
                        failure.get_or_insert(Failure::Interrupted);
                    } else if let Err(error) = take(command, attributes) {
                        failure.get_or_insert(Failure::Malformed(error));
                    }
                    flags & Header::DUMP == 0
                }
                Body::Status { errno: 0, .. } | Body::Done { errno: 0 } => {
                    if packet.interrupted {
                        failure.get_or_insert(Failure::Interrupted);
                    }
                    true
                }
                Body::Status { errno, message } => {
                    let message = message.map(Into::into);
                    failure.get_or_insert(Failure::Kernel { errno, message });
                    true
                }
                Body::Done { errno } => {
                    failure.get_or_insert(Failure::Kernel {
                        errno,
                        message: None,
                    });
                    true
                }
                Body::Noop => false,
                Body::Overrun => {
                    failure.get_or_insert(Failure::Interrupted);
                    false
                }
            });
            match ended {
                Ok(true) => return failure.map_or(Ok(()), Err),
                Ok(false) => {}
                Err(fatal @ (Failure::Io(_) | Failure::NoReply)) => {
                    return Err(failure.unwrap_or(fatal));
                }
                Err(other) => {
                    failure.get_or_insert(other);
                }
            }
        }
    }

    /// Receives one datagram and hands over the packets that belong to one of `count` requests
    /// from `sequence` on. Tells whether `take` found the end.
    pub(super) fn receive(
        &mut self,
        sequence: u32,
        count: u32,
        mut take: impl FnMut(Packet<'_>) -> bool,
    ) -> Result<bool, Failure> {
        let length = match self.transport.receive(&mut self.receive_buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Failure::NoReply);
            }
            Err(error) if error.raw_os_error() == Some(errno::ENOBUFS) => {
                return Err(Failure::Interrupted);
            }
            Err(error) => return Err(Failure::Io(error)),
        };
        let truncated = Failure::Malformed(DecodeError::Truncated("datagram"));
        let datagram = self.receive_buffer.get(..length).ok_or(truncated)?;
        let mut ended = false;
        for packet in Packets(datagram) {
            let packet = packet.map_err(Failure::Malformed)?;
            // A late reply to an earlier request is none to this one.
            if packet.header.sequence.wrapping_sub(sequence) < count {
                ended |= take(packet);
            }
        }
        Ok(ended)
    }
}
