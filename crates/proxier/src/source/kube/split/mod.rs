//! Splits what arrives in pieces into objects, with bounded memory. Pure.
//!
//! A page of a list may be as long as the list: a server may ignore `limit`, and does so for a list
//! from its watch cache. So a page is never kept as a whole: its objects are passed on as they
//! arrive.

mod json;
mod protobuf;

use bytes::Bytes;
use memchr::memchr;

use super::encoding::{DecodeError, Encoding, ListMetadata};
use super::error::Failure;

/// Maximum size of an object. etcd accepts 1.5 MiB per object unless it is told otherwise, and JSON
/// needs up to three times the space of the API server's own encoding.
pub(super) const LONGEST_OBJECT: usize = 8 << 20;
/// Maximum size of a page without its objects.
const LONGEST_ENVELOPE: usize = 1 << 20;
/// Maximum size of what is kept of an object that is too long.
const LONGEST_OUTLINE: usize = 64 << 10;

/// One object, or one event of a watch, as it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Text<'a> {
    Whole(&'a [u8]),
    /// Longer than [`LONGEST_OBJECT`]: of JSON its outline, of Protocol Buffers its beginning.
    TooLong(&'a [u8]),
}

/// A page of a list that is arriving.
#[derive(Debug)]
pub(super) enum Page {
    Json(json::Page),
    Protobuf(protobuf::Page),
}

impl Page {
    pub(super) fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json(json::Page::default()),
            Encoding::Protobuf => Self::Protobuf(protobuf::Page::default()),
        }
    }

    /// Processes the next piece, and passes the objects that end in it to `take`.
    ///
    /// # Errors
    ///
    /// The errors of `take`, [`Failure::TooLong`] if the page without its objects is too long, and
    /// [`Failure::Garbled`] if it is not a page.
    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        take: impl FnMut(Text<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match self {
            Self::Json(page) => page.feed(piece, take),
            Self::Protobuf(page) => page.feed(piece, take),
        }
    }

    /// The metadata of the page, which is complete.
    pub(super) fn end(&self) -> Result<ListMetadata, DecodeError> {
        match self {
            Self::Json(page) => ListMetadata::of_list(Encoding::Json, page.envelope()),
            Self::Protobuf(page) => ListMetadata::of_list(Encoding::Protobuf, page.envelope()?),
        }
    }
}

/// The events of a watch, which are arriving.
#[derive(Debug)]
pub(super) enum Events {
    /// One per line.
    Json(json::Object),
    /// Each after its length.
    Protobuf(protobuf::Frames),
}

impl Events {
    pub(super) fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json(json::Object::default()),
            Encoding::Protobuf => Self::Protobuf(protobuf::Frames::default()),
        }
    }

    /// Removes the rest of the next event from the front of a piece, and passes the event to `take`.
    /// `None` if it does not end in the piece, which is empty then.
    pub(super) fn next<T>(
        &mut self,
        piece: &mut Bytes,
        take: impl FnOnce(Text<'_>) -> T,
    ) -> Option<T> {
        match self {
            Self::Json(line) => match memchr(b'\n', piece) {
                Some(end) => Some(line.end(&piece.split_to(end + 1), take)),
                None => {
                    line.feed(piece);
                    piece.clear();
                    None
                }
            },
            Self::Protobuf(frames) => {
                let whole = std::mem::take(piece);
                let mut rest = &whole[..];
                let frame = frames.next(&mut rest);
                *piece = whole.slice_ref(rest);
                frame.map(take)
            }
        }
    }
}
