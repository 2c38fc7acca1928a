//! Batches: many changes in a datagram, each with its own outcome.

use std::borrow::Borrow;
use std::io;

use super::Client;
use super::exchange::{Failure, Transport};
use crate::error::errno;
use crate::wire::{Body, Header, put_change, put_packet};
use crate::{Change, Error, ErrorKind, Result};

/// The most changes in one datagram. More are no faster, and the default receive buffer of a socket
/// holds 237 replies: the kernel drops the rest, although it made the changes.
const MAX_BATCH: usize = 128;

/// The outcome of each change of a batch, in order.
#[derive(Debug)]
#[must_use = "a change may have failed"]
pub struct Outcomes(Vec<Result<()>>);

impl Outcomes {
    #[cfg(feature = "tokio")]
    pub(super) fn from_results(results: Vec<Result<()>>) -> Self {
        Self(results)
    }

    /// Whether all changes were made.
    pub fn all_ok(&self) -> bool {
        self.0.iter().all(Result::is_ok)
    }

    /// The errors, with the index of their change in the batch.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &Error)> {
        let outcomes = self.0.iter().enumerate();
        outcomes.filter_map(|(place, outcome)| outcome.as_ref().err().map(|error| (place, error)))
    }

    /// The outcome of each change.
    pub fn as_slice(&self) -> &[Result<()>] {
        &self.0
    }

    /// All outcomes as one.
    ///
    /// # Errors
    ///
    /// The first error, if any.
    pub fn into_result(self) -> Result<()> {
        self.0.into_iter().collect()
    }
}

impl IntoIterator for Outcomes {
    type Item = Result<()>;
    type IntoIter = std::vec::IntoIter<Result<()>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Outcomes {
    type Item = &'a Result<()>;
    type IntoIter = std::slice::Iter<'a, Result<()>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: Transport> Client<T> {
    /// Makes changes in order, up to 128 in one datagram.
    ///
    /// This is not a transaction: the kernel makes or rejects each change and continues with the
    /// next. Every change has its own outcome; if the socket fails, changes that were not sent have
    /// its error. Uses one word of memory for each change, and one allocation for each error.
    ///
    /// ```no_run
    /// # let mut client = ipvs::Client::open()?;
    /// # let changes: Vec<ipvs::Change> = Vec::new();
    /// let outcomes = client.apply(&changes);
    /// for (place, error) in outcomes.failures() {
    ///     eprintln!("change {place}: {error}");
    /// }
    /// # Ok::<(), ipvs::Error>(())
    /// ```
    pub fn apply<I>(&mut self, changes: I) -> Outcomes
    where
        I: IntoIterator,
        I::Item: Borrow<Change>,
    {
        let limit = self.exchange.transport.capacity().clamp(1, MAX_BATCH);
        let mut changes = changes.into_iter();
        let mut outcomes = Vec::with_capacity(changes.size_hint().0);
        let mut batch = Vec::with_capacity(limit.min(changes.size_hint().0));
        loop {
            batch.extend(changes.by_ref().take(limit));
            if batch.is_empty() {
                return Outcomes(outcomes);
            }
            let start = outcomes.len();
            outcomes.extend(batch.iter().map(|change| check(change.borrow())));
            self.apply_batch(&batch, outcomes.get_mut(start..).unwrap_or_default());
            batch.clear();
        }
    }

    pub(super) fn apply_batch<C: Borrow<Change>>(
        &mut self,
        changes: &[C],
        outcomes: &mut [Result<()>],
    ) {
        self.send_batch(changes, outcomes, |outcome| outcome.is_ok());
        // ENOENT can also mean that the family number has changed because the module was reloaded.
        let missing = |outcome: &Result<()>| {
            outcome
                .as_ref()
                .is_err_and(|error| error.errno() == Some(errno::ENOENT))
        };
        if outcomes.iter().any(missing) && matches!(self.exchange.resolve(), Ok(true)) {
            self.send_batch(changes, outcomes, missing);
        }
    }

    /// Sends the changes whose outcome is `selected` in one datagram, and collects their outcomes.
    fn send_batch<C: Borrow<Change>>(
        &mut self,
        changes: &[C],
        outcomes: &mut [Result<()>],
        selected: impl Fn(&Result<()>) -> bool,
    ) {
        let exchange = &mut self.exchange;
        let count = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        let first = exchange.reserve_sequence(count);
        exchange.send_buffer.clear();
        let mut last = None;
        for ((change, outcome), sequence) in changes.iter().zip(&mut *outcomes).zip(first..) {
            if selected(outcome) {
                *outcome = Ok(());
                let header = Header {
                    kind: exchange.family,
                    flags: Header::REQUEST,
                    sequence,
                };
                last = Some((exchange.send_buffer.len(), sequence, change.borrow()));
                put_packet(&mut exchange.send_buffer, header, |buffer| {
                    put_change(buffer, change.borrow());
                });
                exchange.counters.changes += 1;
            }
        }
        let Some((position, last, last_change)) = last else {
            return;
        };
        // The kernel always reports errors. The acknowledgement of the last change marks the end.
        request_ack(&mut exchange.send_buffer, position);
        exchange.counters.sends += 1;
        let mut failure = exchange
            .transport
            .send(&exchange.send_buffer)
            .err()
            .map(Failure::Io);
        let sent = failure.is_none();
        let mut ended = !sent;
        while !ended {
            let received = exchange.receive(first, count, |packet| {
                let Body::Status { errno, message } = packet.body else {
                    return false;
                };
                let place = usize::try_from(packet.header.sequence - first).unwrap_or(usize::MAX);
                if let (Some(change), Some(outcome)) = (changes.get(place), outcomes.get_mut(place))
                    && errno != 0
                {
                    let change = change.borrow();
                    let (operation, object) = (change.operation(), change.object());
                    *outcome = Err(Error::from_kernel(operation, object, errno, message));
                }
                packet.header.sequence == last
            });
            match received {
                Ok(end) => ended = end,
                // If a daemon's thread has not run yet, `kthread_stop` returns EINTR and the kernel
                // stops the daemon but does not reply.
                Err(Failure::NoReply) if matches!(last_change, Change::StopSyncDaemon(_)) => {
                    ended = true;
                }
                Err(fatal @ (Failure::Io(_) | Failure::NoReply)) => {
                    failure.get_or_insert(fatal);
                    ended = true;
                }
                // Read on to the last reply, so that none is left for a later request.
                Err(other) => {
                    failure.get_or_insert(other);
                }
            }
        }
        if let Some(failure) = failure {
            for (change, outcome) in changes.iter().zip(outcomes).filter(|(_, o)| o.is_ok()) {
                *outcome = Err(lost(change.borrow(), &failure, sent));
            }
        }
    }
}

pub(super) fn check(change: &Change) -> Result<()> {
    change.check().map_err(|invalid| {
        Error::new(
            change.operation(),
            change.object(),
            ErrorKind::Invalid(invalid),
        )
    })
}

/// Requests an acknowledgement of the packet at `position`.
fn request_ack(buffer: &mut [u8], position: usize) {
    let flags = (Header::REQUEST | Header::ACK).to_ne_bytes();
    let start = position + Header::FLAGS_OFFSET;
    if let Some(place) = buffer.get_mut(start..start + flags.len()) {
        place.copy_from_slice(&flags);
    }
}

/// The error of a change without a reply.
fn lost(change: &Change, failure: &Failure, sent: bool) -> Error {
    let (operation, object) = (change.operation(), change.object());
    let source = match failure {
        Failure::Io(error) => error.raw_os_error().map_or_else(
            || io::Error::new(error.kind(), error.to_string()),
            io::Error::from_raw_os_error,
        ),
        Failure::Malformed(error) => io::Error::new(io::ErrorKind::InvalidData, *error),
        Failure::Interrupted => io::Error::from_raw_os_error(errno::ENOBUFS),
        _ => io::ErrorKind::WouldBlock.into(),
    };
    let error = Error::from_io(operation, object, source);
    if sent {
        error.with_kind(ErrorKind::NoReply)
    } else {
        error
    }
}
