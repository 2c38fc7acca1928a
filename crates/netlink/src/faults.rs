//! Faults of single requests, for tests: the kernel rejects one, or its answer is lost, doubled, cut or
//! interrupted.
//!
//! A fault concerns a request that the calling thread sends: over a [`Socket`](crate::Socket), or over
//! another socket that asks [`sending`], [`waiting`] and [`received`] what becomes of its datagrams.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;

use crate::read::Messages;
use crate::uapi::*;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The kernel rejects each of its messages with this errno, and executes none.
    Rejected(i32),
    /// send(2) fails with this errno.
    Unsent(i32),
    /// The kernel executes it, but recv(2) fails with this errno in place of the answer's first
    /// datagram.
    Lost(i32),
    /// The answer's first datagram disappears, without an error.
    Missing,
    /// It comes twice.
    Doubled,
    /// It lacks its last byte.
    Cut,
    /// It says that the list changed while the kernel created it.
    Interrupted,
}

#[derive(Default)]
struct State {
    /// Faults of future requests, counted from the next one.
    planned: BTreeMap<usize, Fault>,
    /// The fault of the request whose answer a socket waits for.
    struck: Option<(u32, Fault)>,
    /// Datagrams that a socket gets before those of the kernel.
    answers: VecDeque<(u32, Vec<u8>)>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Plans a fault of the nth request from now: 1 is the next one.
pub fn inject(nth: usize, fault: Fault) {
    STATE.with_borrow_mut(|state| _ = state.planned.insert(nth, fault));
}

/// Withdraws all faults. Returns how many had not happened.
pub fn clear() -> usize {
    STATE.take().planned.len()
}

/// What becomes of a request of the socket with this port; `None` if it goes to the kernel.
pub fn sending(port: u32, packets: &[u8]) -> Option<io::Result<()>> {
    STATE.with_borrow_mut(|state| {
        let planned = std::mem::take(&mut state.planned);
        let mut now = None;
        for (nth, fault) in planned {
            match nth {
                0 | 1 => now = Some(fault),
                _ => _ = state.planned.insert(nth - 1, fault),
            }
        }
        match now? {
            Fault::Rejected(errno) => {
                let rejections = rejections(port, packets, errno);
                state
                    .answers
                    .extend(rejections.map(|answer| (port, answer)));
                Some(Ok(()))
            }
            Fault::Unsent(errno) => Some(Err(io::Error::from_raw_os_error(errno))),
            fault => {
                state.struck = Some((port, fault));
                None
            }
        }
    })
}

/// A datagram that the socket gets before those of the kernel.
pub fn waiting(port: u32) -> Option<Vec<u8>> {
    STATE.with_borrow_mut(|state| {
        let at = state.answers.iter().position(|(of, _)| *of == port)?;
        state.answers.remove(at).map(|(_, datagram)| datagram)
    })
}

/// What becomes of a datagram of the kernel; `None` if it disappears.
///
/// # Errors
///
/// Those of recv(2).
pub fn received(port: u32, datagram: &mut Vec<u8>) -> io::Result<Option<()>> {
    STATE.with_borrow_mut(|state| {
        let Some((_, fault)) = state.struck.take_if(|(of, _)| *of == port) else {
            return Ok(Some(()));
        };
        match fault {
            Fault::Lost(errno) => return Err(io::Error::from_raw_os_error(errno)),
            Fault::Missing => return Ok(None),
            Fault::Doubled => state.answers.push_back((port, datagram.clone())),
            Fault::Cut => _ = datagram.pop(),
            Fault::Interrupted => interrupt(datagram),
            Fault::Rejected(_) | Fault::Unsent(_) => {}
        }
        Ok(Some(()))
    })
}

/// Sets `NLM_F_DUMP_INTR` in the first message.
fn interrupt(datagram: &mut [u8]) {
    let [low, high] = NLM_F_DUMP_INTR.to_ne_bytes();
    if let Some([.., first, second]) = datagram.first_chunk_mut::<8>() {
        *first |= low;
        *second |= high;
    }
}

/// An `NLMSG_ERROR` for each message of a request. Those that enclose a transaction get none.
fn rejections(port: u32, packets: &[u8], errno: i32) -> impl Iterator<Item = Vec<u8>> {
    const LENGTH: u32 = 36;
    let messages = Messages::new(packets).filter_map(Result::ok);
    let rejected = messages
        .filter(|message| !matches!(message.kind, NFNL_MSG_BATCH_BEGIN | NFNL_MSG_BATCH_END));
    let answers = rejected.map(move |message| {
        let mut answer = LENGTH.to_ne_bytes().to_vec();
        answer.extend(NLMSG_ERROR.to_ne_bytes());
        answer.extend([0; 2]);
        answer.extend(message.sequence.to_ne_bytes());
        answer.extend(port.to_ne_bytes());
        answer.extend((-errno).to_ne_bytes());
        // The header of the rejected message.
        answer.extend(16_u32.to_ne_bytes());
        answer.extend(message.kind.to_ne_bytes());
        answer.extend(message.flags.to_ne_bytes());
        answer.extend(message.sequence.to_ne_bytes());
        answer.extend(message.port.to_ne_bytes());
        answer
    });
    answers.collect::<Vec<_>>().into_iter()
}
