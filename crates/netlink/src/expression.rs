//! nftables expressions, which rules consist of in the kernel. They work on registers.

use crate::Writer;
use crate::uapi::*;

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

/// Sets the packet's mark to register 1.
pub fn store_mark(w: &mut Writer) {
    expression(w, "meta", |w| {
        w.number(NFTA_META_KEY, NFT_META_MARK);
        w.number(NFTA_META_SREG, NFT_REG_1);
    });
}
