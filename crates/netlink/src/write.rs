//! Encodes netlink messages and attributes.
//!
//! netlink-packet-netfilter is not used here: it needs several allocations to encode an element,
//! and when it decodes a list of elements, it formats the whole list for each of them
//! (`nftables/attributes/list.rs`, `context(format!(..))`), which is quadratic.

use crate::read::{ALIGN, NFGEN_HEADER};
use crate::uapi::*;

const NLA_F_NESTED: u16 = 0x8000;

/// A buffer of consecutive messages to the kernel.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// The written bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number of written bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes a message of nf_tables for an `inet` table.
    pub fn message(
        &mut self,
        kind: u8,
        flags: u16,
        sequence: u32,
        content: impl FnOnce(&mut Self),
    ) {
        let kind = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, kind]);
        self.packet(kind, flags, sequence, [NFPROTO_INET, 0, 0, 0], content);
    }

    /// Writes the begin or end message of a transaction.
    pub fn batch(&mut self, kind: u16, sequence: u32) {
        let header = [NFPROTO_UNSPEC, 0, 0, NFNL_SUBSYS_NFTABLES];
        self.packet(kind, NLM_F_REQUEST, sequence, header, |_| {});
    }

    /// Writes a message of any netfilter subsystem, with `header` as `struct nfgenmsg`.
    pub fn packet(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        header: [u8; NFGEN_HEADER],
        content: impl FnOnce(&mut Self),
    ) {
        let start = self.len();
        self.0.extend([0; 4]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(sequence.to_ne_bytes());
        self.0.extend([0; 4]);
        self.0.extend(header);
        content(self);
        let length = u32::try_from(self.len() - start).unwrap_or(u32::MAX);
        self.patch(start, &length.to_ne_bytes());
    }

    /// Writes an attribute with these bytes.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |writer| writer.0.extend_from_slice(value));
    }

    /// Writes an attribute with a big-endian number, as in nf_tables.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Writes an attribute with a C string.
    pub fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, |writer| {
            writer.0.extend_from_slice(text.as_bytes());
            writer.0.push(0);
        });
    }

    /// Writes an attribute of nested attributes, below 64 KiB.
    pub fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        self.attribute(kind | NLA_F_NESTED, content);
    }

    /// Writes bytes without a header.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Writes an attribute with the bytes from `content`.
    pub fn attribute(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.len();
        let [low, high] = kind.to_ne_bytes();
        self.0.extend_from_slice(&[0, 0, low, high]);
        content(self);
        let length = u16::try_from(self.len() - start).unwrap_or(u16::MAX);
        self.patch(start, &length.to_ne_bytes());
        if !self.len().is_multiple_of(ALIGN) {
            self.0.resize(self.len().next_multiple_of(ALIGN), 0);
        }
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Adds flags to the message at an offset.
    pub fn add_flags(&mut self, message: usize, flags: u16) {
        let at = message + 6;
        if let Some(&[low, high]) = self.0.get(at..at + 2) {
            let flags = u16::from_ne_bytes([low, high]) | flags;
            self.patch(at, &flags.to_ne_bytes());
        }
    }
}
