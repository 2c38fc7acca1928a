//! Answers as they arrive.

use std::io::{self, Write as _};
use std::mem;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::write::GzDecoder;
use http::header;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::client::{ApiClient, Ask};
use super::encoding::Encoding;
use super::error::{Failure, Status};
use super::progress::Progress;
use super::split::{Events, Text};

/// Maximum size of an answer that is neither a list nor a watch.
const LONGEST_STATUS: usize = 64 << 10;

/// Number of compressed bytes that are decompressed at a time: gzip expands them by 1,032 at most.
const PACKED_PART: usize = 4 << 10;

/// Decompresses an answer as it arrives.
#[derive(Debug)]
struct Unpacking {
    decoder: GzDecoder<Vec<u8>>,
    /// Data that have arrived and are not decompressed yet.
    packed: Bytes,
}

impl Default for Unpacking {
    fn default() -> Self {
        Self {
            decoder: GzDecoder::new(Vec::new()),
            packed: Bytes::new(),
        }
    }
}

impl Unpacking {
    /// The next piece; none if more data must arrive.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.packed.is_empty() {
            let part = self.packed.split_to(self.packed.len().min(PACKED_PART));
            self.decoder.write_all(&part)?;
            self.decoder.flush()?;
            let piece = mem::take(self.decoder.get_mut());
            if !piece.is_empty() {
                return Ok(Some(piece.into()));
            }
        }
        Ok(None)
    }

    /// Checks that the data were complete.
    fn end(&mut self) -> io::Result<()> {
        self.decoder.try_finish()
    }
}

/// An answer that is arriving.
pub(super) struct Answer {
    /// The encoding, as the server names it.
    pub(super) encoding: Encoding,
    body: Incoming,
    /// Some if the data are compressed.
    unpacking: Option<Unpacking>,
    /// Data that has arrived and is not processed yet.
    piece: Bytes,
    /// The event whose end has not arrived.
    events: Events,
}

impl Answer {
    /// Sends a request, and waits for the answer to begin.
    pub(super) async fn to(
        ask: Ask,
        client: &ApiClient,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let answer = tokio::time::timeout(patience, client.send(ask)).await;
        let answer = answer.map_err(|_| Failure::NoAnswer {
            server: client.server(),
            time: patience,
        })??;
        let (head, body) = answer.into_parts();
        let packing = head.headers.get(header::CONTENT_ENCODING);
        let is_gzip = packing.is_some_and(|packing| packing.as_bytes() == b"gzip");
        let encoding = Encoding::of(head.headers.get(header::CONTENT_TYPE));
        let answer = Self {
            encoding,
            body,
            unpacking: is_gzip.then(Unpacking::default),
            piece: Bytes::new(),
            events: Events::new(encoding),
        };
        if head.status.is_success() {
            return Ok(answer);
        }
        let retry_after = head.headers.get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let text = answer.short(patience).await?;
        // A proxy or load balancer in front of the server may answer in another format.
        let status = encoding.answer::<Status>(&text).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&text);
            Status {
                message: text.lines().next().unwrap_or_default().to_owned(),
                ..Status::default()
            }
        });
        let status = Status {
            code: head.status.as_u16().into(),
            ..status
        };
        Err(Failure::of(status, retry_after.map(Duration::from_secs)))
    }

    /// The whole of a short answer, or the beginning of a long one.
    pub(super) async fn short(mut self, patience: Duration) -> Result<Vec<u8>, Failure> {
        let mut progress = Progress::within(patience, Instant::now());
        let mut text = Vec::new();
        while let Some(piece) = self.piece(&mut progress).await? {
            text.extend_from_slice(&piece);
            if text.len() > LONGEST_STATUS {
                text.truncate(LONGEST_STATUS);
                break;
            }
        }
        Ok(text)
    }

    /// Processes the next event of a watch; none at the end. An incomplete last event is ignored.
    pub(super) async fn event<T>(
        &mut self,
        progress: &mut Progress,
        mut take: impl FnMut(Text<'_>) -> T,
    ) -> Result<Option<T>, Failure> {
        loop {
            if let Some(taken) = self.events.next(&mut self.piece, &mut take) {
                return Ok(Some(taken));
            }
            match self.piece(progress).await? {
                Some(piece) => self.piece = piece,
                None => return Ok(None),
            }
        }
    }

    /// The next piece of data; empty at the end.
    pub(super) async fn piece(
        &mut self,
        progress: &mut Progress,
    ) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(unpacking) = &mut self.unpacking
                && let Some(piece) = unpacking.next().map_err(Failure::Packed)?
            {
                progress.arrived(piece.len(), Instant::now())?;
                return Ok(Some(piece));
            }
            let look = progress.next_look().into();
            let frame = tokio::time::timeout_at(look, self.body.frame()).await;
            let frame = match frame {
                Err(_) => {
                    progress.look(Instant::now())?;
                    continue;
                }
                Ok(None) => {
                    let ended = self.unpacking.as_mut().map(Unpacking::end).transpose();
                    ended.map_err(Failure::Packed)?;
                    return Ok(None);
                }
                Ok(Some(frame)) => frame.map_err(Failure::Cut)?,
            };
            match (frame.into_data(), &mut self.unpacking) {
                (Ok(piece), Some(unpacking)) => unpacking.packed = piece,
                (Ok(piece), None) => {
                    progress.arrived(piece.len(), Instant::now())?;
                    return Ok(Some(piece));
                }
                // Trailers.
                (Err(_), _) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// Feeds compressed data in pieces. Returns the whole text, and the longest piece of it.
    fn unpack(packed: &[u8], pieces: usize) -> io::Result<(Vec<u8>, usize)> {
        let (mut unpacking, mut text, mut longest) = (Unpacking::default(), Vec::new(), 0);
        for piece in packed.chunks(pieces) {
            unpacking.packed = Bytes::copy_from_slice(piece);
            while let Some(piece) = unpacking.next()? {
                longest = longest.max(piece.len());
                text.extend_from_slice(&piece);
            }
        }
        unpacking.end()?;
        Ok((text, longest))
    }

    #[test]
    fn compressed_answers_are_read_in_bounded_pieces() {
        let pack = |text: &[u8]| {
            let mut packer = GzEncoder::new(Vec::new(), Compression::best());
            packer.write_all(text).unwrap();
            packer.finish().unwrap()
        };
        let text: Vec<_> = (0..100_000_u32)
            .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
            .collect();
        let packed = pack(&text);
        for pieces in [1, 1_000, packed.len()] {
            assert_eq!(unpack(&packed, pieces).unwrap().0, text);
        }
        // Highly compressible data do not arrive all at once.
        let zeros = pack(&vec![0; 64 << 20]);
        let (all, longest) = unpack(&zeros, zeros.len()).unwrap();
        assert_eq!(all.len(), 64 << 20);
        assert!(longest <= 5 << 20, "{longest}");
        // Cut off, wrong, and wrong at the end.
        assert!(unpack(&packed[..packed.len() - 1], 1_000).is_err());
        assert!(unpack(b"{\"items\": []}", 1_000).is_err());
        let mut damaged = packed;
        *damaged.last_mut().unwrap() ^= 1;
        assert!(unpack(&damaged, 1_000).is_err());
    }
}
