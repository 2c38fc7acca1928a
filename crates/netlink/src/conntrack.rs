//! Entries of the connection-tracking table.
//!
//! netlink-packet-netfilter is not used here: its `ConntrackMessage` does not know zones, and does
//! not prevent a delete request without a tuple, which would flush the table.

use std::net::{IpAddr, SocketAddr};

use crate::uapi::*;
use crate::{Attribute, Attributes, Family, Malformed, Writer};

/// Numbers of include/uapi/linux/netfilter/nfnetlink_conntrack.h, in the kernel's spelling; the
/// bits of the filter's flags are in net/netfilter/nf_internals.h.
#[rustfmt::skip]
mod numbers {
    pub(super) const NFNL_SUBSYS_CTNETLINK: u8 = 1;
    pub(super) const IPCTNL_MSG_CT_GET: u8 = 1;
    pub(super) const IPCTNL_MSG_CT_DELETE: u8 = 2;
    pub(super) const IPCTNL_MSG_CT_GET_STATS: u8 = 5;

    pub(super) const CTA_TUPLE_ORIG: u16 = 1;
    pub(super) const CTA_TUPLE_REPLY: u16 = 2;
    pub(super) const CTA_ID: u16 = 12;
    pub(super) const CTA_ZONE: u16 = 18;
    pub(super) const CTA_FILTER: u16 = 25;

    pub(super) const CTA_TUPLE_IP: u16 = 1;
    pub(super) const CTA_TUPLE_PROTO: u16 = 2;
    pub(super) const CTA_IP_V4_SRC: u16 = 1;
    pub(super) const CTA_IP_V4_DST: u16 = 2;
    pub(super) const CTA_IP_V6_SRC: u16 = 3;
    pub(super) const CTA_IP_V6_DST: u16 = 4;
    pub(super) const CTA_PROTO_NUM: u16 = 1;
    pub(super) const CTA_PROTO_SRC_PORT: u16 = 2;
    pub(super) const CTA_PROTO_DST_PORT: u16 = 3;

    pub(super) const CTA_FILTER_ORIG_FLAGS: u16 = 1;
    pub(super) const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;
    pub(super) const CTA_FILTER_F_CTA_PROTO_DST_PORT: u32 = 1 << 5;
}

use numbers::*;

/// The part of the table to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The address family.
    pub family: Family,
    /// The number of the transport protocol.
    pub protocol: u8,
    /// The destination port of the flows, if there is only one.
    pub port: Option<u16>,
}

impl Extent {
    /// Writes a request for a list. Linux since 5.8 can filter by protocol and port; older kernels
    /// ignore a filter, or reject it.
    ///
    /// It does not filter by address: Linux's comparison of IPv6 addresses is inverted
    /// (`ctnetlink_filter_match_tuple`).
    pub fn write_list(self, writer: &mut Writer, sequence: u32, filtered: bool) {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        message(
            writer,
            IPCTNL_MSG_CT_GET,
            flags,
            sequence,
            self.family,
            |w| {
                if !filtered {
                    return;
                }
                let mut chosen_by = CTA_FILTER_F_CTA_PROTO_NUM;
                w.nested(CTA_TUPLE_ORIG, |w| {
                    w.nested(CTA_TUPLE_PROTO, |w| {
                        w.put(CTA_PROTO_NUM, &[self.protocol]);
                        if let Some(port) = self.port {
                            chosen_by |= CTA_FILTER_F_CTA_PROTO_DST_PORT;
                            w.put(CTA_PROTO_DST_PORT, &port.to_be_bytes());
                        }
                    });
                });
                // In the machine's byte order, unlike all other numbers.
                w.nested(CTA_FILTER, |w| {
                    w.put(CTA_FILTER_ORIG_FLAGS, &chosen_by.to_ne_bytes());
                });
            },
        );
    }
}

/// The parts of an entry that svcproxy needs.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The number of the transport protocol.
    pub protocol: u8,
    /// The original destination.
    pub to: SocketAddr,
    /// The source of answers. IPVS in masquerade mode sets it to the real server when it creates
    /// the entry (`ip_vs_update_conntrack`, with `net.ipv4.vs.conntrack` 1).
    pub answered_from: SocketAddr,
    original: &'a [u8],
    id: [u8; 4],
    zone: Option<[u8; 2]>,
}

impl<'a> Entry<'a> {
    /// Parses an entry; `None` for a protocol without ports.
    ///
    /// # Errors
    ///
    /// If it is malformed.
    pub fn parse(attributes: Attributes<'a>) -> Result<Option<Self>, Malformed> {
        let tuple = attributes.require(CTA_TUPLE_ORIG)?.attributes()?;
        let reply = attributes.require(CTA_TUPLE_REPLY)?.attributes()?;
        let protocol = tuple.require(CTA_TUPLE_PROTO)?.attributes()?;
        let [protocol] = protocol.require(CTA_PROTO_NUM)?.array()?;
        let to = end(tuple, [CTA_IP_V4_DST, CTA_IP_V6_DST], CTA_PROTO_DST_PORT)?;
        let from = end(reply, [CTA_IP_V4_SRC, CTA_IP_V6_SRC], CTA_PROTO_SRC_PORT)?;
        let (Some(to), Some(answered_from)) = (to, from) else {
            return Ok(None);
        };
        let zone = attributes.get(CTA_ZONE).map(Attribute::array);
        Ok(Some(Self {
            protocol,
            to,
            answered_from,
            original: tuple.bytes(),
            id: attributes.require(CTA_ID)?.array()?,
            zone: zone.transpose()?,
        }))
    }

    /// A UDP entry for tests, not from a kernel.
    #[doc(hidden)]
    pub fn example(to: SocketAddr, answered_from: SocketAddr) -> Self {
        Self {
            protocol: 17,
            to,
            answered_from,
            original: &[],
            id: [0; 4],
            zone: None,
        }
    }

    /// The identity of this entry. A later entry of the same flow has another one.
    pub fn name(&self) -> EntryName {
        EntryName {
            family: Family::of(&self.to.ip()),
            original: self.original.into(),
            id: self.id,
            zone: self.zone,
        }
    }
}

/// The identity of an entry. Only listed entries have one, because a delete request without it
/// would flush the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName {
    family: Family,
    /// The attributes of the original tuple, which may include a zone of its own.
    original: Box<[u8]>,
    id: [u8; 4],
    zone: Option<[u8; 2]>,
}

impl EntryName {
    /// Writes a request to delete the entry.
    pub fn write_delete(&self, writer: &mut Writer, flags: u16, sequence: u32) {
        let flags = NLM_F_REQUEST | flags;
        message(
            writer,
            IPCTNL_MSG_CT_DELETE,
            flags,
            sequence,
            self.family,
            |w| {
                w.nested(CTA_TUPLE_ORIG, |w| w.raw(&self.original));
                w.put(CTA_ID, &self.id);
                if let Some(zone) = self.zone {
                    w.put(CTA_ZONE, &zone);
                }
            },
        );
    }
}

/// Writes a request for the table's statistics, which is cheap.
pub fn write_statistics(writer: &mut Writer, sequence: u32) {
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    message(
        writer,
        IPCTNL_MSG_CT_GET_STATS,
        flags,
        sequence,
        Family::V4,
        |_| {},
    );
}

fn message(
    writer: &mut Writer,
    kind: u8,
    flags: u16,
    sequence: u32,
    family: Family,
    content: impl FnOnce(&mut Writer),
) {
    let kind = u16::from_be_bytes([NFNL_SUBSYS_CTNETLINK, kind]);
    writer.packet(kind, flags, sequence, family.header(), content);
}

/// One end of a tuple; the kinds are those of its address in each family and of its port.
fn end(
    tuple: Attributes<'_>,
    [v4, v6]: [u16; 2],
    port: u16,
) -> Result<Option<SocketAddr>, Malformed> {
    let addresses = tuple.require(CTA_TUPLE_IP)?.attributes()?;
    let address = match addresses.get(v4) {
        Some(address) => IpAddr::from(address.array::<4>()?),
        None => IpAddr::from(addresses.require(v6)?.array::<16>()?),
    };
    let ports = tuple.require(CTA_TUPLE_PROTO)?.attributes()?;
    let Some(port) = ports.get(port) else {
        return Ok(None);
    };
    let port = u16::from_be_bytes(port.array()?);
    Ok(Some(SocketAddr::new(address, port)))
}

#[cfg(test)]
mod tests;
