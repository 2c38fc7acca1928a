//! The kernel's expressions, which rules consist of. They work on registers.

use ipvs::Family;

use crate::mode::ipvs::rules::Field;
use netlink::Writer;
use netlink::nftables::{expression, load_meta};
use netlink::uapi::*;

/// Loads a field of a packet into a register.
pub(crate) enum Load {
    Meta { key: u32, length: u32 },
    Payload { base: u32, offset: u32, length: u32 },
}

impl Load {
    /// As in struct udphdr.
    pub(super) const UDP_CHECKSUM: Self = Self::Payload {
        base: NFT_PAYLOAD_TRANSPORT_HEADER,
        offset: 6,
        length: 2,
    };

    /// Offsets as in struct iphdr, struct ipv6hdr, and the ports that TCP, UDP and SCTP share.
    pub(crate) const fn of(field: Field, family: Family) -> Self {
        let (base, offset, length) = match (field, family) {
            (Field::Source, Family::V4) => (NFT_PAYLOAD_NETWORK_HEADER, 12, 4),
            (Field::Destination, Family::V4) => (NFT_PAYLOAD_NETWORK_HEADER, 16, 4),
            (Field::Source, Family::V6) => (NFT_PAYLOAD_NETWORK_HEADER, 8, 16),
            (Field::Destination, Family::V6) => (NFT_PAYLOAD_NETWORK_HEADER, 24, 16),
            (Field::Protocol, _) => {
                let (key, length) = (NFT_META_L4PROTO, 1);
                return Self::Meta { key, length };
            }
            (Field::Port, _) => (NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2),
            (Field::SourcePort, _) => (NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2),
        };
        Self::Payload {
            base,
            offset,
            length,
        }
    }

    /// Length in bytes.
    pub(super) const fn length(&self) -> u32 {
        let (Self::Meta { length, .. } | Self::Payload { length, .. }) = self;
        *length
    }

    /// The length in registers, in bytes: a multiple of 4.
    pub(crate) const fn register_length(&self) -> u32 {
        self.length().next_multiple_of(4)
    }

    pub(crate) fn put(&self, w: &mut Writer, register: u32) {
        match *self {
            Self::Meta { key, .. } => load_meta(w, key, register),
            Self::Payload {
                base,
                offset,
                length,
            } => expression(w, "payload", |w| {
                w.number(NFTA_PAYLOAD_DREG, register);
                w.number(NFTA_PAYLOAD_BASE, base);
                w.number(NFTA_PAYLOAD_OFFSET, offset);
                w.number(NFTA_PAYLOAD_LEN, length);
            }),
        }
    }
}

/// The checksums that include a field of a packet.
pub(super) struct Checksums {
    /// Offset of the checksum in the same header.
    pub(super) own: Option<u32>,
    /// Whether the transport checksum includes the field in its pseudo header.
    pub(super) pseudo_header: bool,
}

/// Stores register 1 in a field of the packet.
pub(super) fn store_field(w: &mut Writer, field: Field, family: Family, checksums: &Checksums) {
    let Load::Payload {
        base,
        offset,
        length,
    } = Load::of(field, family)
    else {
        return;
    };
    let kind = match checksums.own {
        Some(_) => NFT_PAYLOAD_CSUM_INET,
        None => NFT_PAYLOAD_CSUM_NONE,
    };
    let flags = match checksums.pseudo_header {
        true => NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
        false => 0,
    };
    expression(w, "payload", |w| {
        w.number(NFTA_PAYLOAD_SREG, NFT_REG_1);
        w.number(NFTA_PAYLOAD_BASE, base);
        w.number(NFTA_PAYLOAD_OFFSET, offset);
        w.number(NFTA_PAYLOAD_LEN, length);
        w.number(NFTA_PAYLOAD_CSUM_TYPE, kind);
        w.number(NFTA_PAYLOAD_CSUM_OFFSET, checksums.own.unwrap_or(0));
        w.number(NFTA_PAYLOAD_CSUM_FLAGS, flags);
    });
}
