//! What nftables' rules are made of in the kernel: expressions that work on registers.

use crate::Writer;
use crate::uapi::*;

/// An expression of a rule: its name and what `data` writes.
pub fn expression(w: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    w.nested(NFTA_LIST_ELEM, |w| {
        w.text(NFTA_EXPR_NAME, name);
        w.nested(NFTA_EXPR_DATA, data);
    });
}

/// A register becomes something about the packet (`NFT_META_…`).
pub fn load_meta(w: &mut Writer, key: u32, register: u32) {
    expression(w, "meta", |w| {
        w.number(NFTA_META_KEY, key);
        w.number(NFTA_META_DREG, register);
    });
}

/// The rule goes on if register 1 compares so (`NFT_CMP_…`) with a value.
pub fn compare(w: &mut Writer, operator: u32, value: &[u8]) {
    expression(w, "cmp", |w| {
        w.number(NFTA_CMP_SREG, NFT_REG_1);
        w.number(NFTA_CMP_OP, operator);
        w.nested(NFTA_CMP_DATA, |w| w.put(NFTA_DATA_VALUE, value));
    });
}

/// Register 1 becomes itself & mask ^ xor.
pub fn mask(w: &mut Writer, mask: &[u8], xor: &[u8]) {
    expression(w, "bitwise", |w| {
        w.number(NFTA_BITWISE_SREG, NFT_REG_1);
        w.number(NFTA_BITWISE_DREG, NFT_REG_1);
        w.number(
            NFTA_BITWISE_LEN,
            u32::try_from(mask.len()).unwrap_or(u32::MAX),
        );
        w.nested(NFTA_BITWISE_MASK, |w| w.put(NFTA_DATA_VALUE, mask));
        w.nested(NFTA_BITWISE_XOR, |w| w.put(NFTA_DATA_VALUE, xor));
    });
}

/// Register 1 becomes the packet's mark.
pub fn store_mark(w: &mut Writer) {
    expression(w, "meta", |w| {
        w.number(NFTA_META_KEY, NFT_META_MARK);
        w.number(NFTA_META_SREG, NFT_REG_1);
    });
}
