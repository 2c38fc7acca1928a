//! Failures of lists and watches.

use std::io;
use std::time::Duration;

use prost::Message;
use serde::Deserialize;

use super::access::AccessError;
use super::encoding::DecodeError;
use super::message::Malformed;
use crate::escaped::Escaped;

/// Why a list or a watch has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("cannot reach the API server {server}: {problem}")]
    Unreachable { server: String, problem: String },
    #[error("cannot ask for {0:?}, which is not a URL")]
    NotAUrl(String),
    /// An answer with an error status, or an error object within an answer.
    #[error("the API server answers: {code} {}", Escaped(message))]
    Refused {
        code: u16,
        message: String,
        /// How long to wait before a retry, as requested by the server.
        retry_after: Option<Duration>,
    },
    #[error("the API server {server} has not answered within {} s", time.as_secs_f32())]
    NoAnswer { server: String, time: Duration },
    #[error("the API server sent nothing for {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("the API server sent only {bytes} bytes in {} s", .time.as_secs_f32())]
    Slow { bytes: usize, time: Duration },
    #[error("{_0} is longer than {_1} bytes")]
    TooLong(&'static str, usize),
    #[error("the answer was cut off")]
    Cut(#[source] hyper::Error),
    #[error("the answer is not compressed as its header says")]
    Packed(#[source] io::Error),
    #[error("the answer does not have the format of the API")]
    Garbled(#[from] DecodeError),
    #[error(transparent)]
    Event(#[from] EventError),
    #[error("the watch ended before the initial list was complete")]
    Unfinished,
    #[error("the watch ended as soon as it had begun")]
    Short,
}

/// Why an event cannot be applied. A new list is necessary.
#[derive(Debug, thiserror::Error)]
pub(super) enum EventError {
    #[error("an event contains no object with a name")]
    NotAnObject(#[source] DecodeError),
    /// The object is unknown, and the event is older than others, so the object may have been
    /// deleted in the meantime.
    #[error("events came out of order")]
    OutOfOrder,
}

/// An error that a server sends instead of objects.
#[derive(Deserialize, Message)]
#[serde(default)]
pub(super) struct Status {
    #[prost(string, tag = "3")]
    pub(super) message: String,
    #[prost(message, optional, tag = "5")]
    pub(super) details: Option<StatusDetails>,
    #[prost(int32, tag = "6")]
    pub(super) code: i32,
}

#[derive(Deserialize, Message)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StatusDetails {
    #[prost(int32, tag = "5")]
    pub(super) retry_after_seconds: i32,
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Garbled(malformed.into())
    }
}

impl Failure {
    /// Whether the server cannot answer in Protocol Buffers, or its answer cannot be decoded.
    pub(super) fn is_of_encoding(&self) -> bool {
        matches!(
            self,
            Self::Refused { code: 406, .. }
                | Self::Garbled(_)
                | Self::Event(EventError::NotAnObject(_))
        )
    }

    /// Whether a server that is away or starts up fails like this. A load balancer before it
    /// answers 502 or 503.
    pub(super) fn is_of_starting_server(&self, was_unreachable: bool) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => was_unreachable && matches!(code, 403 | 429 | 502 | 503),
            _ => false,
        }
    }

    /// The failure for an error that the server sends instead of objects.
    pub(super) fn of(status: Status, retry_after: Option<Duration>) -> Self {
        let asked = status
            .details
            .map_or(0, |details| details.retry_after_seconds);
        let asked = u64::try_from(asked).ok().filter(|asked| *asked > 0);
        let asked = asked.map(Duration::from_secs);
        Self::Refused {
            code: u16::try_from(status.code).unwrap_or_default(),
            message: status.message,
            retry_after: retry_after.or(asked),
        }
    }
}
