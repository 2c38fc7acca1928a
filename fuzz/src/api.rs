//! What a server sends, in pieces.

use proxier::source::Reading;
use proxier::source::kube::Encoding;
use proxier::source::kube::fuzzing::{Kind, client};
use proxier::store::Change;

use crate::check;

/// A list and a watch of one kind, as a server sends them.
#[derive(Debug)]
struct Sent<'a> {
    kind: Kind,
    /// Whether the list comes as the beginning of the watch.
    is_streamed: bool,
    list: &'a [u8],
    watch: &'a [u8],
}

impl<'a> Sent<'a> {
    /// From the fuzzer's bytes: the kind, whether the list is streamed, the length of the list.
    /// Returns also the lengths of the pieces.
    fn parse(data: &'a [u8]) -> Option<(Self, [usize; 3])> {
        let ([what, pieces @ .., high, low], rest) = data.split_first_chunk::<6>()?;
        let kind = match what % 4 {
            0 => Kind::Services,
            1 => Kind::EndpointSlices,
            2 => Kind::Node,
            _ => Kind::ServiceCidrs,
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (list, watch) = rest.split_at(length.min(rest.len()));
        let sent = Self {
            kind,
            is_streamed: what & 4 != 0,
            list,
            watch,
        };
        Some((sent, pieces.map(|piece| usize::from(piece) + 1)))
    }

    /// What the client makes of it if it comes in pieces of these lengths.
    fn result(&self, encoding: Encoding, pieces: &[usize]) -> (Vec<Reading>, Vec<String>) {
        client(encoding, |client| {
            let mut errors = Vec::new();
            if !self.is_streamed {
                let list = client.list(self.kind, split(self.list, pieces));
                errors.extend(list.err());
            }
            let watch = client.watch(self.kind, split(self.watch, pieces), self.is_streamed);
            errors.extend(watch.err());
            (client.take(), errors)
        })
    }
}

/// Splits what is sent into pieces of these lengths, in turns.
fn split<'a>(mut rest: &'a [u8], lengths: &[usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = lengths.next().map_or(rest.len(), |length| *length);
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The changes without an order among the objects of a list.
fn normalised(readings: &[Reading]) -> Vec<Vec<String>> {
    fn list<T: std::fmt::Debug>(kind: &str, objects: &[T]) -> Vec<String> {
        let objects = objects.iter().map(|object| format!("{kind} {object:?}"));
        objects.chain([format!("all {kind}s")]).collect()
    }
    let of = |reading: &Reading| {
        let changes = reading.changes.iter().flat_map(|change| match change {
            Change::ServicesReplaced(all) => list("Service", all),
            Change::EndpointSlicesReplaced(all) => list("EndpointSlice", all),
            other => vec![format!("{other:?}")],
        });
        let diagnostics = reading.diagnostics.iter().map(ToString::to_string);
        let causes = reading.causes.iter().map(|cause| format!("{cause:?}"));
        let mut all: Vec<_> = changes.chain(diagnostics).chain(causes).collect();
        all.sort_unstable();
        all
    };
    readings.iter().map(of).collect()
}

/// A list and a watch in an encoding: no panic, what is printed is safe to print, and it makes no
/// difference in which pieces they arrive.
pub fn fuzz(encoding: Encoding, data: &[u8]) {
    let Some((sent, lengths)) = Sent::parse(data) else {
        return;
    };
    let (whole, errors) = sent.result(encoding, &[]);
    for reading in &whole {
        for diagnostic in &reading.diagnostics {
            check(&diagnostic.to_string());
        }
    }
    errors.iter().for_each(|error| check(error));
    let (pieces, other_errors) = sent.result(encoding, &lengths);
    assert_eq!(normalised(&whole), normalised(&pieces));
    assert_eq!(errors, other_errors);
}
