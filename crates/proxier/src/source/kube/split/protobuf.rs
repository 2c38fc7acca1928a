//! Splits Protocol Buffers that arrive in pieces.

use std::mem;

use super::super::error::Failure;
use super::super::message::{self, Head, MAGIC, Malformed};
use super::{LONGEST_ENVELOPE, LONGEST_OBJECT, LONGEST_OUTLINE, Text};

/// A message of known length that is arriving.
#[derive(Debug)]
struct Arriving {
    missing: usize,
    is_too_long: bool,
    /// What has arrived in earlier pieces; of a message that is too long, only its beginning.
    text: Vec<u8>,
}

impl Arriving {
    fn new(length: usize) -> Self {
        Self {
            missing: length,
            is_too_long: length > LONGEST_OBJECT,
            text: Vec::new(),
        }
    }

    /// Removes its part from the front of a piece. Returns the message if it is complete.
    fn next<'a, 'p: 'a>(&'a mut self, piece: &mut &'p [u8]) -> Option<Text<'a>> {
        let part = split(piece, self.missing);
        self.missing -= part.len();
        let is_complete = self.missing == 0;
        if self.is_too_long {
            let room = LONGEST_OUTLINE.saturating_sub(self.text.len());
            self.text.extend(part.iter().take(room));
            return is_complete.then_some(Text::TooLong(&self.text));
        }
        // Most messages arrive in one piece, and are not copied.
        if is_complete && self.text.is_empty() {
            return Some(Text::Whole(part));
        }
        self.text.extend_from_slice(part);
        is_complete.then_some(Text::Whole(&self.text))
    }
}

/// Removes up to this number of bytes from the front of a piece.
fn split<'a>(piece: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (part, rest) = piece.split_at_checked(length).unwrap_or((piece, &[]));
    *piece = rest;
    part
}

/// The frames of a watch: a length of 4 bytes, the highest first, and a message (k8s.io/apimachinery
/// `pkg/util/framer`).
#[derive(Debug, Default)]
pub(in super::super) struct Frames {
    /// The part of the next length that has arrived.
    length: Vec<u8>,
    /// The last message.
    message: Option<Arriving>,
}

impl Frames {
    /// Removes its part from the front of a piece. Returns the next message if it is complete.
    pub(super) fn next<'a, 'p: 'a>(&'a mut self, piece: &mut &'p [u8]) -> Option<Text<'a>> {
        self.message.take_if(|message| message.missing == 0);
        if self.message.is_none() {
            let missing = size_of::<u32>() - self.length.len();
            self.length.extend_from_slice(split(piece, missing));
            let length = u32::from_be_bytes(self.length.as_slice().try_into().ok()?);
            self.length.clear();
            self.message = Some(Arriving::new(usize::try_from(length).unwrap_or(usize::MAX)));
        }
        self.message.as_mut()?.next(piece)
    }
}

/// A page of a list that is arriving: [`MAGIC`], then a `runtime.Unknown` whose field 2 is the list.
/// A list has its metadata in field 1, and its objects in field 2.
#[derive(Debug, Default)]
pub(in super::super) struct Page {
    part: Part,
    /// What has arrived of [`MAGIC`], or of the head of a field.
    head: Vec<u8>,
    list: List,
    /// The list without its objects.
    envelope: Vec<u8>,
}

/// What arrives next.
#[derive(Debug, Default)]
enum Part {
    #[default]
    Magic,
    Head,
    /// The rest of a field that is not read.
    Skipped(usize),
    /// The rest of a field of the list that is kept.
    Kept(usize),
    Object(Arriving),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum List {
    #[default]
    Before,
    /// The number of bytes of the list after the current field.
    Within(usize),
    After,
}

impl Page {
    /// As [`super::Page::feed`].
    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        mut take: impl FnMut(Text<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut rest = piece;
        loop {
            let is_complete = match &mut self.part {
                Part::Magic => {
                    let missing = MAGIC.len() - self.head.len();
                    self.head.extend_from_slice(split(&mut rest, missing));
                    let is_complete = self.head.len() == MAGIC.len();
                    if is_complete {
                        message::unknown(&mem::take(&mut self.head))?;
                    }
                    is_complete
                }
                Part::Head => {
                    let Some((byte, after)) = rest.split_first() else {
                        return Ok(());
                    };
                    rest = after;
                    self.head.push(*byte);
                    if let Some(head) = message::head(&self.head)? {
                        self.part = self.begin(head)?;
                        self.head.clear();
                    }
                    continue;
                }
                Part::Skipped(missing) => {
                    *missing -= split(&mut rest, *missing).len();
                    *missing == 0
                }
                Part::Kept(missing) => {
                    let part = split(&mut rest, *missing);
                    *missing -= part.len();
                    self.envelope.extend_from_slice(part);
                    *missing == 0
                }
                Part::Object(object) => match object.next(&mut rest) {
                    Some(text) => {
                        take(text)?;
                        true
                    }
                    None => false,
                },
            };
            if !is_complete {
                return Ok(());
            }
            self.part = Part::Head;
            if self.list == List::Within(0) {
                self.list = List::After;
            }
        }
    }

    /// What follows the head of a field.
    fn begin(&mut self, head: Head) -> Result<Part, Failure> {
        let List::Within(left) = &mut self.list else {
            if !head.has_content || head.number != 2 {
                return Ok(Part::Skipped(head.length));
            }
            if self.list == List::After {
                return Err(Malformed("a page has two lists").into());
            }
            self.list = List::Within(head.length);
            // Nothing to skip: the fields of the list follow.
            return Ok(Part::Skipped(0));
        };
        let field = head.length.checked_add(head.size);
        let after = field.and_then(|field| left.checked_sub(field));
        *left = after.ok_or(Malformed("a field is longer than its message"))?;
        Ok(match head.number {
            1 if head.has_content => {
                if self.envelope.len().saturating_add(head.length) > LONGEST_ENVELOPE {
                    return Err(Failure::TooLong("the list's metadata", LONGEST_ENVELOPE));
                }
                self.envelope.extend_from_slice(&self.head);
                Part::Kept(head.length)
            }
            2 if head.has_content => Part::Object(Arriving::new(head.length)),
            _ => Part::Skipped(head.length),
        })
    }

    /// The list without its objects.
    ///
    /// # Errors
    ///
    /// If the page is not complete.
    pub(super) fn envelope(&self) -> Result<&[u8], Malformed> {
        let is_complete = matches!(self.part, Part::Head) && self.head.is_empty();
        if is_complete && self.list == List::After {
            Ok(&self.envelope)
        } else {
            Err(Malformed("a page was cut off"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    /// A list of any kind.
    #[derive(Clone, PartialEq, Message)]
    struct AnyList {
        #[prost(string, optional, tag = "1")]
        metadata: Option<String>,
        #[prost(bytes = "vec", repeated, tag = "2")]
        items: Vec<Vec<u8>>,
        #[prost(int64, tag = "3")]
        other: i64,
        #[prost(double, tag = "4")]
        another: f64,
    }

    #[derive(Message)]
    struct Unknown {
        #[prost(string, tag = "1")]
        type_meta: String,
        #[prost(bytes = "vec", optional, tag = "2")]
        raw: Option<Vec<u8>>,
        #[prost(string, tag = "4")]
        content_type: String,
    }

    fn page(list: &AnyList) -> Vec<u8> {
        let unknown = Unknown {
            type_meta: "List".to_owned(),
            raw: Some(list.encode_to_vec()),
            content_type: String::new(),
        };
        [&MAGIC[..], &unknown.encode_to_vec()].concat()
    }

    /// The objects of a page that arrives in pieces of this size, and the rest of it.
    fn read(bytes: &[u8], piece: usize) -> Result<AnyList, Failure> {
        let (mut page, mut items) = (Page::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            page.feed(piece, |text| {
                let (Text::Whole(text) | Text::TooLong(text)) = text;
                items.push(text.to_vec());
                Ok(())
            })?;
        }
        let envelope = AnyList::decode(page.envelope()?);
        let metadata = envelope.map(|list| list.metadata);
        Ok(AnyList {
            metadata: metadata.unwrap_or_default(),
            items,
            ..AnyList::default()
        })
    }

    fn any_list() -> impl Strategy<Value = AnyList> {
        let item = prop::collection::vec(any::<u8>(), 0..200);
        let items = prop::collection::vec(item, 0..5);
        let metadata = prop::option::of("[a-z]{0,200}");
        (metadata, items).prop_map(|(metadata, items)| AnyList {
            metadata,
            items,
            ..AnyList::default()
        })
    }

    proptest! {
        #[test]
        fn pages_split_as_a_decoder_reads_them(
            list in any_list(), other: i64, another: f64, piece in 1_usize..50,
        ) {
            let sent = AnyList { other, another, ..list.clone() };
            prop_assert_eq!(read(&page(&sent), piece).unwrap(), list);
        }

        #[test]
        fn a_page_that_is_cut_off_is_an_error(list in any_list(), cut: prop::sample::Index) {
            let page = page(&list);
            prop_assert!(read(&page[..cut.index(page.len())], 7).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>, piece in 1_usize..50) {
            let _ = read(&bytes, piece);
            let _ = read(&[&MAGIC[..], &bytes].concat(), piece);
            let mut frames = Frames::default();
            for piece in bytes.chunks(piece) {
                let mut rest = piece;
                while frames.next(&mut rest).is_some() {}
                prop_assert!(rest.is_empty());
            }
        }

        #[test]
        fn frames_are_whole_however_they_arrive(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5),
            piece in 1_usize..50,
        ) {
            let frame = |frame: &Vec<u8>| {
                let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
                [&length[..], frame].concat()
            };
            let bytes: Vec<_> = sent.iter().flat_map(frame).collect();
            let (mut frames, mut read) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(piece) {
                let mut rest = piece;
                while let Some(Text::Whole(frame)) = frames.next(&mut rest) {
                    read.push(frame.to_vec());
                }
            }
            prop_assert_eq!(read, sent);
        }
    }

    #[test]
    fn an_object_that_is_too_long_is_not_kept_and_the_others_are_whole() {
        let long = vec![7; LONGEST_OBJECT + 1];
        let items = vec![vec![1], long, vec![2]];
        let sent = AnyList {
            metadata: Some("x".to_owned()),
            items,
            ..AnyList::default()
        };
        let read = read(&page(&sent), 16 << 10).unwrap();
        let expected = [vec![1], vec![7; LONGEST_OUTLINE], vec![2]];
        assert!(read.items == expected);
    }

    #[test]
    fn an_object_as_long_as_the_limit_is_whole() {
        let items = vec![vec![7; LONGEST_OBJECT]];
        let sent = AnyList {
            metadata: None,
            items,
            ..AnyList::default()
        };
        assert!(read(&page(&sent), 16 << 10).unwrap() == sent);
    }

    #[test]
    fn a_page_with_endless_metadata_is_not_kept() {
        let sent = AnyList {
            metadata: Some("x".repeat(LONGEST_ENVELOPE + 1)),
            ..AnyList::default()
        };
        let result = read(&page(&sent), 16 << 10);
        assert!(matches!(result, Err(Failure::TooLong(..))), "{result:?}");
    }
}
