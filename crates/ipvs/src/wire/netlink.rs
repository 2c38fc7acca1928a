//! Netlink packets: the header, the messages that do not belong to a family, and the generic netlink
//! controller, which resolves the number of a family.
//!
//! The controller's messages are written here because the parser of netlink-packet-generic 0.5.0
//! panics on malformed input.

#[cfg(any(feature = "testing", test))]
use super::attribute::put_fixed;
use super::attribute::{Attributes, DecodeError, Sink, put_text};

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

const HEADER: usize = 16;

/// A packet's header, without its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The family's number, or one of the kernel's own.
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
}

impl Header {
    pub(crate) const REQUEST: u16 = 0x01;
    pub(crate) const ACK: u16 = 0x04;
    pub(crate) const DUMP: u16 = 0x300;
    /// Where the flags lie.
    pub(crate) const FLAGS_OFFSET: usize = 6;
}

/// Writes a packet around its content.
pub(crate) fn put_packet<S: Sink>(sink: &mut S, header: Header, content: impl FnOnce(&mut S)) {
    let start = sink.position();
    let [k0, k1] = header.kind.to_ne_bytes();
    let [f0, f1] = header.flags.to_ne_bytes();
    let [s0, s1, s2, s3] = header.sequence.to_ne_bytes();
    // The length is set below. Port number 0: the kernel knows the sender.
    sink.put(&[0, 0, 0, 0, k0, k1, f0, f1, s0, s1, s2, s3, 0, 0, 0, 0]);
    content(sink);
    let length = u32::try_from(sink.position() - start).unwrap_or(u32::MAX);
    sink.patch(start, &length.to_ne_bytes());
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// A message of a generic netlink family.
    Message { command: u8, attributes: &'a [u8] },
    /// An error, or an acknowledgement (0).
    Status {
        errno: i32,
        message: Option<&'a str>,
    },
    /// The end of a dump, with an errno or 0.
    Done { errno: i32 },
    /// Nothing.
    Noop,
    /// Packets were lost.
    Overrun,
}

/// One packet, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) header: Header,
    /// The dumped objects have changed meanwhile (`NLM_F_DUMP_INTR`).
    pub(crate) interrupted: bool,
    pub(crate) body: Body<'a>,
}

/// Iterates over packets. A malformed one is an error and the last item.
pub(crate) struct Packets<'a>(pub(crate) &'a [u8]);

impl<'a> Packets<'a> {
    fn split(&mut self) -> Option<(Header, &'a [u8])> {
        let head = self.0.first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *head;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let payload = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        let header = Header {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        };
        Some((header, payload))
    }

    fn parse(&mut self) -> Result<Packet<'a>, DecodeError> {
        let (header, payload) = self.split().ok_or(DecodeError::Truncated("packet"))?;
        let body = match header.kind {
            NLMSG_NOOP => Body::Noop,
            NLMSG_ERROR => parse_status(header.flags, payload)?,
            NLMSG_DONE => Body::Done {
                errno: payload.first_chunk().map_or(0, errno),
            },
            NLMSG_OVERRUN => Body::Overrun,
            _ => match payload {
                [command, _version, _, _, attributes @ ..] => Body::Message {
                    command: *command,
                    attributes,
                },
                _ => return Err(DecodeError::Truncated("generic header")),
            },
        };
        let interrupted = header.flags & NLM_F_DUMP_INTR != 0 && header.kind != NLMSG_ERROR;
        Ok(Packet {
            header,
            interrupted,
            body,
        })
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let packet = self.parse();
        if packet.is_err() {
            self.0 = &[];
        }
        Some(packet)
    }
}

/// The kernel sends errors as negative numbers.
fn errno(bytes: &[u8; 4]) -> i32 {
    i32::from_ne_bytes(*bytes).wrapping_neg()
}

/// An errno, the request (whole, or only its header), and attributes.
fn parse_status(flags: u16, payload: &[u8]) -> Result<Body<'_>, DecodeError> {
    const NAME: &str = "error";
    let (code, request) = payload
        .split_first_chunk()
        .ok_or(DecodeError::Truncated(NAME))?;
    let mut message = None;
    if flags & NLM_F_ACK_TLVS != 0 {
        let length = request.first_chunk().ok_or(DecodeError::Truncated(NAME))?;
        let length = if flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            request_length(*length)
        };
        let attributes = request.get(length..).ok_or(DecodeError::Truncated(NAME))?;
        for attribute in Attributes::new(attributes, NAME) {
            let attribute = attribute?;
            if attribute.kind == NLMSGERR_ATTR_MSG {
                message = Some(attribute.text("error text")?);
            }
        }
    }
    Ok(Body::Status {
        errno: errno(code),
        message,
    })
}

fn request_length(bytes: [u8; 4]) -> usize {
    usize::try_from(u32::from_ne_bytes(bytes)).map_or(usize::MAX, |length| {
        length.checked_next_multiple_of(4).unwrap_or(usize::MAX)
    })
}

/// Writes an error, or an acknowledgement, as the kernel does with `NETLINK_CAP_ACK` and
/// `NETLINK_EXT_ACK`.
#[cfg(any(feature = "testing", test))]
pub(crate) fn put_error<S: Sink>(sink: &mut S, request: Header, errno: i32, text: Option<&str>) {
    let tlvs = if text.is_some() { NLM_F_ACK_TLVS } else { 0 };
    let flags = NLM_F_CAPPED | tlvs;
    let header = Header {
        kind: NLMSG_ERROR,
        flags,
        sequence: request.sequence,
    };
    put_packet(sink, header, |sink| {
        sink.put(&errno.wrapping_neg().to_ne_bytes());
        put_packet(sink, request, |_| {});
        if let Some(text) = text {
            super::attribute::put_text(sink, NLMSGERR_ATTR_MSG, text.as_bytes());
        }
    });
}

/// Writes the end of a dump.
#[cfg(any(feature = "testing", test))]
pub(crate) fn put_done<S: Sink>(sink: &mut S, sequence: u32, interrupted: bool) {
    let flags = if interrupted { NLM_F_DUMP_INTR } else { 0 };
    let header = Header {
        kind: NLMSG_DONE,
        flags,
        sequence,
    };
    put_packet(sink, header, |sink| sink.put(&[0; 4]));
}

/// The controller's own number: `GENL_ID_CTRL`.
pub(crate) const CONTROLLER: u16 = 16;

const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_CMD_NEWFAMILY: u8 = 1;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_VERSION: u8 = 1;

/// Writes the request, generic header included.
pub(crate) fn put_family_request<S: Sink>(sink: &mut S, name: &str) {
    sink.put(&[CTRL_CMD_GETFAMILY, CTRL_VERSION, 0, 0]);
    put_text(sink, CTRL_ATTR_FAMILY_NAME, name.as_bytes());
}

/// Writes the reply.
#[cfg(any(feature = "testing", test))]
pub(crate) fn put_family_reply<S: Sink>(sink: &mut S, request: Header, family: u16) {
    put_packet(
        sink,
        Header {
            flags: 0,
            ..request
        },
        |sink| {
            sink.put(&[CTRL_CMD_NEWFAMILY, CTRL_VERSION, 0, 0]);
            put_fixed(sink, CTRL_ATTR_FAMILY_ID, family.to_ne_bytes());
        },
    );
}

/// Reads the reply.
pub(crate) fn parse_family_id(command: u8, bytes: &[u8]) -> Result<u16, DecodeError> {
    if command != CTRL_CMD_NEWFAMILY {
        return Err(DecodeError::Command(command));
    }
    for attribute in Attributes::new(bytes, "family") {
        let attribute = attribute?;
        if attribute.kind == CTRL_ATTR_FAMILY_ID {
            return attribute.u16("family id");
        }
    }
    Err(DecodeError::Missing("family id"))
}
