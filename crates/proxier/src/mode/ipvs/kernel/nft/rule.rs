//! Encodes rules for the kernel.

use std::net::IpAddr;

use ipnet::IpNet;
use ipvs::Family;

use netlink::nftables::{compare, expression, load_meta, mask, mask_register, store_mark};
use netlink::uapi::*;
use netlink::{Writer, user_data};

use super::expression::{Checksums, Load, store_field};
use crate::desired::PodInterfaces;
use crate::mode::ipvs::rules::{
    Chain, CtState, Field, Fingerprint, Rule, Set, Statement, TABLE, TransportProtocol, range_mask,
    range_tag,
};

/// `lo` has this index in every network namespace; the kernel's LOOPBACK_IFINDEX.
const LOOPBACK: u32 = 1;

/// The user data of each rule. It shows whether a ruleset is complete without parsing the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RuleTag {
    /// The ruleset of the rule.
    pub(crate) fingerprint: Fingerprint,
    /// Its index in the ruleset.
    pub(crate) index: u16,
    /// The number of rules in the ruleset.
    pub(crate) count: u16,
}

impl RuleTag {
    pub(crate) fn to_bytes(self) -> [u8; 13] {
        let mut bytes = [0; 13];
        let parts = self.fingerprint.to_bytes().into_iter();
        let parts = parts
            .chain(self.index.to_be_bytes())
            .chain(self.count.to_be_bytes());
        bytes
            .iter_mut()
            .zip(parts)
            .for_each(|(place, byte)| *place = byte);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (fingerprint, numbers) = bytes.split_at_checked(9)?;
        let [i0, i1, c0, c1] = *numbers else {
            return None;
        };
        Some(Self {
            fingerprint: Fingerprint::from_bytes(fingerprint)?,
            index: u16::from_be_bytes([i0, i1]),
            count: u16::from_be_bytes([c0, c1]),
        })
    }
}

pub(super) fn put_rule(
    writer: &mut Writer,
    sequence: u32,
    chain: &Chain,
    rule: &Rule,
    tag: RuleTag,
) {
    let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_APPEND;
    writer.message(NFT_MSG_NEWRULE, flags, sequence, |w| {
        w.text(NFTA_RULE_TABLE, TABLE);
        w.text(NFTA_RULE_CHAIN, chain.name);
        w.nested(NFTA_RULE_EXPRESSIONS, |w| {
            let mut family = None;
            for statement in rule.statements() {
                // A table of family inet must check a packet's family before it reads an address.
                let needed = statement.family();
                if needed.is_some() && family != needed {
                    put_family(w, needed);
                    family = needed;
                }
                put_statement(w, statement);
            }
        });
        w.attribute(NFTA_RULE_USERDATA, |w| {
            user_data::put(w, user_data::RULE_TAG, &[&tag.to_bytes()]);
        });
    });
}

fn put_family(w: &mut Writer, family: Option<Family>) {
    let number = match family {
        Some(Family::V6) => NFPROTO_IPV6,
        _ => NFPROTO_IPV4,
    };
    load_meta(w, NFT_META_NFPROTO, NFT_REG_1);
    compare(w, NFT_CMP_EQ, &[number]);
}

pub(crate) fn put_statement(w: &mut Writer, statement: &Statement) {
    match statement {
        Statement::Family(family) => put_family(w, Some(*family)),
        Statement::State(state) => put_state(w, *state),
        Statement::Reply => {
            load_ct(w, NFT_CT_DIRECTION);
            compare(w, NFT_CMP_EQ, &[IP_CT_DIR_REPLY]);
        }
        Statement::Translated => put_ct_bit(w, NFT_CT_STATUS, IPS_DST_NAT),
        Statement::Protocol(protocol) => put_protocol(w, NFT_CMP_EQ, *protocol),
        Statement::NotProtocol(protocol) => put_protocol(w, NFT_CMP_NEQ, *protocol),
        Statement::SourceNotIn(network) => put_in(w, NFT_CMP_NEQ, Field::Source, *network),
        Statement::DestinationNotIn(network) => {
            put_in(w, NFT_CMP_NEQ, Field::Destination, *network)
        }
        Statement::UdpChecksum => {
            put_protocol(w, NFT_CMP_EQ, TransportProtocol::Udp);
            Load::UDP_CHECKSUM.put(w, NFT_REG_1);
            compare(w, NFT_CMP_NEQ, &[0; 2]);
        }
        Statement::LocalSource => put_local(w, NFTA_FIB_F_SADDR),
        Statement::LocalDestination => put_local(w, NFTA_FIB_F_DADDR),
        Statement::In(set) => put_lookup(w, *set, |field| field, |_| {}),
        Statement::NotIn(set) => {
            let inverted = |w: &mut Writer| w.number(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
            put_lookup(w, *set, |field| field, inverted);
        }
        Statement::SourceNetworkIn(set, length) => put_network_lookup(w, *set, *length),
        Statement::From(set) => put_lookup(w, *set, Field::of_answer, |_| {}),
        Statement::NotFromLoopback => put_loopback(w, NFT_META_IIF, NFT_CMP_NEQ),
        Statement::ToLoopback => put_loopback(w, NFT_META_OIF, NFT_CMP_EQ),
        Statement::NotToLoopback => put_loopback(w, NFT_META_OIF, NFT_CMP_NEQ),
        Statement::NotFrom(interfaces) => put_from(w, NFT_CMP_NEQ, interfaces),
        Statement::HasMark(bits) => {
            load_meta(w, NFT_META_MARK, NFT_REG_1);
            mask(w, &bits.to_ne_bytes(), &[0; 4]);
            compare(w, NFT_CMP_EQ, &bits.to_ne_bytes());
        }
        Statement::SetMark(bits) => put_mark(w, !bits, *bits),
        Statement::ClearMark(bits) => put_mark(w, !bits, 0),
        Statement::MarkFrom(map) => {
            let loaded = |w: &mut Writer| w.number(NFTA_LOOKUP_DREG, NFT_REG_1);
            put_lookup(w, *map, |field| field, loaded);
            store_mark(w);
        }
        Statement::AnswerFrom(family) => put_answer_from(w, *family),
        Statement::AnswerFromPort(protocol) => put_answer_from_port(w, *protocol),
        Statement::Masquerade => expression(w, "masq", |w| {
            w.number(NFTA_MASQ_FLAGS, NF_NAT_RANGE_PROTO_RANDOM_FULLY);
        }),
        Statement::ResetTcp => put_reject(w, NFT_REJECT_TCP_RST, 0),
        Statement::RejectPort => {
            put_reject(w, NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH);
        }
        Statement::Drop => put_verdict(w, NF_DROP, None),
        Statement::Jump(chain) => put_verdict(w, NFT_JUMP, Some(chain)),
        Statement::Goto(chain) => put_verdict(w, NFT_GOTO, Some(chain)),
        Statement::Return => put_verdict(w, NFT_RETURN, None),
    }
}

fn put_state(w: &mut Writer, state: CtState) {
    let bit = match state {
        CtState::New => NF_CT_STATE_NEW,
        CtState::Established => NF_CT_STATE_ESTABLISHED,
        CtState::Related => NF_CT_STATE_RELATED,
        CtState::Invalid => NF_CT_STATE_INVALID,
    };
    put_ct_bit(w, NFT_CT_STATE, bit);
}

fn put_ct_bit(w: &mut Writer, key: u32, bit: u32) {
    load_ct(w, key);
    mask(w, &bit.to_ne_bytes(), &[0; 4]);
    compare(w, NFT_CMP_NEQ, &[0; 4]);
}

fn load_ct(w: &mut Writer, key: u32) {
    expression(w, "ct", |w| {
        w.number(NFTA_CT_KEY, key);
        w.number(NFTA_CT_DREG, NFT_REG_1);
    });
}

/// Offsets of checksums as in struct iphdr; IPv6 has none.
fn put_answer_from(w: &mut Writer, family: Family) {
    let (key, own) = match family {
        Family::V4 => (NFT_CT_DST_IP, Some(10)),
        Family::V6 => (NFT_CT_DST_IP6, None),
    };
    let checksums = Checksums {
        own,
        pseudo_header: true,
    };
    load_original(w, key);
    store_field(w, Field::Source, family, &checksums);
}

/// Offsets of checksums as in struct tcphdr and struct udphdr.
fn put_answer_from_port(w: &mut Writer, protocol: TransportProtocol) {
    let own = match protocol {
        TransportProtocol::Tcp => Some(16),
        TransportProtocol::Udp => Some(6),
        _ => None,
    };
    let checksums = Checksums {
        own,
        pseudo_header: false,
    };
    load_original(w, NFT_CT_PROTO_DST);
    store_field(w, Field::SourcePort, Family::V4, &checksums);
}

/// Loads a property of the connection's original direction into register 1.
fn load_original(w: &mut Writer, key: u32) {
    expression(w, "ct", |w| {
        w.number(NFTA_CT_KEY, key);
        w.number(NFTA_CT_DREG, NFT_REG_1);
        w.put(NFTA_CT_DIRECTION, &[IP_CT_DIR_ORIGINAL]);
    });
}

fn put_local(w: &mut Writer, address: u32) {
    expression(w, "fib", |w| {
        w.number(NFTA_FIB_DREG, NFT_REG_1);
        w.number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
        w.number(NFTA_FIB_FLAGS, address);
    });
    compare(w, NFT_CMP_EQ, &RTN_LOCAL.to_ne_bytes());
}

fn put_loopback(w: &mut Writer, key: u32, operator: u32) {
    load_meta(w, key, NFT_REG_1);
    compare(w, operator, &LOOPBACK.to_ne_bytes());
}

/// Compares the interface by which a packet came (`NFT_CMP_…`) with a name padded with NULs, or with
/// an unpadded prefix.
pub(crate) fn put_from(w: &mut Writer, operator: u32, interfaces: &PodInterfaces) {
    load_meta(w, NFT_META_IIFNAME, NFT_REG_1);
    match interfaces {
        PodInterfaces::Named(name) => {
            let mut padded = [0; 16];
            let bytes = name.as_str().bytes();
            padded
                .iter_mut()
                .zip(bytes)
                .for_each(|(place, byte)| *place = byte);
            compare(w, operator, &padded);
        }
        PodInterfaces::Prefixed(prefix) => compare(w, operator, prefix.as_str().as_bytes()),
    }
}

fn put_protocol(w: &mut Writer, operator: u32, protocol: TransportProtocol) {
    load_meta(w, NFT_META_L4PROTO, NFT_REG_1);
    compare(w, operator, &[protocol.number()]);
}

/// Compares whether an address of the packet is in a network (`NFT_CMP_EQ`) or not (`NFT_CMP_NEQ`).
pub(crate) fn put_in(w: &mut Writer, operator: u32, field: Field, network: IpNet) {
    Load::of(field, Family::of(&network.addr())).put(w, NFT_REG_1);
    if network.prefix_len() < network.max_prefix_len() {
        match network.netmask() {
            IpAddr::V4(netmask) => mask(w, &netmask.octets(), &[0; 4]),
            IpAddr::V6(netmask) => mask(w, &netmask.octets(), &[0; 16]),
        }
    }
    match network.network() {
        IpAddr::V4(address) => compare(w, operator, &address.octets()),
        IpAddr::V6(address) => compare(w, operator, &address.octets()),
    }
}

fn put_lookup(
    w: &mut Writer,
    set: Set,
    of_packet: fn(Field) -> Field,
    more: impl FnOnce(&mut Writer),
) {
    load_key(w, set, of_packet, |_, _, _| {});
    lookup(w, set, more);
}

/// Loads a key of the packet; `change` sees each field and its register.
fn load_key(
    w: &mut Writer,
    set: Set,
    of_packet: fn(Field) -> Field,
    change: impl Fn(&mut Writer, u32, Field),
) {
    let mut register = NFT_REG32_00;
    for field in set.fields() {
        let load = Load::of(of_packet(*field), set.family());
        load.put(w, register);
        change(w, register, *field);
        register += load.register_length() / 4;
    }
}

fn lookup(w: &mut Writer, set: Set, more: impl FnOnce(&mut Writer)) {
    expression(w, "lookup", |w| {
        w.text(NFTA_LOOKUP_SET, set.name());
        w.number(NFTA_LOOKUP_SREG, NFT_REG32_00);
        more(w);
    });
}

fn put_network_lookup(w: &mut Writer, set: Set, length: u8) {
    load_key(
        w,
        set,
        |field| field,
        |w, register, field| {
            put_of_network(w, register, (field, set.family()), length);
        },
    );
    lookup(w, set, |_| {});
}

/// Changes a loaded field of a key with the network of the source: masks the source, and flips the
/// bits of the protocol that tell the length.
pub(crate) fn put_of_network(
    w: &mut Writer,
    register: u32,
    (field, family): (Field, Family),
    length: u8,
) {
    match (field, range_tag(family, length), range_mask(family, length)) {
        (Field::Protocol, tag @ 1.., _) => {
            mask_register(w, register, &[0xff], &[tag]);
        }
        (Field::Source, 1.., Some(IpAddr::V4(mask))) => {
            mask_register(w, register, &mask.octets(), &[0; 4]);
        }
        (Field::Source, 1.., Some(IpAddr::V6(mask))) => {
            mask_register(w, register, &mask.octets(), &[0; 16]);
        }
        _ => {}
    }
}

fn put_mark(w: &mut Writer, kept: u32, flipped: u32) {
    load_meta(w, NFT_META_MARK, NFT_REG_1);
    mask(w, &kept.to_ne_bytes(), &flipped.to_ne_bytes());
    store_mark(w);
}

fn put_reject(w: &mut Writer, kind: u32, code: u8) {
    expression(w, "reject", |w| {
        w.number(NFTA_REJECT_TYPE, kind);
        w.put(NFTA_REJECT_ICMP_CODE, &[code]);
    });
}

fn put_verdict(w: &mut Writer, code: i32, chain: Option<&str>) {
    expression(w, "immediate", |w| {
        w.number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        w.nested(NFTA_IMMEDIATE_DATA, |w| {
            w.nested(NFTA_DATA_VERDICT, |w| {
                w.put(NFTA_VERDICT_CODE, &code.to_be_bytes());
                if let Some(chain) = chain {
                    w.text(NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    });
}
