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

/// Lists objects of nftables: those of a family that have what `content` writes. A kernel without
/// nf_tables has none.
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
    match dump(socket, [NFNL_SUBSYS_NFTABLES, kind], family, content, take) {
        // An older kernel gives the same answer for a kind of object that it does not know.
        Err(error) if is_invalid(&error) && !exists(socket)? => Ok(T::default()),
        listed => listed,
    }
}

/// Whether the kernel has nf_tables, which a request makes it load.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn exists(socket: &mut Socket) -> io::Result<bool> {
    has(socket, [NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE])
}

/// Whether nfnetlink has the subsystem of a list without conditions, in which nothing can be wrong but
/// the subsystem (`nfnetlink_rcv_msg`).
fn has(socket: &mut Socket, list: [u8; 2]) -> io::Result<bool> {
    match dump(socket, list, [0; 4], |_| {}, |(), _| Ok(())) {
        Err(error) if is_invalid(&error) => Ok(false),
        listed => listed.map(|()| true),
    }
}

fn is_invalid(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

/// Lists objects of a subsystem.
fn dump<T: Default>(
    socket: &mut Socket,
    kind: [u8; 2],
    family: [u8; 4],
    content: impl Fn(&mut Writer),
    take: impl FnMut(&mut T, Attributes<'_>) -> Result<(), Malformed>,
) -> io::Result<T> {
    let kind = u16::from_be_bytes(kind);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel answers for nf_tables if it does not have it.
    #[test]
    #[ignore = "netns: needs root"]
    fn netns_a_kernel_without_a_subsystem_is_recognised() {
        let mut socket = Socket::open().unwrap();
        assert!(exists(&mut socket).unwrap());
        // NFNL_SUBSYS_COUNT is 13.
        assert!(!has(&mut socket, [12 + 1, NFT_MSG_GETTABLE]).unwrap());
        assert!(!has(&mut socket, [u8::MAX, NFT_MSG_GETTABLE]).unwrap());
        // The socket goes on.
        assert!(exists(&mut socket).unwrap());
        let of_one = |w: &mut Writer| w.text(NFTA_CHAIN_TABLE, "svcproxy");
        let unknown = dump(
            &mut socket,
            [NFNL_SUBSYS_NFTABLES, u8::MAX],
            [0; 4],
            of_one,
            |(), _| Ok(()),
        );
        assert!(is_invalid(&unknown.unwrap_err()));
        let listed = list(&mut socket, u8::MAX, [0; 4], of_one, |(), _| Ok(()));
        assert!(
            is_invalid(&listed.unwrap_err()),
            "an error of a kernel that has nf_tables"
        );
    }
}
