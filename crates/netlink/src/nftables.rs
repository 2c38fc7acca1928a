//! nftables: tables and chains of one address family, by name; and expressions, which rules consist
//! of in the kernel. They work on registers.

use std::io;

use crate::socket::Socket;
use crate::uapi::*;
use crate::{Attributes, Batch, Family, Malformed, Writer};

/// The families that have a table of this name.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn families_with(socket: &mut Socket, table: &str) -> io::Result<Vec<Family>> {
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        let is_there = list(
            socket,
            NFT_MSG_GETTABLE,
            family.header(),
            |_| {},
            |is_there, listed| {
                *is_there |= listed.text(NFTA_TABLE_NAME) == Some(table);
                Ok(())
            },
        )?;
        if is_there {
            found.push(family);
        }
    }
    Ok(found)
}

/// The tables and names of all chains of a family.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn chains(socket: &mut Socket, family: Family) -> io::Result<Vec<(String, String)>> {
    list(
        socket,
        NFT_MSG_GETCHAIN,
        family.header(),
        |_| {},
        |chains: &mut Vec<_>, chain| {
            let (table, name) = (chain.text(NFTA_CHAIN_TABLE), chain.text(NFTA_CHAIN_NAME));
            chains.extend(table.zip(name).map(|(t, n)| (t.to_owned(), n.to_owned())));
            Ok(())
        },
    )
}

/// Deletes the tables of this name in these families, in one transaction.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn delete(socket: &mut Socket, table: &str, families: &[Family]) -> io::Result<()> {
    let mut batch = Batch::begin(socket);
    for (step, family) in families.iter().enumerate() {
        batch.message(step, |w, sequence| {
            let kind = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE]);
            w.packet(kind, NLM_F_REQUEST, sequence, family.header(), |w| {
                w.text(NFTA_TABLE_NAME, table);
            });
        });
    }
    Ok(batch.commit(socket)?)
}

/// Lists objects of nftables: those of a family that have what `content` writes.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn list<T: Default>(
    socket: &mut Socket,
    kind: u8,
    family: [u8; 4],
    content: impl Fn(&mut Writer),
    take: impl FnMut(&mut T, Attributes<'_>) -> Result<(), Malformed>,
) -> io::Result<T> {
    let kind = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, kind]);
    let request = |writer: &mut Writer, sequence| {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        writer.packet(kind, flags, sequence, family, &content);
    };
    Ok(socket.list_with(request, take)?)
}

/// An expression of a rule: its name and what `data` writes.
pub fn expression(w: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    w.nested(NFTA_LIST_ELEM, |w| {
        w.text(NFTA_EXPR_NAME, name);
        w.nested(NFTA_EXPR_DATA, data);
    });
}

/// Loads metadata of the packet (`NFT_META_…`) into a register.
pub fn load_meta(w: &mut Writer, key: u32, register: u32) {
    expression(w, "meta", |w| {
        w.number(NFTA_META_KEY, key);
        w.number(NFTA_META_DREG, register);
    });
}

/// Continues the rule if the comparison (`NFT_CMP_…`) of register 1 with a value is true.
pub fn compare(w: &mut Writer, operator: u32, value: &[u8]) {
    expression(w, "cmp", |w| {
        w.number(NFTA_CMP_SREG, NFT_REG_1);
        w.number(NFTA_CMP_OP, operator);
        w.nested(NFTA_CMP_DATA, |w| w.put(NFTA_DATA_VALUE, value));
    });
}

/// Sets register 1 to `register & mask ^ xor`.
pub fn mask(w: &mut Writer, mask: &[u8], xor: &[u8]) {
    mask_register(w, NFT_REG_1, mask, xor);
}

/// Sets a register, and those after it, to `register & mask ^ xor`.
pub fn mask_register(w: &mut Writer, register: u32, mask: &[u8], xor: &[u8]) {
    expression(w, "bitwise", |w| {
        w.number(NFTA_BITWISE_SREG, register);
        w.number(NFTA_BITWISE_DREG, register);
        w.number(
            NFTA_BITWISE_LEN,
            u32::try_from(mask.len()).unwrap_or(u32::MAX),
        );
        w.nested(NFTA_BITWISE_MASK, |w| w.put(NFTA_DATA_VALUE, mask));
        w.nested(NFTA_BITWISE_XOR, |w| w.put(NFTA_DATA_VALUE, xor));
    });
}

/// Sets the packet's mark to register 1.
pub fn store_mark(w: &mut Writer) {
    expression(w, "meta", |w| {
        w.number(NFTA_META_KEY, NFT_META_MARK);
        w.number(NFTA_META_SREG, NFT_REG_1);
    });
}
