//! What kube-proxy left in nftables, over netlink: its own tables, and the chains of iptables-nft.

use std::io;

use ipvs::Family;

use crate::netlink::socket::{Refusal, Socket};
use crate::netlink::wire::uapi::*;
use crate::netlink::wire::{Attributes, Malformed, Writer};
use crate::takeover::leftovers::NFTABLES_TABLE;

const NFT_MSG_GETTABLE: u8 = 1;
const ENOENT: i32 = 2;

/// The families in which kube-proxy's nftables mode has its table.
pub(super) fn tables(socket: &mut Socket) -> io::Result<Vec<Family>> {
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        let is_there = list(socket, NFT_MSG_GETTABLE, family, |is_there, table| {
            *is_there |= table.text(NFTA_TABLE_NAME) == Some(NFTABLES_TABLE);
            Ok(())
        })?;
        if is_there {
            found.push(family);
        }
    }
    Ok(found)
}

/// The tables and names of all chains of a family.
pub(super) fn chains(socket: &mut Socket, family: Family) -> io::Result<Vec<(String, String)>> {
    list(
        socket,
        NFT_MSG_GETCHAIN,
        family,
        |chains: &mut Vec<_>, chain| {
            let (table, name) = (chain.text(NFTA_CHAIN_TABLE), chain.text(NFTA_CHAIN_NAME));
            chains.extend(table.zip(name).map(|(t, n)| (t.to_owned(), n.to_owned())));
            Ok(())
        },
    )
}

/// Deletes kube-proxy's tables of these families, all in one transaction.
pub(super) fn delete_tables(socket: &mut Socket, families: &[Family]) -> io::Result<()> {
    let first = socket.reserve(families.len() + 1);
    let mut writer = Writer::default();
    writer.batch(NFNL_MSG_BATCH_BEGIN, first);
    let mut sequence = first;
    for (at, family) in families.iter().enumerate() {
        let is_last = at + 1 == families.len();
        let flags = NLM_F_REQUEST | if is_last { NLM_F_ACK } else { 0 };
        sequence += 1;
        let kind = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE]);
        writer.packet(kind, flags, sequence, header(*family), |w| {
            w.text(NFTA_TABLE_NAME, NFTABLES_TABLE);
        });
    }
    writer.batch(NFNL_MSG_BATCH_END, sequence + 1);
    match socket.commit(&writer, first, families.len()) {
        Ok(()) => Ok(()),
        Err(Refusal::Whole(error)) => Err(error.into()),
        Err(Refusal::Messages(errors)) => {
            let errno = errors.first().map_or(ENOENT, |(_, errno)| *errno);
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

fn list<T: Default>(
    socket: &mut Socket,
    kind: u8,
    family: Family,
    take: impl FnMut(&mut T, Attributes<'_>) -> Result<(), Malformed>,
) -> io::Result<T> {
    let kind = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, kind]);
    let request = |writer: &mut Writer, sequence| {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        writer.packet(kind, flags, sequence, header(family), |_| {});
    };
    Ok(socket.list_with(request, take)?)
}

const fn header(family: Family) -> [u8; 4] {
    match family {
        Family::V4 => [NFPROTO_IPV4, 0, 0, 0],
        Family::V6 => [NFPROTO_IPV6, 0, 0, 0],
    }
}
