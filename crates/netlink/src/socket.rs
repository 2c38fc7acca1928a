//! The netlink socket for netfilter.

use std::io;

use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Writer;
use crate::error::{Error, Malformed};
use crate::faults;
use crate::read::{Attributes, Messages};
use crate::uapi::*;
use crate::watch::Own;

/// `MSG_DONTWAIT | MSG_TRUNC`. The kernel executes a request before `send` returns, and creates the
/// next part of a list in `recv`, so a reply is always available at once. `MSG_TRUNC` shows the
/// length of a datagram that does not fit.
const RECEIVE_FLAGS: i32 = 0x40 | 0x20;
/// More than one datagram of a kernel's list contains.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// How often a list is read again if it changes meanwhile.
const LIST_ATTEMPTS: u32 = 8;
/// Maximum number of datagrams to discard from an abandoned list. A list of 250,000 elements has
/// about 1,000.
const DISCARDED: u32 = 100_000;

/// A socket for netfilter of one network namespace.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    port: u32,
    /// Marks changes by this socket as svcproxy's own, so that [`Watch`](crate::Watch) ignores
    /// them.
    _own: Own,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Why a transaction failed.
#[derive(Debug)]
pub enum Refusal {
    /// The indices of rejected messages, each with its errno.
    Messages(Vec<(usize, i32)>),
    /// The whole transaction failed, without effect.
    Whole(Error),
    /// The answer was lost: the transaction may be in effect.
    Lost(Error),
}

impl Refusal {
    /// The first error, without its message.
    pub fn into_error(self) -> Error {
        match self {
            Self::Whole(error) | Self::Lost(error) => error,
            Self::Messages(errors) => {
                let errno = errors.first().map_or(0, |(_, errno)| *errno);
                io::Error::from_raw_os_error(errno).into()
            }
        }
    }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// Those of socket(2).
    pub fn open() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        // A connected socket receives messages from the kernel only.
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without this, an error repeats the whole rejected message.
        socket.set_cap_ack(true)?;
        Ok(Self {
            socket,
            port,
            _own: Own::new(NETLINK_NETFILTER, port),
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    /// The first of `count` sequence numbers in a row.
    pub fn reserve(&mut self, count: usize) -> u32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let first = match self.sequence.checked_add(count) {
            Some(_) => self.sequence + 1,
            None => 1,
        };
        self.sequence = first + (count - 1);
        first
    }

    /// Sends a transaction: a begin message with the sequence number `first`, then `messages`
    /// messages with the following numbers, the last of which requests an acknowledgement, and an
    /// end message.
    ///
    /// # Errors
    ///
    /// The rejected messages, or the error of the whole transaction.
    pub fn commit(
        &mut self,
        transaction: &Writer,
        first: u32,
        messages: usize,
    ) -> Result<(), Refusal> {
        self.send(transaction).map_err(Refusal::Whole)?;
        let mut replies = Replies::new(first, messages);
        loop {
            let datagram = self.receive().map_err(Refusal::Lost)?;
            if replies.take(datagram)? {
                return replies.into_result();
            }
        }
    }

    /// Sends the list request that `request` writes with a sequence number, and passes each
    /// message's attributes to `take`. If the content changes meanwhile, it reads the list again,
    /// into a new `T`.
    ///
    /// # Errors
    ///
    /// The kernel's errno; any error that makes the list incomplete.
    pub fn list_with<T>(
        &mut self,
        request: impl Fn(&mut Writer, u32),
        mut take: impl FnMut(&mut T, Attributes<'_>) -> Result<(), Malformed>,
    ) -> Result<T, Error>
    where
        T: Default,
    {
        for _ in 0..LIST_ATTEMPTS {
            let mut listing = Listing::new(self.reserve(1));
            let mut packet = Writer::default();
            request(&mut packet, listing.sequence);
            self.send(&packet)?;
            let mut list = T::default();
            let end = loop {
                let datagram = self.receive();
                let end = datagram
                    .and_then(|datagram| listing.take(datagram, |found| take(&mut list, found)));
                match end {
                    Ok(None) => {}
                    Ok(Some(end)) => break end,
                    Err(error) => {
                        self.discard();
                        return Err(error);
                    }
                }
            };
            if end == End::Consistent {
                return Ok(list);
            }
        }
        let attempts = LIST_ATTEMPTS;
        Err(Error::Changing { attempts })
    }

    fn send(&self, packets: &Writer) -> Result<(), Error> {
        if let Some(sent) = faults::sending(self.port, packets.bytes()) {
            return Ok(sent?);
        }
        loop {
            match self.socket.send(packets.bytes(), 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    /// The next datagram, if there is one.
    fn receive(&mut self) -> Result<Option<&[u8]>, Error> {
        self.buffer.clear();
        if let Some(datagram) = faults::waiting(self.port) {
            self.buffer.extend(datagram);
            return Ok(Some(&self.buffer));
        }
        let length = loop {
            match self.socket.recv(&mut self.buffer, RECEIVE_FLAGS) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                received => break received?,
            }
        };
        if length > self.buffer.len() {
            // The next datagram may be as long.
            self.buffer.reserve(length);
            return Err(Error::Truncated { length });
        }
        if faults::received(self.port, &mut self.buffer)?.is_none() {
            return self.receive();
        }
        Ok(Some(&self.buffer))
    }

    /// Discards the rest of a list: until its end, the kernel rejects another list request on this
    /// socket (EBUSY, `__netlink_dump_start`).
    fn discard(&mut self) {
        for _ in 0..DISCARDED {
            if matches!(self.receive(), Ok(None)) {
                return;
            }
        }
    }
}

/// The replies of a transaction so far.
struct Replies {
    first: u32,
    messages: usize,
    refused: Vec<(usize, i32)>,
}

impl Replies {
    const fn new(first: u32, messages: usize) -> Self {
        Self {
            first,
            messages,
            refused: Vec::new(),
        }
    }

    /// Processes a datagram, or the end of input. Returns whether it was the last one.
    fn take(&mut self, datagram: Option<&[u8]>) -> Result<bool, Refusal> {
        let whole = |error: Error| Refusal::Whole(error);
        let lost = |error: Error| Refusal::Lost(error);
        let datagram = datagram.ok_or_else(|| {
            lost(Error::Unfinished {
                awaited: "its acknowledgement",
            })
        })?;
        for message in Messages::new(datagram) {
            let message = message.map_err(|error| lost(error.into()))?;
            let place = message.sequence.wrapping_sub(self.first);
            let Ok(place) = usize::try_from(place) else {
                continue;
            };
            // A reply to an abandoned request.
            if message.kind != NLMSG_ERROR || place > self.messages {
                continue;
            }
            let errno = message.errno().map_err(|error| lost(error.into()))?;
            match (place, errno) {
                (_, 0) => {}
                // An error of the commit itself.
                (0, errno) => return Err(whole(io::Error::from_raw_os_error(errno).into())),
                (_, errno) => self.refused.push((place - 1, errno)),
            }
            if place == self.messages {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn into_result(self) -> Result<(), Refusal> {
        if self.refused.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Messages(self.refused))
        }
    }
}

/// A list that is being received.
struct Listing {
    sequence: u32,
    end: End,
}

/// How a list ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Consistent,
    /// Its content changed while the kernel created it (`NLM_F_DUMP_INTR`).
    Changed,
}

impl Listing {
    const fn new(sequence: u32) -> Self {
        let end = End::Consistent;
        Self { sequence, end }
    }

    /// Processes a datagram, or the end of input. Returns how the list ended, if it did.
    fn take(
        &mut self,
        datagram: Option<&[u8]>,
        mut take: impl FnMut(Attributes<'_>) -> Result<(), Malformed>,
    ) -> Result<Option<End>, Error> {
        let awaited = "NLMSG_DONE";
        let datagram = datagram.ok_or(Error::Unfinished { awaited })?;
        for message in Messages::new(datagram) {
            let message = message?;
            if message.sequence != self.sequence {
                continue;
            }
            if message.flags & NLM_F_DUMP_INTR != 0 {
                self.end = End::Changed;
            }
            if let NLMSG_ERROR | NLMSG_DONE = message.kind {
                return match message.errno()? {
                    0 => Ok(Some(self.end)),
                    errno => Err(io::Error::from_raw_os_error(errno).into()),
                };
            }
            take(message.attributes()?)?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: u16 = 0x0a0d;

    fn element(writer: &mut Writer, flags: u16, number: u32) {
        writer.packet(KIND, flags, 7, [1, 0, 0, 0], |w| w.number(2, number));
    }

    fn done(writer: &mut Writer, errno: i32) {
        writer.packet(NLMSG_DONE, 0, 7, (-errno).to_ne_bytes(), |_| {});
    }

    /// Processes all datagrams.
    fn read(datagrams: &[&[u8]]) -> Result<(End, Vec<u32>), Error> {
        let (mut listing, mut numbers) = (Listing::new(7), Vec::new());
        let mut datagrams = datagrams.iter().copied();
        loop {
            let end = listing.take(datagrams.next(), |element| {
                numbers.push(element.require(2)?.number()?);
                Ok(())
            })?;
            if let Some(end) = end {
                return Ok((end, numbers));
            }
        }
    }

    fn written(put: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        put(&mut writer);
        writer.bytes().to_vec()
    }

    #[test]
    fn a_list_is_complete_only_with_its_end() {
        let part = written(|w| element(w, 0, 1));
        let end = written(|w| done(w, 0));
        let all = read(&[&part, &part, &end]).unwrap();
        assert_eq!(all, (End::Consistent, vec![1, 1]));
        let error = read(&[&part, &part]).unwrap_err();
        assert!(matches!(error, Error::Unfinished { .. }), "{error}");
        assert_eq!(error.to_string(), "netlink reply ended before NLMSG_DONE");
    }

    #[test]
    fn a_truncated_or_malformed_part_fails_the_list() {
        let whole = written(|w| {
            element(w, 0, 1);
            element(w, 0, 2);
        });
        let end = written(|w| done(w, 0));
        for length in [1, 15, 20, 28 + 1, whole.len() - 1] {
            let error = read(&[&whole[..length], &end]).unwrap_err();
            assert!(matches!(error, Error::Malformed(_)), "{length}: {error}");
        }
        let mut bad = whole.clone();
        // The attribute of the number.
        bad[20] = 2;
        assert!(matches!(read(&[&bad, &end]), Err(Error::Malformed(_))));
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_recognised() {
        for flags in [[NLM_F_DUMP_INTR, 0], [0, NLM_F_DUMP_INTR]] {
            let [first, last] = flags;
            let part = written(|w| element(w, first, 1));
            let end = written(|w| w.packet(NLMSG_DONE, last, 7, [0; 4], |_| {}));
            assert_eq!(read(&[&part, &end]).unwrap(), (End::Changed, vec![1]));
        }
    }

    #[test]
    fn a_list_that_fails_has_its_errno() {
        let end = written(|w| {
            element(w, 0, 1);
            done(w, 105);
        });
        let error = io::Error::from(read(&[&end]).unwrap_err());
        assert_eq!(error.raw_os_error(), Some(105));
    }

    #[test]
    fn a_transaction_ends_with_the_last_ones_acknowledgement() {
        let reply = |sequence, errno: i32| {
            written(|w| w.packet(NLMSG_ERROR, 0, sequence, (-errno).to_ne_bytes(), |_| {}))
        };
        let mut replies = Replies::new(10, 2);
        assert!(!replies.take(Some(&reply(11, 17))).unwrap());
        assert!(replies.take(Some(&reply(12, 0))).unwrap());
        let refused = replies.into_result().unwrap_err();
        assert!(matches!(refused, Refusal::Messages(refused) if refused == [(0, 17)]));

        let mut replies = Replies::new(10, 2);
        assert!(!replies.take(Some(&reply(9, 17))).unwrap());
        let lost = replies.take(None).unwrap_err();
        assert!(matches!(lost, Refusal::Lost(Error::Unfinished { .. })));
        let malformed = Replies::new(10, 2).take(Some(&reply(12, 0)[..17]));
        let malformed = malformed.unwrap_err();
        assert!(matches!(malformed, Refusal::Lost(Error::Malformed(_))));
        // Without a number, it is the commit that failed, and nothing is in effect.
        let failed = Replies::new(10, 2).take(Some(&reply(10, 12)));
        assert!(matches!(failed, Err(Refusal::Whole(_))));
    }
}
