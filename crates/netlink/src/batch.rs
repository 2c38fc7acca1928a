//! Transactions of nf_tables, built step by step.

use std::io;

use crate::socket::{Refusal, Socket};
use crate::uapi::*;
use crate::{Writer, again};

/// A transaction of this size, or with this number of messages, gets no more steps.
const FULL: (usize, usize) = (128 * 1024, 128);
/// Hard limits of a transaction. It is one datagram, which must fit into a socket's default send
/// buffer of 208 KiB; and a default receive buffer holds 237 errors.
const LIMIT: (usize, usize) = (144 * 1024, 200);
/// More messages than a transaction has. Unused sequence numbers do no harm.
const ROOM: usize = 4096;

/// Whether consecutive elements of one set share a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// They share messages.
    Dense,
    /// Each has its own message, so that an error identifies it.
    Single,
}

impl Packing {
    /// The most elements of a message.
    pub const fn most(self) -> usize {
        match self {
            Self::Dense => usize::MAX,
            Self::Single => 1,
        }
    }
}

/// A transaction under construction. Each message belongs to a step, which its errors name.
#[derive(Debug)]
pub struct Batch {
    writer: Writer,
    first: u32,
    /// The step of each message.
    steps: Vec<usize>,
    last_start: usize,
}

/// Why a transaction failed.
#[derive(Debug)]
pub enum Refused {
    /// The steps of rejected messages, in order, with the errno of each one's first message.
    Steps(Vec<(usize, i32)>),
    /// The whole transaction failed, without effect.
    Whole(io::Error),
    /// The kernel's answer was lost: the transaction may be in effect. Do not send it again before the
    /// state has been read, because not every message may be repeated: a rule would be there twice.
    Lost(io::Error),
}

impl From<Refused> for io::Error {
    /// The first error, without its step.
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Whole(source) | Refused::Lost(source) => source,
            Refused::Steps(steps) => {
                let errno = steps.first().map_or(0, |(_, errno)| *errno);
                Self::from_raw_os_error(errno)
            }
        }
    }
}

impl Batch {
    /// Maximum size of a list of elements in a message. An attribute's length has 16 bits; this
    /// leaves room for one more element.
    pub const LIST_LIMIT: usize = 60 * 1024;

    /// A transaction without messages.
    pub fn begin(socket: &mut Socket) -> Self {
        let first = socket.reserve(ROOM);
        let mut writer = Writer::default();
        writer.batch(NFNL_MSG_BATCH_BEGIN, first);
        Self {
            writer,
            first,
            steps: Vec::new(),
            last_start: 0,
        }
    }

    /// Whether it takes no more steps; `goes_on` says that the next step must be in the same
    /// transaction as the last one, for which there is some more room.
    pub fn is_full(&self, goes_on: bool) -> bool {
        let beyond = |(size, messages)| self.writer.len() >= size || self.steps.len() >= messages;
        beyond(LIMIT) || beyond(FULL) && !goes_on
    }

    /// Adds a message, which `put` writes with the given sequence number.
    pub fn message(&mut self, step: usize, put: impl FnOnce(&mut Writer, u32)) {
        self.last_start = self.writer.len();
        self.steps.push(step);
        let sequence = self.sequence(self.steps.len());
        put(&mut self.writer, sequence);
    }

    fn sequence(&self, place: usize) -> u32 {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        self.first.wrapping_add(place)
    }

    /// Sends the transaction.
    ///
    /// # Errors
    ///
    /// The rejected steps, or the error of the whole transaction.
    pub fn commit(mut self, socket: &mut Socket) -> Result<(), Refused> {
        let end = self.sequence(self.steps.len() + 1);
        self.send(socket, |writer| writer.batch(NFNL_MSG_BATCH_END, end))
    }

    /// Lets the kernel validate the transaction. Without an end message, the kernel undoes all of
    /// it (`nfnetlink_rcv_batch`), as for `nft --check`.
    ///
    /// # Errors
    ///
    /// As [`Batch::commit`].
    pub fn check(mut self, socket: &mut Socket) -> Result<(), Refused> {
        self.send(socket, |_| {})
    }

    /// The datagram that [`Batch::commit`] sends, for a benchmark that sends it itself.
    pub fn into_datagram(mut self) -> Vec<u8> {
        let end = self.sequence(self.steps.len() + 1);
        self.finish(|writer| writer.batch(NFNL_MSG_BATCH_END, end));
        self.writer.bytes().to_vec()
    }

    fn finish(&mut self, end: impl FnOnce(&mut Writer)) {
        self.writer.add_flags(self.last_start, NLM_F_ACK);
        end(&mut self.writer);
    }

    fn send(&mut self, socket: &mut Socket, end: impl FnOnce(&mut Writer)) -> Result<(), Refused> {
        let count = self.steps.len();
        if count == 0 {
            return Ok(());
        }
        self.finish(end);
        let sent = socket.commit(&self.writer, self.first, count);
        sent.map_err(|refusal| self.refused(refusal))
    }

    fn refused(&self, refusal: Refusal) -> Refused {
        match refusal {
            Refusal::Whole(error) => Refused::Whole(error.into()),
            Refusal::Lost(error) => Refused::Lost(error.into()),
            Refusal::Messages(errors) => {
                let of_step = |(place, errno): (usize, i32)| Some((*self.steps.get(place)?, errno));
                let mut steps: Vec<_> = errors.into_iter().filter_map(of_step).collect();
                steps.sort_by_key(|(step, _)| *step);
                // The first error of a step causes its other errors.
                steps.dedup_by_key(|(step, _)| *step);
                Refused::Steps(steps)
            }
        }
    }
}

/// Executes steps, and again without the rejected ones, until the kernel has taken the others.
/// `commit` sends a transaction of as many of them as it can, from the first on, and returns their
/// number and the outcome. Returns the places of the failed steps with their errors.
pub fn without_rejected<S: Copy>(
    steps: &[S],
    mut commit: impl FnMut(&[S]) -> (usize, Result<(), Refused>),
) -> Vec<(usize, io::Error)> {
    let mut failed = Vec::new();
    let mut rest: Vec<_> = steps.iter().copied().enumerate().collect();
    while !rest.is_empty() {
        let bare: Vec<_> = rest.iter().map(|(_, step)| *step).collect();
        let (taken, outcome) = commit(&bare);
        let taken = taken.clamp(1, rest.len());
        match outcome {
            Ok(()) => drop(rest.drain(..taken)),
            Err(Refused::Whole(source)) => {
                let these = rest.drain(..taken);
                failed.extend(these.map(|(place, _)| (place, again(&source))));
            }
            // The kernel may have refused them; what comes after them relies on them.
            Err(Refused::Lost(source)) => {
                let these = rest.drain(..);
                failed.extend(these.map(|(place, _)| (place, again(&source))));
            }
            Err(Refused::Steps(refused)) => {
                for (index, errno) in refused.into_iter().rev() {
                    let (place, _) = rest.remove(index);
                    failed.push((place, io::Error::from_raw_os_error(errno)));
                }
            }
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        Batch {
            writer: Writer::default(),
            first: 10,
            steps: Vec::new(),
            last_start: 0,
        }
    }

    #[test]
    fn an_error_names_the_step_of_its_message() {
        let mut batch = batch();
        for (step, sequence) in [(0, 11), (0, 12), (3, 13), (4, 14)] {
            batch.message(step, |_, given| assert_eq!(given, sequence));
        }
        // Messages of step 0 fail twice; the kernel's order is not that of the steps.
        let errors = vec![(2, 17), (0, 2), (1, 16)];
        let refused = batch.refused(Refusal::Messages(errors));
        assert!(
            matches!(&refused, Refused::Steps(steps) if *steps == [(0, 2), (3, 17)]),
            "{refused:?}"
        );
        assert_eq!(io::Error::from(refused).raw_os_error(), Some(2));
    }

    #[test]
    fn a_step_that_goes_on_has_some_more_room() {
        let mut batch = batch();
        let mut add = |count| {
            for _ in 0..count {
                batch.message(0, |_, _| {});
            }
            [false, true].map(|goes_on| batch.is_full(goes_on))
        };
        assert_eq!(add(FULL.1 - 1), [false, false]);
        assert_eq!(add(1), [true, false]);
        assert_eq!(add(LIMIT.1 - FULL.1), [true, true]);

        let mut batch = self::batch();
        batch.message(0, |w, _| w.raw(&[0; FULL.0]));
        assert_eq!([false, true].map(|on| batch.is_full(on)), [true, false]);
        batch.message(0, |w, _| w.raw(&[0; LIMIT.0 - FULL.0]));
        assert_eq!([false, true].map(|on| batch.is_full(on)), [true, true]);
    }

    #[test]
    fn a_rejected_step_does_not_stop_the_others() {
        let (mut sent, mut taken) = (Vec::new(), Vec::new());
        let failed = without_rejected(&["a", "bad", "b", "worse", "c"], |steps: &[&str]| {
            sent.push(steps.join(" "));
            let now = &steps[..steps.len().min(3)];
            let errors = now.iter().enumerate();
            let errors: Vec<_> = errors
                .filter(|(_, step)| step.len() > 1)
                .map(|(index, step)| (index, i32::try_from(step.len()).unwrap()))
                .collect();
            if errors.is_empty() {
                taken.extend(now.iter().map(|step| (*step).to_owned()));
                return (now.len(), Ok(()));
            }
            (now.len(), Err(Refused::Steps(errors)))
        });
        assert_eq!(sent, ["a bad b worse c", "a b worse c", "a b c"]);
        assert_eq!(taken, ["a", "b", "c"]);
        let failed: Vec<_> = failed
            .iter()
            .map(|(place, error)| (*place, error.raw_os_error().unwrap()))
            .collect();
        assert_eq!(failed, [(1, 3), (3, 5)]);
    }

    #[test]
    fn if_a_whole_transaction_fails_so_do_its_steps_only() {
        let mut outcomes = vec![Ok(()), Err(Refused::Whole(io::ErrorKind::Other.into()))];
        let failed = without_rejected(&[1, 2, 3, 4], |_| (2, outcomes.pop().unwrap()));
        let failed: Vec<_> = failed.iter().map(|(place, _)| *place).collect();
        assert_eq!(failed, [0, 1]);
    }
}
