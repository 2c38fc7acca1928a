//! Decodes the expressions of a rule.

use super::field::below;
use super::{Condition, Detail, Field, Interface, Rule, Side, TableFamily, Verdict, Within};
use crate::uapi::*;
use crate::{Attributes, Malformed};

/// Where the kernel puts a field of an IP header: its offset in IPv4 and in IPv6.
const NETWORK: [(Field, [u32; 2]); 3] = [
    (Field::Source, [12, 8]),
    (Field::Destination, [16, 24]),
    (Field::Protocol, [9, 6]),
];
/// The index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

/// A rule whose sets are not looked up yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) rule: Rule,
    pub(super) sets: Vec<Lookup>,
    /// The family of the packets, as far as it is known.
    protocol: Option<u8>,
}

/// A lookup in a set.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    pub(super) set: String,
    loaded: Loaded,
    is_v6: bool,
    /// Whether the set is a map to verdicts.
    is_map: bool,
    is_not: bool,
}

/// An element of a set.
#[derive(Debug)]
pub(super) struct Element {
    /// First and last key.
    pub(super) keys: [Vec<u8>; 2],
    pub(super) verdict: Verdict,
}

/// What a register contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loaded {
    State,
    Status,
    Mark,
    /// The first bytes of a field.
    Field(Field, usize),
    Interface(Side),
    InterfaceIndex(Side),
    Other,
}

impl Draft {
    pub(super) fn parse(
        rule: Attributes<'_>,
        family: TableFamily,
        detail: Detail,
    ) -> Result<Self, Malformed> {
        let handle = rule.get(NFTA_RULE_HANDLE);
        let handle = handle.map(|of| of.array().map(u64::from_be_bytes));
        let mut draft = Self {
            rule: Rule {
                handle: handle.transpose()?,
                ..Rule::new(Vec::new(), Verdict::Continue)
            },
            sets: Vec::new(),
            protocol: family.protocol(),
        };
        let (mut loaded, mut mask) = (Loaded::Other, None);
        for expression in rule.list(NFTA_RULE_EXPRESSIONS)? {
            let expression = expression.attributes()?;
            let name = expression.text(NFTA_EXPR_NAME).unwrap_or_default();
            let data = expression.nested(NFTA_EXPR_DATA)?;
            let Some(data) = data else { continue };
            match name {
                // They store a value, or have no influence on the verdict.
                "meta" if data.get(NFTA_META_DREG).is_none() => {}
                "ct" if data.get(NFTA_CT_DREG).is_none() => {}
                "counter" | "log" | "notrack" | "last" => {}
                "match" if data.text(NFTA_MATCH_NAME) == Some("comment") => {}
                "meta" => (loaded, mask) = (meta(data.number(NFTA_META_KEY)?), None),
                "ct" => {
                    loaded = match data.number(NFTA_CT_KEY)? {
                        Some(NFT_CT_STATE) => Loaded::State,
                        Some(NFT_CT_STATUS) => Loaded::Status,
                        _ => Loaded::Other,
                    };
                    mask = None;
                }
                "payload" => (loaded, mask) = (draft.payload(data)?, None),
                "bitwise" => match (
                    bytes(data, NFTA_BITWISE_MASK)?,
                    bytes(data, NFTA_BITWISE_XOR)?,
                ) {
                    (Some(bits), Some(xor)) if xor.iter().all(|byte| *byte == 0) => {
                        mask = Some(bits);
                    }
                    _ => loaded = Loaded::Other,
                },
                "cmp" => {
                    let operator = data.number(NFTA_CMP_OP)?.unwrap_or_default();
                    let value = bytes(data, NFTA_CMP_DATA)?.unwrap_or_default();
                    draft.compare(loaded, mask, operator, value);
                }
                "range" => {
                    let is_not = data.number(NFTA_RANGE_OP)? == Some(NFT_CMP_NEQ);
                    let ends = [NFTA_RANGE_FROM, NFTA_RANGE_TO].map(|end| bytes(data, end));
                    let [Ok(Some(first)), Ok(Some(last))] = ends else {
                        draft.demand(Condition::Other);
                        continue;
                    };
                    let of = draft.within(loaded, mask, &[[first, last]], is_not);
                    draft.demand(of.unwrap_or(Condition::Other));
                }
                "lookup" => {
                    let is_not = data.number(NFTA_LOOKUP_FLAGS)?.unwrap_or(0) != 0;
                    let set = data.text(NFTA_LOOKUP_SET).filter(|_| {
                        let is_state = loaded == Loaded::State && !is_not;
                        let is_other = matches!(loaded, Loaded::State | Loaded::Other);
                        mask.is_none() && (is_state || detail == Detail::Whole && !is_other)
                    });
                    match set {
                        Some(set) => draft.sets.push(Lookup {
                            set: set.to_owned(),
                            loaded,
                            is_v6: draft.is_v6(),
                            is_map: data.get(NFTA_LOOKUP_DREG).is_some(),
                            is_not,
                        }),
                        None => draft.demand(Condition::Other),
                    }
                }
                "immediate" => {
                    let value = data.nested(NFTA_IMMEDIATE_DATA)?;
                    let verdict = value.map(verdict).transpose()?.flatten();
                    draft.rule.verdict = verdict.unwrap_or(Verdict::Continue);
                }
                "reject" => draft.rule.verdict = Verdict::Reject,
                "target" => {
                    if data.text(NFTA_TARGET_NAME) == Some("REJECT") {
                        draft.rule.verdict = Verdict::Reject;
                    }
                }
                _ => {
                    loaded = Loaded::Other;
                    draft.demand(Condition::Other);
                }
            }
        }
        Ok(draft)
    }

    fn demand(&mut self, condition: Condition) {
        self.rule.conditions.push(condition);
    }

    fn is_v6(&self) -> bool {
        self.protocol == Some(NFPROTO_IPV6)
    }

    /// What a part of the packet is, if its headers are those of a known family.
    fn payload(&self, data: Attributes<'_>) -> Result<Loaded, Malformed> {
        let base = data.number(NFTA_PAYLOAD_BASE)?;
        let offset = data.number(NFTA_PAYLOAD_OFFSET)?.unwrap_or(u32::MAX);
        let length = data.number(NFTA_PAYLOAD_LEN)?.unwrap_or_default();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let is_v6 = self.is_v6();
        let field = match (base, self.protocol) {
            (Some(NFT_PAYLOAD_NETWORK_HEADER), Some(_)) => {
                let mut fields = NETWORK.into_iter();
                fields.find_map(|(field, [v4, v6])| {
                    (offset == if is_v6 { v6 } else { v4 }).then_some(field)
                })
            }
            (Some(NFT_PAYLOAD_TRANSPORT_HEADER), _) => match offset {
                0 => Some(Field::SourcePort),
                2 => Some(Field::DestinationPort),
                _ => None,
            },
            _ => None,
        };
        let field = field.filter(|field| (1..=field.length(is_v6)).contains(&length));
        Ok(field.map_or(Loaded::Other, |field| Loaded::Field(field, length)))
    }

    fn compare(&mut self, loaded: Loaded, mask: Option<&[u8]>, operator: u32, value: &[u8]) {
        let is_equal = operator == NFT_CMP_EQ;
        let field_length = match loaded {
            Loaded::Field(_, length) => length,
            _ => 0,
        };
        let zeros = vec![0; field_length];
        let ones = vec![u8::MAX; field_length];
        let step = |value: &[u8], up: bool| {
            let number = number(value);
            let next = if up {
                number.checked_add(1)
            } else {
                number.checked_sub(1)
            };
            next.map(|next| tail(next, value.len()))
        };
        let condition = match (loaded, operator) {
            (Loaded::State | Loaded::Status | Loaded::Mark, NFT_CMP_EQ | NFT_CMP_NEQ) => {
                let mask = mask.map(word);
                match (mask, word(value)) {
                    (Some(None), _) | (_, None) => None,
                    (mask, Some(value)) => Some(compared(loaded, mask.flatten(), is_equal, value)),
                }
            }
            (Loaded::InterfaceIndex(side), NFT_CMP_EQ | NFT_CMP_NEQ)
                if word(value) == Some(LOOPBACK) =>
            {
                Some(Condition::Interface(Interface {
                    side,
                    name: "lo".to_owned(),
                    is_prefix: false,
                    is_not: !is_equal,
                }))
            }
            (Loaded::Interface(_), NFT_CMP_EQ | NFT_CMP_NEQ) if mask.is_none() => {
                interface(loaded, value, !is_equal)
            }
            (Loaded::Field(..), NFT_CMP_EQ | NFT_CMP_NEQ) => {
                self.within(loaded, mask, &[[value, value]], !is_equal)
            }
            (Loaded::Field(..), NFT_CMP_LTE) => {
                self.within(loaded, mask, &[[&zeros, value]], false)
            }
            (Loaded::Field(..), NFT_CMP_GTE) => self.within(loaded, mask, &[[value, &ones]], false),
            (Loaded::Field(..), NFT_CMP_LT) => step(value, false)
                .and_then(|last| self.within(loaded, mask, &[[&zeros, &last]], false)),
            (Loaded::Field(..), NFT_CMP_GT) => step(value, true)
                .and_then(|first| self.within(loaded, mask, &[[&first, &ones]], false)),
            _ => None,
        };
        if let Some(Condition::Field(of)) = &condition
            && of.field == Field::Family
            && let [(family, _)] = of.ranges.as_slice()
            && !of.is_not
        {
            self.protocol = u8::try_from(*family).ok();
        }
        self.demand(condition.unwrap_or(Condition::Other));
    }

    /// A condition that a field lies within ranges of its first bytes.
    fn within(
        &self,
        loaded: Loaded,
        mask: Option<&[u8]>,
        ranges: &[[&[u8]; 2]],
        is_not: bool,
    ) -> Option<Condition> {
        let ranges = ranges.iter().map(|ends| ends.map(<[u8]>::to_vec));
        within(loaded, self.is_v6(), mask, ranges, is_not)
    }

    /// Replaces a lookup by the elements of its set: a condition, or a rule for each.
    pub(super) fn look_up(rules: Vec<Rule>, lookup: &Lookup, elements: &[Element]) -> Vec<Rule> {
        let replaced = rules.into_iter().flat_map(|rule| match lookup.is_map {
            true => {
                let of_element = elements.iter().map(|element| {
                    let mut rule = rule.clone();
                    let only = std::slice::from_ref(element);
                    rule.conditions.push(lookup.condition(only));
                    rule.verdict = element.verdict.clone();
                    rule
                });
                of_element.collect::<Vec<_>>()
            }
            false => {
                let mut rule = rule;
                rule.conditions.push(lookup.condition(elements));
                vec![rule]
            }
        });
        replaced.collect()
    }
}

impl Lookup {
    fn condition(&self, elements: &[Element]) -> Condition {
        let known = match (self.loaded, elements) {
            (Loaded::State, _) => {
                let states = elements.iter().map(|of| word(&of.keys[0]).unwrap_or(0));
                Some(Condition::State(states.fold(0, |all, state| all | state)))
            }
            (Loaded::Interface(_), [only]) => interface(self.loaded, &only.keys[0], self.is_not),
            (Loaded::Field(..), _) => {
                let ranges = elements.iter().map(|of| of.keys.clone());
                within(self.loaded, self.is_v6, None, ranges, self.is_not)
            }
            _ => None,
        };
        known.unwrap_or(Condition::Other)
    }
}

fn meta(key: Option<u32>) -> Loaded {
    match key {
        Some(NFT_META_MARK) => Loaded::Mark,
        Some(NFT_META_NFPROTO) => Loaded::Field(Field::Family, 1),
        Some(NFT_META_L4PROTO) => Loaded::Field(Field::Protocol, 1),
        Some(NFT_META_IIFNAME) => Loaded::Interface(Side::In),
        Some(NFT_META_OIFNAME) => Loaded::Interface(Side::Out),
        Some(NFT_META_IIF) => Loaded::InterfaceIndex(Side::In),
        Some(NFT_META_OIF) => Loaded::InterfaceIndex(Side::Out),
        _ => Loaded::Other,
    }
}

/// A comparison with the name of an interface. Without the zero at its end, any longer name is equal,
/// too.
fn interface(loaded: Loaded, value: &[u8], is_not: bool) -> Option<Condition> {
    let Loaded::Interface(side) = loaded else {
        return None;
    };
    let end = value.iter().position(|byte| *byte == 0);
    let name = value.get(..end.unwrap_or(value.len()))?;
    Some(Condition::Interface(Interface {
        side,
        name: std::str::from_utf8(name).ok()?.to_owned(),
        is_prefix: end.is_none(),
        is_not,
    }))
}

fn within(
    loaded: Loaded,
    is_v6: bool,
    mask: Option<&[u8]>,
    ranges: impl Iterator<Item = [Vec<u8>; 2]>,
    is_not: bool,
) -> Option<Condition> {
    let Loaded::Field(field, length) = loaded else {
        return None;
    };
    let bits = |bytes: usize| u8::try_from(bytes.saturating_mul(8)).unwrap_or(u8::MAX);
    // What the loaded bytes leave open: those behind them, and those behind a mask.
    let unmasked = match mask {
        None => 0,
        Some(mask) => {
            let mask = number(mask);
            let open = u8::try_from(mask.trailing_zeros()).ok()?;
            (mask | below(open) == below(bits(length))).then_some(open)?
        }
    };
    let behind = bits(field.length(is_v6).checked_sub(length)?);
    let open = below(behind.saturating_add(unmasked));
    let ranges = ranges.map(|ends| {
        let has_length = ends.iter().all(|end| end.len() == length);
        let [first, last] = ends.map(|end| number(&end).checked_shl(behind.into()));
        has_length.then_some((first?, last? | open))
    });
    Some(Condition::Field(Within {
        field,
        is_v6,
        ranges: ranges.collect::<Option<_>>()?,
        is_not,
    }))
}

/// The condition that a comparison makes of a connection's state or of a mark.
const fn compared(loaded: Loaded, mask: Option<u32>, is_equal: bool, value: u32) -> Condition {
    match (loaded, mask, is_equal, value) {
        (Loaded::State, Some(bits), false, 0) | (Loaded::State, None, true, bits) => {
            Condition::State(bits)
        }
        (Loaded::Status, Some(bits), false, 0) => Condition::Status(bits),
        (Loaded::Mark, Some(mask), true, value) => Condition::Mark { mask, value },
        (Loaded::Mark, None, true, value) => Condition::Mark {
            mask: u32::MAX,
            value,
        },
        (Loaded::Mark, Some(mask), false, 0) if mask.is_power_of_two() => {
            let value = mask;
            Condition::Mark { mask, value }
        }
        _ => Condition::Other,
    }
}

fn bytes(data: Attributes<'_>, kind: u16) -> Result<Option<&[u8]>, Malformed> {
    let data = data.nested(kind)?;
    Ok(data.and_then(|data| data.value(NFTA_DATA_VALUE)))
}

/// A value of four bytes in the order of the machine; `None` if it has another length.
fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Bytes in network order as a number. More than sixteen lose their first.
fn number(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0, |all, byte| all << 8 | u128::from(*byte))
}

/// The last bytes of a number in network order.
fn tail(number: u128, length: usize) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let skip = bytes.len().saturating_sub(length);
    bytes.into_iter().skip(skip).collect()
}

/// The verdict in a value; `None` if the value is not a verdict.
pub(super) fn verdict(value: Attributes<'_>) -> Result<Option<Verdict>, Malformed> {
    let Some(verdict) = value.nested(NFTA_DATA_VERDICT)? else {
        return Ok(None);
    };
    let code = verdict.require(NFTA_VERDICT_CODE)?.number()?.cast_signed();
    let chain = || {
        verdict
            .text(NFTA_VERDICT_CHAIN)
            .unwrap_or_default()
            .to_owned()
    };
    const ACCEPT: i32 = NF_ACCEPT.cast_signed();
    Ok(Some(match code {
        NF_DROP => Verdict::Drop,
        ACCEPT => Verdict::Accept,
        NFT_JUMP => Verdict::Jump(chain()),
        NFT_GOTO => Verdict::Goto(chain()),
        NFT_RETURN => Verdict::Return,
        _ => Verdict::Continue,
    }))
}
