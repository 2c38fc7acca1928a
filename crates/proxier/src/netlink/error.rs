//! Errors of netlink exchanges.

use std::fmt;
use std::io;

/// How deep attributes may be nested for an error to name all of them. Deeper ones are left out.
const DEPTH: usize = 6;

/// A netlink exchange that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The kernel, or the socket, reported an errno.
    #[error(transparent)]
    Kernel(#[from] io::Error),
    /// The kernel sent something that does not follow netlink's format.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A datagram was longer than the receive buffer, so its rest is lost.
    #[error("netlink datagram of {length} bytes is longer than the receive buffer")]
    Truncated {
        /// Its length in bytes.
        length: usize,
    },
    /// Nothing is left to receive, and the reply is not complete: a list without `NLMSG_DONE`, a
    /// request without its acknowledgement.
    #[error("netlink reply ended before {awaited}")]
    Unfinished {
        /// What was still to come.
        awaited: &'static str,
    },
    /// The kernel marked each of several lists as inconsistent (`NLM_F_DUMP_INTR`).
    #[error("the kernel's list changed while it was read, {attempts} times in a row")]
    Changing {
        /// How often it was read.
        attempts: u32,
    },
}

impl From<Error> for io::Error {
    /// Keeps an errno as it is; any other error can be had back from [`io::Error::get_ref`].
    fn from(error: Error) -> Self {
        match error {
            Error::Kernel(error) => error,
            Error::Changing { .. } => Self::new(io::ErrorKind::ResourceBusy, error),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// What is malformed in a datagram from the kernel, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message: {flaw} {place}")]
pub(crate) struct Malformed {
    pub(crate) place: Place,
    pub(crate) flaw: Flaw,
}

/// What is wrong with a message or an attribute. Lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("{left} bytes where a message header takes 16")]
    MessageHeader { left: usize },
    #[error("message length {length} is less than its header")]
    MessageTooShort { length: usize },
    #[error("message length {length}, and {left} bytes left")]
    MessageTooLong { length: usize, left: usize },
    #[error("payload of {length} bytes where at least {needed} are needed")]
    Payload { length: usize, needed: usize },
    #[error("{left} bytes where an attribute header takes 4")]
    AttributeHeader { left: usize },
    #[error("attribute length {length} is less than its header")]
    AttributeTooShort { length: usize },
    #[error("attribute length {length}, and {left} bytes left")]
    AttributeTooLong { length: usize, left: usize },
    #[error("value of {length} bytes where {expected} are expected")]
    Value { length: usize, expected: usize },
    #[error("attribute {kind} is missing")]
    Missing { kind: u16 },
}

/// A place in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// `nlmsg_type`; `None` if the header was not whole.
    pub(crate) message_type: Option<u16>,
    /// In bytes from the beginning of the datagram.
    pub(crate) offset: usize,
    path: [u16; DEPTH],
    depth: usize,
}

impl Place {
    pub(super) const fn message(message_type: Option<u16>, offset: usize) -> Self {
        Self {
            message_type,
            offset,
            path: [0; DEPTH],
            depth: 0,
        }
    }

    pub(super) const fn at(self, offset: usize) -> Self {
        Self { offset, ..self }
    }

    /// The place within an attribute.
    pub(super) fn within(mut self, kind: u16) -> Self {
        if let Some(place) = self.path.get_mut(self.depth) {
            *place = kind;
            self.depth += 1;
        }
        self
    }

    /// The kinds of the attributes that lead there, from the outermost.
    pub(crate) fn path(&self) -> &[u16] {
        self.path.get(..self.depth).unwrap_or_default()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}", self.offset)?;
        if let Some(kind) = self.message_type {
            write!(f, " (message type {kind:#06x}")?;
            for (index, kind) in self.path().iter().enumerate() {
                let separator = if index == 0 { ", attribute " } else { "/" };
                write!(f, "{separator}{kind}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// The same error once more, for another step that failed by it.
pub(crate) fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
