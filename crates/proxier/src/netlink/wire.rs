//! nf_tables over netlink: numbers, messages and attributes.
//!
//! netlink-packet-netfilter is not used here: it takes several allocations an element to write
//! one, and to read a list of elements it prints the whole of it for each
//! (`nftables/attributes/list.rs`, `context(format!(..))`), which is quadratic.

/// Numbers of include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h, in the kernel's spelling.
#[rustfmt::skip]
pub(crate) mod uapi {
    pub(crate) const NLM_F_REQUEST: u16 = 0x01;
    pub(crate) const NLM_F_ACK: u16 = 0x04;
    pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
    pub(crate) const NLM_F_DUMP: u16 = 0x300;
    pub(crate) const NLM_F_EXCL: u16 = 0x200;
    pub(crate) const NLM_F_CREATE: u16 = 0x400;
    pub(crate) const NLM_F_APPEND: u16 = 0x800;

    pub(crate) const NLMSG_ERROR: u16 = 2;
    pub(crate) const NLMSG_DONE: u16 = 3;
    pub(crate) const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
    pub(crate) const NFNL_MSG_BATCH_END: u16 = 0x11;
    pub(crate) const NFNL_SUBSYS_NFTABLES: u8 = 10;
    pub(crate) const NFPROTO_UNSPEC: u8 = 0;
    pub(crate) const NFPROTO_INET: u8 = 1;
    pub(crate) const NFPROTO_IPV4: u8 = 2;
    pub(crate) const NFPROTO_IPV6: u8 = 10;

    pub(crate) const NFT_MSG_NEWTABLE: u8 = 0;
    pub(crate) const NFT_MSG_DELTABLE: u8 = 2;
    pub(crate) const NFT_MSG_NEWCHAIN: u8 = 3;
    pub(crate) const NFT_MSG_GETCHAIN: u8 = 4;
    pub(crate) const NFT_MSG_DELCHAIN: u8 = 5;
    pub(crate) const NFT_MSG_NEWRULE: u8 = 6;
    pub(crate) const NFT_MSG_GETRULE: u8 = 7;
    pub(crate) const NFT_MSG_DELRULE: u8 = 8;
    pub(crate) const NFT_MSG_NEWSET: u8 = 9;
    pub(crate) const NFT_MSG_GETSET: u8 = 10;
    pub(crate) const NFT_MSG_DELSET: u8 = 11;
    pub(crate) const NFT_MSG_NEWSETELEM: u8 = 12;
    pub(crate) const NFT_MSG_GETSETELEM: u8 = 13;
    pub(crate) const NFT_MSG_DELSETELEM: u8 = 14;

    pub(crate) const NFTA_TABLE_NAME: u16 = 1;

    pub(crate) const NFTA_CHAIN_TABLE: u16 = 1;
    pub(crate) const NFTA_CHAIN_NAME: u16 = 3;
    pub(crate) const NFTA_CHAIN_HOOK: u16 = 4;
    pub(crate) const NFTA_CHAIN_POLICY: u16 = 5;
    pub(crate) const NFTA_CHAIN_TYPE: u16 = 7;
    pub(crate) const NFTA_HOOK_HOOKNUM: u16 = 1;
    pub(crate) const NFTA_HOOK_PRIORITY: u16 = 2;
    pub(crate) const NF_ACCEPT: u32 = 1;

    pub(crate) const NFTA_RULE_TABLE: u16 = 1;
    pub(crate) const NFTA_RULE_CHAIN: u16 = 2;
    pub(crate) const NFTA_RULE_EXPRESSIONS: u16 = 4;
    pub(crate) const NFTA_RULE_USERDATA: u16 = 7;

    pub(crate) const NFTA_SET_TABLE: u16 = 1;
    pub(crate) const NFTA_SET_NAME: u16 = 2;
    pub(crate) const NFTA_SET_FLAGS: u16 = 3;
    pub(crate) const NFTA_SET_KEY_TYPE: u16 = 4;
    pub(crate) const NFTA_SET_KEY_LEN: u16 = 5;
    pub(crate) const NFTA_SET_ID: u16 = 10;
    pub(crate) const NFTA_SET_USERDATA: u16 = 13;
    pub(crate) const NFTA_SET_DATA_TYPE: u16 = 6;
    pub(crate) const NFTA_SET_DATA_LEN: u16 = 7;
    pub(crate) const NFTA_SET_DESC: u16 = 9;
    pub(crate) const NFTA_SET_DESC_CONCAT: u16 = 2;
    pub(crate) const NFTA_SET_FIELD_LEN: u16 = 1;
    pub(crate) const NFT_SET_INTERVAL: u32 = 0x4;
    pub(crate) const NFT_SET_MAP: u32 = 0x8;
    pub(crate) const NFT_SET_CONCAT: u32 = 0x80;

    pub(crate) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
    pub(crate) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
    pub(crate) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    pub(crate) const NFTA_SET_ELEM_KEY: u16 = 1;
    pub(crate) const NFTA_SET_ELEM_DATA: u16 = 2;
    pub(crate) const NFTA_SET_ELEM_FLAGS: u16 = 3;
    pub(crate) const NFTA_SET_ELEM_USERDATA: u16 = 6;
    pub(crate) const NFTA_SET_ELEM_KEY_END: u16 = 10;
    pub(crate) const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;

    pub(crate) const NFTA_LIST_ELEM: u16 = 1;
    pub(crate) const NFTA_DATA_VALUE: u16 = 1;
    pub(crate) const NFTA_DATA_VERDICT: u16 = 2;
    pub(crate) const NFTA_VERDICT_CODE: u16 = 1;
    pub(crate) const NFTA_VERDICT_CHAIN: u16 = 2;
    pub(crate) const NF_DROP: i32 = 0;
    pub(crate) const NFT_JUMP: i32 = -3;
    pub(crate) const NFT_GOTO: i32 = -4;
    pub(crate) const NFT_RETURN: i32 = -5;

    pub(crate) const NFT_REG_VERDICT: u32 = 0;
    pub(crate) const NFT_REG_1: u32 = 1;
    pub(crate) const NFT_REG32_00: u32 = 8;

    pub(crate) const NFTA_EXPR_NAME: u16 = 1;
    pub(crate) const NFTA_EXPR_DATA: u16 = 2;
    pub(crate) const NFTA_META_DREG: u16 = 1;
    pub(crate) const NFTA_META_KEY: u16 = 2;
    pub(crate) const NFTA_META_SREG: u16 = 3;
    pub(crate) const NFT_META_MARK: u32 = 3;
    pub(crate) const NFT_META_IIF: u32 = 4;
    pub(crate) const NFT_META_OIF: u32 = 5;
    pub(crate) const NFT_META_IIFNAME: u32 = 6;
    pub(crate) const NFT_META_NFPROTO: u32 = 15;
    pub(crate) const NFT_META_L4PROTO: u32 = 16;
    pub(crate) const NFTA_CMP_SREG: u16 = 1;
    pub(crate) const NFTA_CMP_OP: u16 = 2;
    pub(crate) const NFTA_CMP_DATA: u16 = 3;
    pub(crate) const NFT_CMP_EQ: u32 = 0;
    pub(crate) const NFT_CMP_NEQ: u32 = 1;
    pub(crate) const NFTA_PAYLOAD_DREG: u16 = 1;
    pub(crate) const NFTA_PAYLOAD_BASE: u16 = 2;
    pub(crate) const NFTA_PAYLOAD_OFFSET: u16 = 3;
    pub(crate) const NFTA_PAYLOAD_LEN: u16 = 4;
    pub(crate) const NFTA_PAYLOAD_SREG: u16 = 5;
    pub(crate) const NFTA_PAYLOAD_CSUM_TYPE: u16 = 6;
    pub(crate) const NFTA_PAYLOAD_CSUM_OFFSET: u16 = 7;
    pub(crate) const NFTA_PAYLOAD_CSUM_FLAGS: u16 = 8;
    pub(crate) const NFT_PAYLOAD_CSUM_NONE: u32 = 0;
    pub(crate) const NFT_PAYLOAD_CSUM_INET: u32 = 1;
    pub(crate) const NFT_PAYLOAD_L4CSUM_PSEUDOHDR: u32 = 1;
    pub(crate) const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
    pub(crate) const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
    pub(crate) const NFTA_BITWISE_SREG: u16 = 1;
    pub(crate) const NFTA_BITWISE_DREG: u16 = 2;
    pub(crate) const NFTA_BITWISE_LEN: u16 = 3;
    pub(crate) const NFTA_BITWISE_MASK: u16 = 4;
    pub(crate) const NFTA_BITWISE_XOR: u16 = 5;
    pub(crate) const NFTA_LOOKUP_SET: u16 = 1;
    pub(crate) const NFTA_LOOKUP_SREG: u16 = 2;
    pub(crate) const NFTA_LOOKUP_DREG: u16 = 3;
    pub(crate) const NFTA_LOOKUP_FLAGS: u16 = 5;
    pub(crate) const NFT_LOOKUP_F_INV: u32 = 1;
    pub(crate) const NFTA_FIB_DREG: u16 = 1;
    pub(crate) const NFTA_FIB_RESULT: u16 = 2;
    pub(crate) const NFTA_FIB_FLAGS: u16 = 3;
    pub(crate) const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
    pub(crate) const NFTA_FIB_F_SADDR: u32 = 1;
    pub(crate) const NFTA_FIB_F_DADDR: u32 = 2;
    pub(crate) const RTN_LOCAL: u32 = 2;
    pub(crate) const NFTA_CT_DREG: u16 = 1;
    pub(crate) const NFTA_CT_KEY: u16 = 2;
    pub(crate) const NFTA_CT_DIRECTION: u16 = 3;
    pub(crate) const NFT_CT_STATE: u32 = 0;
    pub(crate) const NFT_CT_DIRECTION: u32 = 1;
    pub(crate) const NFT_CT_STATUS: u32 = 2;
    pub(crate) const NFT_CT_PROTO_DST: u32 = 12;
    pub(crate) const NFT_CT_DST_IP: u32 = 20;
    pub(crate) const NFT_CT_DST_IP6: u32 = 22;
    pub(crate) const IP_CT_DIR_ORIGINAL: u8 = 0;
    pub(crate) const IP_CT_DIR_REPLY: u8 = 1;
    pub(crate) const IPS_DST_NAT: u32 = 1 << 5;
    pub(crate) const NF_CT_STATE_ESTABLISHED: u32 = 2;
    pub(crate) const NF_CT_STATE_RELATED: u32 = 4;
    pub(crate) const NF_CT_STATE_NEW: u32 = 8;
    pub(crate) const NFTA_IMMEDIATE_DREG: u16 = 1;
    pub(crate) const NFTA_IMMEDIATE_DATA: u16 = 2;
    pub(crate) const NFTA_REJECT_TYPE: u16 = 1;
    pub(crate) const NFTA_REJECT_ICMP_CODE: u16 = 2;
    pub(crate) const NFT_REJECT_TCP_RST: u32 = 1;
    pub(crate) const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
    pub(crate) const NFT_REJECT_ICMPX_PORT_UNREACH: u8 = 1;
    pub(crate) const NFTA_MASQ_FLAGS: u16 = 1;
    pub(crate) const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 0x10;
}

pub(crate) use super::error::Malformed;
use super::read::{ALIGN, NFGEN_HEADER};
pub(crate) use super::read::{Attribute, Attributes};
use uapi::*;

const NLA_F_NESTED: u16 = 0x8000;

/// Messages as they are written.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A message of nf_tables about something in an `inet` table.
    pub(crate) fn message(
        &mut self,
        kind: u8,
        flags: u16,
        sequence: u32,
        content: impl FnOnce(&mut Self),
    ) {
        let kind = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, kind]);
        self.packet(kind, flags, sequence, [NFPROTO_INET, 0, 0, 0], content);
    }

    /// The begin or the end of a transaction.
    pub(crate) fn batch(&mut self, kind: u16, sequence: u32) {
        let header = [NFPROTO_UNSPEC, 0, 0, NFNL_SUBSYS_NFTABLES];
        self.packet(kind, NLM_F_REQUEST, sequence, header, |_| {});
    }

    /// A message of any part of netfilter; `header` is the rest of it, `struct nfgenmsg`.
    pub(crate) fn packet(
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

    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |writer| writer.0.extend_from_slice(value));
    }

    /// A number; nf_tables has them big-endian.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// A C string.
    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, |writer| {
            writer.0.extend_from_slice(text.as_bytes());
            writer.0.push(0);
        });
    }

    /// An attribute made of attributes. The caller sees to it that it stays below 64 KiB.
    pub(crate) fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        self.attribute(kind | NLA_F_NESTED, content);
    }

    /// Bytes without a header of their own.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn attribute(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        content(self);
        let length = u16::try_from(self.len() - start).unwrap_or(u16::MAX);
        self.patch(start, &length.to_ne_bytes());
        self.0.resize(self.len().next_multiple_of(ALIGN), 0);
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Adds flags to the message that begins at a place.
    pub(crate) fn add_flags(&mut self, message: usize, flags: u16) {
        let at = message + 6;
        if let Some(&[low, high]) = self.0.get(at..at + 2) {
            let flags = u16::from_ne_bytes([low, high]) | flags;
            self.patch(at, &flags.to_ne_bytes());
        }
    }
}

/// nftables' own notes beside its objects: type, length and value, each of the first two a byte
/// (libnftnl's `udata.c`).
pub(crate) mod user_data {
    use super::Writer;

    /// An element's comment, a C string; `NFTNL_UDATA_SET_ELEM_COMMENT`.
    pub(crate) const COMMENT: u8 = 0;
    /// The byte order of a set's keys; `NFTNL_UDATA_SET_KEYBYTEORDER`.
    pub(crate) const KEY_BYTE_ORDER: u8 = 0;
    /// The byte order of what a map maps to; `NFTNL_UDATA_SET_DATABYTEORDER`.
    pub(crate) const DATA_BYTE_ORDER: u8 = 1;
    /// What we note beside a rule; nft knows 0 and 1 there and skips others.
    pub(crate) const RULE_TAG: u8 = 0x73;
    /// The longest value.
    pub(crate) const MAX: usize = 254;

    /// Writes a value, given in parts; the caller sees to it that it is not too long.
    pub(crate) fn put(writer: &mut Writer, kind: u8, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        writer.raw(&[kind, u8::try_from(length).unwrap_or(u8::MAX)]);
        parts.iter().for_each(|part| writer.raw(part));
    }

    /// The first value of a kind.
    pub(crate) fn get(mut bytes: &[u8], kind: u8) -> Option<&[u8]> {
        loop {
            let [found, length, rest @ ..] = bytes else {
                return None;
            };
            let (value, rest) = rest.split_at_checked(usize::from(*length))?;
            if *found == kind {
                return Some(value);
            }
            bytes = rest;
        }
    }
}
