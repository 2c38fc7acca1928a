//! Encodes rules for the kernel.
//!
//! A key is loaded into registers of four bytes each, from register 0 on. A rule loads all that it
//! needs itself: the kernel does not guarantee that registers keep their values from one rule to the
//! next.
//!
//! No key contains what a map has yielded: nft cannot list such a rule, and aborts
//! (`netlink_parse_concat_expr` in nftables 1.0.6). What a rule needs of another map is the packet's
//! number, which is kept in its priority. That is free for it: only the first packet of a connection
//! passes these chains, and its priority is cleared in the end.

use std::num::NonZeroU32;

use ipvs::Family;
use netlink::Writer;
use netlink::nftables::{compare, expression, load_meta, mask_register};
use netlink::uapi::*;

use crate::mode::ipvs::kernel::nft::{Load, put_from, put_in, put_of_network, put_statement};
use crate::mode::ipvs::plan::Audience;
use crate::mode::ipvs::rules::Field;
use crate::mode::nftables::Set;
use crate::mode::nftables::element::EXTERNAL;
use crate::mode::nftables::rules::{Statement, To};
use crate::mode::nftables::set::Part;

/// Writes statements of the table of one family.
pub(super) struct Encoder {
    pub(super) family: Family,
}

/// The register with this number.
const fn register(number: u32) -> u32 {
    NFT_REG32_00 + number
}

impl Encoder {
    pub(super) fn put(&self, w: &mut Writer, statement: &Statement) {
        match statement {
            Statement::Plain(plain) => put_statement(w, plain),
            Statement::In(set, to) => {
                self.load_key(w, *set, *to, |_, _, _| {});
                put_find(w, *set, 0, None);
            }
            Statement::SourceNetworkIn(set, length) => {
                self.load_key(w, *set, To::Address, |w, register, field| {
                    put_of_network(w, register, (field, self.family), *length);
                });
                put_find(w, *set, 0, None);
            }
            Statement::SourceIn(network) => put_in(w, NFT_CMP_EQ, Field::Source, *network),
            Statement::DestinationIn(network) => {
                put_in(w, NFT_CMP_EQ, Field::Destination, *network)
            }
            Statement::FromInterfaces(interfaces) => put_from(w, NFT_CMP_EQ, interfaces),
            Statement::NotLocalSource => {
                expression(w, "fib", |w| {
                    w.number(NFTA_FIB_DREG, NFT_REG_1);
                    w.number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                    w.number(NFTA_FIB_FLAGS, NFTA_FIB_F_SADDR);
                });
                compare(w, NFT_CMP_NEQ, &RTN_LOCAL.to_ne_bytes());
            }
            Statement::RejectPort(family) => expression(w, "reject", |w| {
                w.number(NFTA_REJECT_TYPE, NFT_REJECT_ICMP_UNREACH);
                let code = match family {
                    Family::V4 => ICMP_PORT_UNREACH,
                    Family::V6 => ICMPV6_PORT_UNREACH,
                };
                w.put(NFTA_REJECT_ICMP_CODE, &[code]);
            }),
            Statement::NumberFrom(set, to) => self.put_number_from(w, *set, *to),
            Statement::ContinueIn(chains) => {
                load_meta(w, NFT_META_PRIORITY, register(0));
                expression(w, "lookup", |w| {
                    w.text(NFTA_LOOKUP_SET, chains.name());
                    w.number(NFTA_LOOKUP_SREG, register(0));
                    w.number(NFTA_LOOKUP_DREG, NFT_REG_VERDICT);
                });
            }
            Statement::Draw(audience, count) => {
                expression(w, "numgen", |w| {
                    w.number(NFTA_NG_DREG, register(0));
                    w.number(NFTA_NG_MODULUS, count.get());
                    w.number(NFTA_NG_TYPE, NFT_NG_RANDOM);
                    if *audience == Audience::External {
                        w.number(NFTA_NG_OFFSET, EXTERNAL);
                    }
                });
                put_store_number(w, register(0));
            }
            Statement::Lasting(to) => {
                let next = self.load_frontend(w, *to, 0);
                load_meta(w, NFT_META_PRIORITY, register(next));
                put_find(w, Set::Numbers, 0, Some(next + 1));
                put_store_number(w, register(next + 1));
            }
            Statement::ForgetNumber => {
                put_immediate(w, register(0), &[0; 4]);
                put_store_number(w, register(0));
            }
            Statement::NumberOfClient(to) => {
                let next = self.load_client(w, *to);
                put_find(w, Set::Affinity, 0, Some(next));
                put_store_number(w, register(next));
            }
            Statement::Forget(to, seconds) => {
                self.put_client(w, NFT_DYNSET_OP_DELETE, *to, *seconds);
            }
            Statement::Remember(to, seconds) => {
                self.put_client(w, NFT_DYNSET_OP_UPDATE, *to, *seconds);
            }
            Statement::ToNumber(to) => {
                let next = self.load_frontend(w, *to, 0);
                load_meta(w, NFT_META_PRIORITY, register(next));
                self.put_translation(w, next + 1);
            }
        }
    }

    /// Loads a field of the packet. Returns the next register.
    fn load(&self, w: &mut Writer, field: Field, to: To, number: u32) -> u32 {
        let load = Load::of(field, self.family);
        load.put(w, register(number));
        if let (Field::Destination, To::NodePort) = (field, to) {
            // The unspecified address in a form that nft lists and reads.
            let (zeros, length) = ([0; 16], load.register_length());
            let zeros = zeros.get(..length as usize).unwrap_or_default();
            mask_register(w, register(number), zeros, zeros);
        }
        number + load.register_length() / 4
    }

    /// Loads a destination: address, protocol and port. Returns the next register.
    fn load_frontend(&self, w: &mut Writer, to: To, mut number: u32) -> u32 {
        for field in [Field::Destination, Field::Protocol, Field::Port] {
            number = self.load(w, field, to, number);
        }
        number
    }

    /// Loads the key of a set; `change` sees each field and its register.
    fn load_key(&self, w: &mut Writer, set: Set, to: To, change: impl Fn(&mut Writer, u32, Field)) {
        let mut number = 0;
        for part in set.key() {
            if let Part::Field(field) = part {
                let next = self.load(w, *field, to, number);
                change(w, register(number), *field);
                number = next;
            }
        }
    }

    /// Keeps the value of a map as the packet's number.
    fn put_number_from(&self, w: &mut Writer, set: Set, to: To) {
        let next = self.load_frontend(w, to, 0);
        put_find(w, set, 0, Some(next));
        put_store_number(w, register(next));
    }

    /// Loads the key of a client: destination and source. Returns the next register.
    fn load_client(&self, w: &mut Writer, to: To) -> u32 {
        let next = self.load_frontend(w, to, 0);
        self.load(w, Field::Source, to, next)
    }

    /// Changes the map of clients; the value is the packet's number.
    fn put_client(&self, w: &mut Writer, operation: u32, to: To, seconds: NonZeroU32) {
        let number = self.load_client(w, to);
        load_meta(w, NFT_META_PRIORITY, register(number));
        expression(w, "dynset", |w| {
            w.text(NFTA_DYNSET_SET_NAME, Set::Affinity.name());
            w.number(NFTA_DYNSET_OP, operation);
            w.number(NFTA_DYNSET_SREG_KEY, register(0));
            w.number(NFTA_DYNSET_SREG_DATA, register(number));
            let milliseconds = u64::from(seconds.get()) * 1000;
            w.put(NFTA_DYNSET_TIMEOUT, &milliseconds.to_be_bytes());
        });
    }

    /// Finds the endpoint whose key begins in register 0, and translates the destination to it.
    fn put_translation(&self, w: &mut Writer, value: u32) {
        put_find(w, Set::Endpoints, 0, Some(value));
        expression(w, "nat", |w| {
            w.number(NFTA_NAT_TYPE, NFT_NAT_DNAT);
            let (family, registers) = match self.family {
                Family::V4 => (NFPROTO_IPV4, 1),
                Family::V6 => (NFPROTO_IPV6, 4),
            };
            w.number(NFTA_NAT_FAMILY, family.into());
            w.number(NFTA_NAT_REG_ADDR_MIN, register(value));
            w.number(NFTA_NAT_REG_PROTO_MIN, register(value + registers));
        });
    }
}

/// Looks up the key that begins in a register; `value` is the register for a map's value.
fn put_find(w: &mut Writer, set: Set, key: u32, value: Option<u32>) {
    expression(w, "lookup", |w| {
        w.text(NFTA_LOOKUP_SET, set.name());
        w.number(NFTA_LOOKUP_SREG, register(key));
        if let Some(value) = value {
            w.number(NFTA_LOOKUP_DREG, register(value));
        }
    });
}

/// Keeps a register as the packet's number.
fn put_store_number(w: &mut Writer, register: u32) {
    expression(w, "meta", |w| {
        w.number(NFTA_META_KEY, NFT_META_PRIORITY);
        w.number(NFTA_META_SREG, register);
    });
}

fn put_immediate(w: &mut Writer, register: u32, value: &[u8]) {
    expression(w, "immediate", |w| {
        w.number(NFTA_IMMEDIATE_DREG, register);
        w.nested(NFTA_IMMEDIATE_DATA, |w| w.put(NFTA_DATA_VALUE, value));
    });
}
