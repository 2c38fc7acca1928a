//! One request and its replies.

use std::io;

use crate::error::errno;
use crate::wire::{
    Body, CONTROLLER, DecodeError, FAMILY_NAME, Header, Message, Packet, Packets, parse_family_id,
    put_family_request, put_message, put_packet,
};
use crate::{Error, ErrorKind, Object, Operation};

/// Carries packets to a kernel and back: a netlink socket, or a fake.
pub trait Transport {
    /// Sends packets in one datagram. On return the kernel has executed them, and its replies
    /// are ready to be received.
    fn send(&mut self, packets: &[u8]) -> io::Result<()>;

    /// Receives one datagram and returns its full length, even if the buffer is shorter.
    ///
    /// Must not block: fails with [`io::ErrorKind::WouldBlock`] if no datagram is ready, and with
    /// `ENOBUFS` if replies were lost.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// The number of replies that can be queued before some are lost.
    fn capacity(&self) -> usize {
        128
    }

    /// Opens a second transport to the same kernel and network namespace, see
    /// [`Client::reopen`](crate::Client::reopen).
    ///
    /// The default fails with [`io::ErrorKind::Unsupported`].
    fn reopen(&self) -> io::Result<Self>
    where
        Self: Sized,
    {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What a client has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Read requests: one for each get and each attempt at a listing.
    pub reads: u64,
    /// Change requests: one for each [`Change`](crate::Change) sent.
    pub changes: u64,
    /// Datagrams.
    pub sends: u64,
}

/// Larger than any reply datagram: the kernel fills at most 32 KiB (`netlink_dump`).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The kernel replied with an error.
    Kernel { errno: i32, message: Option<String> },
    /// The kernel does not have the family.
    Unsupported,
    /// The socket failed.
    Io(io::Error),
    /// The reply is malformed.
    Malformed(DecodeError),
    /// The table changed during the listing, or part of the listing was lost.
    Interrupted,
    /// No reply is ready.
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

/// A transport with the state of the conversation: buffers, family number, sequence number.
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

    /// Replaces the transport. Unread replies and an unfinished dump stay with the old one.
    pub(super) fn reopen(&mut self) -> Result<(), Failure> {
        self.transport = self.transport.reopen().map_err(Failure::Io)?;
        self.resolve().map(drop)
    }

    /// Reserves `count` consecutive sequence numbers, none of them 0, and returns the first.
    pub(super) fn reserve_sequence(&mut self, count: u32) -> u32 {
        let first = match self.sequence.checked_add(count) {
            Some(_) => self.sequence + 1,
            None => 1,
        };
        self.sequence = first + (count - 1);
        first
    }

    /// Resolves the family number, for which the kernel loads the module if necessary. Returns
    /// whether the number has changed.
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

    /// Sends a request of the family and passes its replies to `take`. Repeats it if the family
    /// number has changed because the module was reloaded.
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
        // Read a dump to its end whatever happens: until then the kernel refuses the next one on
        // this socket with EBUSY (`__netlink_dump_start`).
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

    /// Receives one datagram and passes on the packets that belong to one of the `count` requests
    /// from `sequence` on. Returns whether `take` saw the last reply.
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
            // Skip late replies to earlier requests.
            if packet.header.sequence.wrapping_sub(sequence) < count {
                ended |= take(packet);
            }
        }
        Ok(ended)
    }
}
