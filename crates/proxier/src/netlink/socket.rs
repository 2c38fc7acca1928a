//! The netlink socket to the packet filter.

use std::io;

use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::wire::uapi::*;
use super::wire::{Attributes, Packet, Writer};

/// `MSG_DONTWAIT | MSG_TRUNC`: a request is carried out before `send` returns, so its replies
/// wait, and one that does not fit is to be noticed.
const RECEIVE_FLAGS: i32 = 0x40 | 0x20;
/// More than the kernel puts in one datagram of a list.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// How often a list is begun anew if the rules change meanwhile.
const LIST_ATTEMPTS: u32 = 8;

/// A socket to the packet filter of one network namespace.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Why a transaction was not carried out.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Messages with these places were refused, each with its errno.
    Messages(Vec<(usize, i32)>),
    /// It failed as a whole.
    Whole(io::Error),
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        // Connected, it takes messages of the kernel alone.
        socket.connect(&SocketAddr::new(0, 0))?;
        // An error would repeat the message it is about.
        socket.set_cap_ack(true)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    /// The first of `count` sequence numbers in a row.
    pub(crate) fn reserve(&mut self, count: usize) -> u32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let first = match self.sequence.checked_add(count) {
            Some(_) => self.sequence + 1,
            None => 1,
        };
        self.sequence = first + (count - 1);
        first
    }

    /// Sends a transaction: a begin with the sequence number `first`, `messages` messages with
    /// those that follow, the last of which asks for an acknowledgement, and an end.
    pub(crate) fn commit(
        &mut self,
        transaction: &Writer,
        first: u32,
        messages: usize,
    ) -> Result<(), Refusal> {
        self.send(transaction).map_err(Refusal::Whole)?;
        let mut refused = Vec::new();
        loop {
            self.receive().map_err(Refusal::Whole)?;
            for packet in Packet::all(&self.buffer) {
                let place = packet.sequence.wrapping_sub(first);
                let Ok(place) = usize::try_from(place) else {
                    continue;
                };
                // Left over from what was given up on.
                if packet.kind != NLMSG_ERROR || place > messages {
                    continue;
                }
                match (place, packet.errno()) {
                    (0, 0) => {}
                    // The commit itself.
                    (0, errno) => {
                        return Err(Refusal::Whole(io::Error::from_raw_os_error(errno)));
                    }
                    (_, 0) => {}
                    (_, errno) => refused.push((place - 1, errno)),
                }
                if place == messages {
                    return if refused.is_empty() {
                        Ok(())
                    } else {
                        Err(Refusal::Messages(refused))
                    };
                }
            }
        }
    }

    /// Asks for a list of what is in `inet` tables, as [`Socket::list_with`].
    pub(crate) fn list<T>(
        &mut self,
        kind: u8,
        content: impl Fn(&mut Writer),
        take: impl FnMut(&mut T, Attributes<'_>),
    ) -> io::Result<T>
    where
        T: Default,
    {
        let request = |writer: &mut Writer, sequence| {
            writer.message(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, &content);
        };
        self.list_with(request, take)
    }

    /// Sends a request for a list, which `request` writes with a sequence number, and hands each
    /// message's attributes to `take`. If the list is begun anew, so is what it was made into.
    pub(crate) fn list_with<T>(
        &mut self,
        request: impl Fn(&mut Writer, u32),
        mut take: impl FnMut(&mut T, Attributes<'_>),
    ) -> io::Result<T>
    where
        T: Default,
    {
        for _ in 0..LIST_ATTEMPTS {
            let sequence = self.reserve(1);
            let mut packet = Writer::default();
            request(&mut packet, sequence);
            self.send(&packet)?;
            let mut list = T::default();
            if self.read_list(sequence, |attributes| take(&mut list, attributes))? {
                return Ok(list);
            }
        }
        Err(io::Error::from(io::ErrorKind::Interrupted))
    }

    /// Reads a list to its end. Tells whether it is of one piece.
    fn read_list(
        &mut self,
        sequence: u32,
        mut take: impl FnMut(Attributes<'_>),
    ) -> io::Result<bool> {
        let mut whole = true;
        loop {
            self.receive()?;
            for packet in Packet::all(&self.buffer) {
                if packet.sequence != sequence {
                    continue;
                }
                whole &= packet.flags & NLM_F_DUMP_INTR == 0;
                match (packet.kind, packet.errno()) {
                    (NLMSG_ERROR | NLMSG_DONE, 0) => return Ok(whole),
                    (NLMSG_ERROR | NLMSG_DONE, errno) => {
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                    _ => take(packet.attributes()),
                }
            }
        }
    }

    fn send(&self, packets: &Writer) -> io::Result<()> {
        loop {
            match self.socket.send(packets.bytes(), 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent.map(drop),
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        let length = self.socket.recv(&mut self.buffer, RECEIVE_FLAGS)?;
        if length > self.buffer.len() {
            // The rest of the datagram is lost; the next one is larger.
            self.buffer.reserve(length);
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        Ok(())
    }
}
