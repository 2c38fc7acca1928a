//! Errors of netlink exchanges.

use std::fmt;
use std::io;

/// Maximum depth of attributes in an error. Deeper ones are left out.
const DEPTH: usize = 6;

/// A netlink exchange that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel, or the socket, reported an errno.
    #[error(transparent)]
    Kernel(#[from] io::Error),
    /// The kernel sent something that does not follow netlink's format.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A datagram was longer than the receive buffer, so its rest is lost.
    #[error("netlink datagram of {length} bytes is longer than the receive buffer")]
    Truncated {
        /// The length in bytes.
        length: usize,
    },
    /// The reply ended before it was complete: a list without `NLMSG_DONE`, or a request without
    /// its acknowledgement.
    #[error("netlink reply ended before {awaited}")]
    Unfinished {
        /// What was missing.
        awaited: &'static str,
    },
    /// The kernel marked every one of several lists as inconsistent (`NLM_F_DUMP_INTR`).
    #[error("the kernel's list changed while it was read, {attempts} times in a row")]
    Changing {
        /// The number of attempts.
        attempts: u32,
    },
}

impl From<Error> for io::Error {
    /// Keeps an errno; [`io::Error::get_ref`] returns any other error.
    fn from(error: Error) -> Self {
        match error {
            Error::Kernel(error) => error,
            Error::Changing { .. } => Self::new(io::ErrorKind::ResourceBusy, error),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// A malformed part of a datagram from the kernel, with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message: {flaw} {place}")]
pub struct Malformed {
    /// The place.
    pub place: Place,
    /// The problem.
    pub flaw: Flaw,
}

/// The problem of a message or attribute. Lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Too little for a header.
    #[error("{left} bytes where a message header takes 16")]
    MessageHeader {
        /// What is left of the datagram.
        left: usize,
    },
    /// A length that is less than the header.
    #[error("message length {length} is less than its header")]
    MessageTooShort {
        /// `nlmsg_len`.
        length: usize,
    },
    /// A length beyond the end of the datagram.
    #[error("message length {length}, and {left} bytes left")]
    MessageTooLong {
        /// `nlmsg_len`.
        length: usize,
        /// What is left of the datagram.
        left: usize,
    },
    /// Too little after the header.
    #[error("payload of {length} bytes where at least {needed} are needed")]
    Payload {
        /// What is there.
        length: usize,
        /// What is needed.
        needed: usize,
    },
    /// Too little for a header.
    #[error("{left} bytes where an attribute header takes 4")]
    AttributeHeader {
        /// What is left of the enclosing attribute or message.
        left: usize,
    },
    /// A length that is less than the header.
    #[error("attribute length {length} is less than its header")]
    AttributeTooShort {
        /// `nla_len`.
        length: usize,
    },
    /// A length beyond the end of the enclosing attribute or message.
    #[error("attribute length {length}, and {left} bytes left")]
    AttributeTooLong {
        /// `nla_len`.
        length: usize,
        /// What is left of it.
        left: usize,
    },
    /// A value of another length.
    #[error("value of {length} bytes where {expected} are expected")]
    Value {
        /// What is there.
        length: usize,
        /// What is expected.
        expected: usize,
    },
    /// A mandatory attribute is missing.
    #[error("attribute {kind} is missing")]
    Missing {
        /// `nla_type`.
        kind: u16,
    },
}

/// A place in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// `nlmsg_type`; `None` if the header was incomplete.
    pub message_type: Option<u16>,
    /// Offset in bytes from the beginning of the datagram.
    pub offset: usize,
    path: [u16; DEPTH],
    depth: usize,
}

impl Place {
    pub(crate) const fn message(message_type: Option<u16>, offset: usize) -> Self {
        Self {
            message_type,
            offset,
            path: [0; DEPTH],
            depth: 0,
        }
    }

    pub(crate) const fn at(self, offset: usize) -> Self {
        Self { offset, ..self }
    }

    /// The place within an attribute.
    pub(crate) fn within(mut self, kind: u16) -> Self {
        if let Some(place) = self.path.get_mut(self.depth) {
            *place = kind;
            self.depth += 1;
        }
        self
    }

    /// The kinds of the enclosing attributes, from the outermost.
    pub fn path(&self) -> &[u16] {
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

/// A copy of an error, for another step that failed with it.
pub fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
