//! Reads what an API server sends, without a connection: for benchmarks.

use bytes::Bytes;

use super::super::{Extent, Reading};
use super::encoding::Encoding;
use super::error::{EventError, Failure};
use super::follower::{Follower, Happened};
use super::kind::{EndpointSlices, Kind, Services};
use super::split::{Events, Page, Text};

/// About what one read from a connection brings.
const PIECE: usize = 16 << 10;

/// Decodes and converts answers as [`KubeSource`](super::KubeSource) does.
#[derive(Debug)]
pub struct Offline {
    encoding: Encoding,
    services: Follower<Services>,
    slices: Follower<EndpointSlices>,
}

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the answer of an API server")]
pub struct Unreadable(#[from] Failure);

impl Offline {
    /// A reader of this encoding that has read nothing.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            services: Follower::new(Services(Extent::Served)),
            slices: Follower::new(EndpointSlices(Extent::Served)),
        }
    }

    /// Reads the body of a list of Services.
    ///
    /// # Errors
    ///
    /// If it is not such a list.
    pub fn services(&mut self, body: &[u8]) -> Result<Reading, Unreadable> {
        Ok(list(self.encoding, &mut self.services, body)?)
    }

    /// Reads the body of a list of endpoint slices.
    ///
    /// # Errors
    ///
    /// If it is not such a list.
    pub fn endpoint_slices(&mut self, body: &[u8]) -> Result<Reading, Unreadable> {
        Ok(list(self.encoding, &mut self.slices, body)?)
    }

    /// Reads the body of a watch of endpoint slices, after their list. Bookmarks are skipped.
    ///
    /// # Errors
    ///
    /// If an event cannot be decoded, or is older than the list.
    pub fn endpoint_slice_events(&mut self, body: &[u8]) -> Result<Vec<Reading>, Unreadable> {
        let (encoding, mut events) = (self.encoding, Events::new(self.encoding));
        let mut readings = Vec::new();
        for piece in body.chunks(PIECE) {
            let mut piece = Bytes::copy_from_slice(piece);
            while let Some(reading) =
                events.next(&mut piece, |text| event(encoding, &mut self.slices, text))
            {
                readings.extend(reading?);
            }
        }
        Ok(readings)
    }
}

fn list<K: Kind>(
    encoding: Encoding,
    follower: &mut Follower<K>,
    body: &[u8],
) -> Result<Reading, Failure> {
    follower.begin_list();
    let mut page = Page::new(encoding);
    for piece in body.chunks(PIECE) {
        page.feed(piece, |object| Ok(follower.list_item(encoding, object)?))?;
    }
    Ok(follower.end_list(&page.end()?.resource_version))
}

fn event<K: Kind>(
    encoding: Encoding,
    follower: &mut Follower<K>,
    text: Text<'_>,
) -> Result<Option<Reading>, Failure> {
    let Text::Whole(text) = text else {
        return Ok(None);
    };
    let event = match encoding {
        Encoding::Json => super::encoding::Event::of_plain_line(text),
        Encoding::Protobuf => None,
    };
    let event = event.map_or_else(|| encoding.event(text), Ok)?;
    let happened = match event.kind {
        "ADDED" | "MODIFIED" => Happened::Applied,
        "DELETED" => Happened::Deleted,
        _ => return Ok(None),
    };
    let reading: Result<_, EventError> = follower.event(happened, encoding, event.object);
    Ok(Some(reading?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Change;

    const LIST: &[u8] = br#"{"metadata":{"resourceVersion":"5"},"items":[{"metadata":{
        "name":"web-1","namespace":"default","resourceVersion":"4",
        "labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","endpoints":[]}]}"#;

    #[test]
    fn a_list_and_an_event_become_changes() {
        let mut offline = Offline::new(Encoding::Json);
        let reading = offline.endpoint_slices(LIST).unwrap();
        let [Change::EndpointSlicesReplaced(slices)] = &reading.changes[..] else {
            panic!("{reading:?}");
        };
        assert_eq!(slices.len(), 1);
        let event = br#"{"type":"DELETED","object":{"metadata":{"name":"web-1","namespace":"default","resourceVersion":"6"}}}"#;
        let readings = offline.endpoint_slice_events(&[event, &b"\n"[..]].concat());
        let readings = readings.unwrap();
        assert!(
            matches!(&readings[0].changes[..], [Change::EndpointSliceDeleted(_)]),
            "{readings:?}"
        );
        assert!(offline.services(b"[]").is_err());
    }
}
