//! The structure of Protocol Buffers messages, without their schema. Pure.
//!
//! What wraps the API's objects is read field by field, so that an object is not copied before it is
//! decoded, and can be named even if only its beginning was kept.

/// The first bytes of an object in Protocol Buffers, before its `runtime.Unknown`
/// (k8s.io/apimachinery `pkg/runtime/serializer/protobuf/protobuf.go`).
pub(super) const MAGIC: &[u8; 4] = b"k8s\0";

/// The longest encoding of a number.
const LONGEST_NUMBER: usize = 10;

/// Bytes that are not the messages of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// The beginning of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u64,
    /// Whether the field is a string, a list of bytes or a message.
    pub(super) has_content: bool,
    /// The number of bytes of the field before its content.
    pub(super) size: usize,
    /// The number of bytes of the content.
    pub(super) length: usize,
}

/// Reads the beginning of a field. `None` if more bytes are necessary.
pub(super) fn head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let Some((key, after_key)) = number(bytes)? else {
        return Ok(None);
    };
    let value = bytes.get(after_key..).unwrap_or_default();
    let (has_content, size, length) = match key & 7 {
        0 => match number(value)? {
            Some((_, size)) => (false, after_key + size, 0),
            None => return Ok(None),
        },
        1 => (false, after_key, 8),
        2 => match number(value)? {
            Some((length, size)) => {
                let length = length.try_into();
                let length = length.map_err(|_| Malformed("a field is too long"))?;
                (true, after_key + size, length)
            }
            None => return Ok(None),
        },
        5 => (false, after_key, 4),
        _ => return Err(Malformed("a field has a type that the API does not use")),
    };
    match key >> 3 {
        0 => Err(Malformed("a field has the number 0")),
        number => Ok(Some(Head {
            number,
            has_content,
            size,
            length,
        })),
    }
}

/// The number at the beginning, and its size. `None` if more bytes are necessary.
fn number(bytes: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(LONGEST_NUMBER).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < LONGEST_NUMBER {
        Ok(None)
    } else {
        Err(Malformed("a number is too long"))
    }
}

/// The content of the first field with this number. `None` if there is no such field.
pub(super) fn content(message: &[u8], wanted: u64) -> Result<Option<&[u8]>, Malformed> {
    match beginning(message, wanted)? {
        Some((content, true)) => Ok(Some(content)),
        Some((_, false)) => Err(Malformed("a message was cut off")),
        None => Ok(None),
    }
}

/// The content of the first field with this number, as far as the message goes, and whether it is
/// complete.
pub(super) fn beginning(message: &[u8], wanted: u64) -> Result<Option<(&[u8], bool)>, Malformed> {
    let mut rest = message;
    while !rest.is_empty() {
        let head = head(rest)?.ok_or(Malformed("a message was cut off"))?;
        let content = rest.get(head.size..).unwrap_or_default();
        let is_wanted = head.has_content && head.number == wanted;
        match content.split_at_checked(head.length) {
            Some((content, _)) if is_wanted => return Ok(Some((content, true))),
            Some((_, after)) => rest = after,
            None if is_wanted => return Ok(Some((content, false))),
            None => return Err(Malformed("a message was cut off")),
        }
    }
    Ok(None)
}

/// The message of an object, without what wraps it.
pub(super) fn object(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let unknown = unknown(bytes)?;
    Ok(content(unknown, 2)?.unwrap_or_default())
}

/// The `runtime.Unknown` that wraps an object.
pub(super) fn unknown(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let unknown = bytes.strip_prefix(MAGIC);
    unknown.ok_or(Malformed("an object does not begin with \"k8s\" and 0"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    #[derive(Message)]
    struct Sample {
        #[prost(int64, tag = "1")]
        signed: i64,
        #[prost(fixed32, tag = "2")]
        four: u32,
        #[prost(double, tag = "3")]
        eight: f64,
        #[prost(bytes = "vec", tag = "4")]
        wanted: Vec<u8>,
        #[prost(string, tag = "5000")]
        after: String,
    }

    proptest! {
        #[test]
        fn a_field_is_found_among_all_types(
            signed: i64, four: u32, eight: f64, wanted in prop::collection::vec(any::<u8>(), 0..300),
            after: String,
        ) {
            let message = Sample { signed, four, eight, wanted: wanted.clone(), after: after.clone() };
            let bytes = message.encode_to_vec();
            let expected = (!wanted.is_empty()).then_some(&wanted[..]);
            prop_assert_eq!(content(&bytes, 4), Ok(expected));
            let expected = (!after.is_empty()).then_some(after.as_bytes());
            prop_assert_eq!(content(&bytes, 5000), Ok(expected));
            prop_assert_eq!(content(&bytes, 6), Ok(None));
        }

        #[test]
        fn the_beginning_of_a_field_is_found_wherever_its_message_ends(
            signed: i64, wanted in prop::collection::vec(any::<u8>(), 1..300), cut: prop::sample::Index,
        ) {
            let message = Sample { signed, wanted: wanted.clone(), ..Sample::default() };
            let bytes = message.encode_to_vec();
            let start = bytes.len() - wanted.len();
            let end = start + cut.index(wanted.len());
            let found = beginning(&bytes[..end], 4);
            prop_assert_eq!(found, Ok(Some((&wanted[..end - start], false))));
            prop_assert!(content(&bytes[..end], 4).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>, wanted in 0_u64..5) {
            if let Ok(Some((content, _))) = beginning(&bytes, wanted) {
                prop_assert!(content.len() < bytes.len());
            }
            let _ = object(&bytes);
        }
    }

    #[test]
    fn what_no_message_has_is_malformed() {
        for bytes in [
            &[0x02, 0x00][..],   // number 0
            &[0x0b],             // the beginning of a group
            &[0xff; 10],         // an endless number
            &[0x0a, 0x05, 0x01], // cut off in the content
            &[0x0a],             // cut off in the head
        ] {
            assert!(content(bytes, 7).is_err(), "{bytes:x?}");
        }
    }
}
