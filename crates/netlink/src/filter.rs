//! What nftables' chains decide about packets, as far as svcproxy must know it.
//!
//! The rules of other programs are read only to find out whether they drop every packet of a kind.
//! So a [`Rule`] keeps the few conditions that are always true of such packets (the state of their
//! connection, their mark), and reduces all others to [`Condition::Other`]. iptables-nft's rules are
//! nftables rules, too.

use std::collections::BTreeMap;
use std::{fmt, io};

use crate::socket::Socket;
use crate::uapi::*;
use crate::{Attributes, Malformed, Writer, nftables};

/// A family of tables whose chains see IP packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TableFamily {
    /// Both families.
    Inet,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A place where a chain decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Packets for the node itself.
    Input,
    /// Packets that the node routes.
    Forward,
}

/// A chain at a hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaseChain {
    /// The family of its table.
    pub family: TableFamily,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its hook.
    pub hook: Hook,
    /// Its priority; lower ones run first.
    pub priority: i32,
    /// Whether its policy is to drop.
    pub drops: bool,
}

/// What a rule does with packets that meet all its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The conditions.
    pub conditions: Vec<Condition>,
    /// The verdict.
    pub verdict: Verdict,
}

/// A condition of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The connection has one of these states (`NF_CT_STATE_…`).
    State(u32),
    /// The connection has one of these properties (`IPS_…`).
    Status(u32),
    /// These bits of the mark have this value.
    Mark {
        /// The bits.
        mask: u32,
        /// Their value.
        value: u32,
    },
    /// Anything else.
    Other,
}

/// The end of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The packet passes this base chain.
    Accept,
    /// The packet is dropped.
    Drop,
    /// The packet is rejected with an error.
    Reject,
    /// Another chain decides, then the next rule.
    Jump(String),
    /// Another chain decides, then the caller of this one.
    Goto(String),
    /// The caller of this chain goes on, or the policy decides.
    Return,
    /// The next rule.
    Continue,
}

impl TableFamily {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Inet, Self::V4, Self::V6];

    const fn header(self) -> [u8; 4] {
        let family = match self {
            Self::Inet => NFPROTO_INET,
            Self::V4 => NFPROTO_IPV4,
            Self::V6 => NFPROTO_IPV6,
        };
        [family, 0, 0, 0]
    }
}

/// The name in nft.
impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

/// The name in nft.
impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Forward => "forward",
        })
    }
}

/// The chains of all tables that filter at these hooks. Passes the table and the name of every
/// other chain to `see`.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn base_chains(
    socket: &mut Socket,
    mut see: impl FnMut(&str, &str),
) -> io::Result<Vec<BaseChain>> {
    let mut found = Vec::new();
    for family in TableFamily::ALL {
        let listed = list(
            socket,
            NFT_MSG_GETCHAIN,
            family,
            |_| {},
            |chains: &mut Vec<_>, chain| {
                let names = (chain.text(NFTA_CHAIN_TABLE), chain.text(NFTA_CHAIN_NAME));
                if let (Some(table), Some(name)) = names {
                    match base(chain)? {
                        Some((hook, priority)) => chains.push(BaseChain {
                            family,
                            table: table.to_owned(),
                            name: name.to_owned(),
                            hook,
                            priority,
                            drops: chain.number(NFTA_CHAIN_POLICY)?
                                == Some(NF_DROP.cast_unsigned()),
                        }),
                        None => see(table, name),
                    }
                }
                Ok(())
            },
        );
        found.extend(listed?);
    }
    Ok(found)
}

/// Hook and priority of a chain of type filter.
fn base(chain: Attributes<'_>) -> Result<Option<(Hook, i32)>, Malformed> {
    let Some(hook) = chain.nested(NFTA_CHAIN_HOOK)? else {
        return Ok(None);
    };
    let point = match hook.require(NFTA_HOOK_HOOKNUM)?.number()? {
        NF_INET_LOCAL_IN => Hook::Input,
        NF_INET_FORWARD => Hook::Forward,
        _ => return Ok(None),
    };
    let priority = i32::from_be_bytes(hook.require(NFTA_HOOK_PRIORITY)?.array()?);
    let filters = chain.text(NFTA_CHAIN_TYPE) == Some("filter");
    Ok(filters.then_some((point, priority)))
}

/// The rules of a chain.
///
/// # Errors
///
/// The kernel's errno, and whatever makes a list incomplete.
pub fn rules(
    socket: &mut Socket,
    family: TableFamily,
    table: &str,
    chain: &str,
) -> io::Result<Vec<Rule>> {
    let of_chain = |w: &mut Writer| {
        w.text(NFTA_RULE_TABLE, table);
        w.text(NFTA_RULE_CHAIN, chain);
    };
    let drafts = list(
        socket,
        NFT_MSG_GETRULE,
        family,
        of_chain,
        |drafts: &mut Vec<Draft>, rule| {
            // Old kernels list the rules of other chains, too.
            if rule.text(NFTA_RULE_CHAIN) == Some(chain) {
                drafts.push(Draft::parse(rule)?);
            }
            Ok(())
        },
    )?;
    let mut sets = BTreeMap::new();
    let mut rules = Vec::new();
    for draft in drafts {
        let Some(name) = draft.set.clone() else {
            rules.push(draft.rule);
            continue;
        };
        let elements = match sets.get(&name) {
            Some(elements) => elements,
            None => {
                let elements = elements(socket, family, table, &name)?;
                sets.entry(name).or_insert(elements)
            }
        };
        draft.look_up(elements, &mut rules);
    }
    Ok(rules)
}

/// A rule that may look up the state of the connection in a set.
#[derive(Debug)]
struct Draft {
    rule: Rule,
    set: Option<String>,
    /// Whether the set is a map to verdicts.
    is_map: bool,
}

/// What a register contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loaded {
    State,
    Status,
    Mark,
    Other,
}

/// The states in a set, with the verdicts if it is a map.
type Elements = Vec<(u32, Verdict)>;

impl Draft {
    fn parse(rule: Attributes<'_>) -> Result<Self, Malformed> {
        let mut draft = Self {
            rule: Rule {
                conditions: Vec::new(),
                verdict: Verdict::Continue,
            },
            set: None,
            is_map: false,
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
                "meta" => {
                    let is_mark = data.number(NFTA_META_KEY)? == Some(NFT_META_MARK);
                    (loaded, mask) = (if is_mark { Loaded::Mark } else { Loaded::Other }, None);
                }
                "ct" => {
                    loaded = match data.number(NFTA_CT_KEY)? {
                        Some(NFT_CT_STATE) => Loaded::State,
                        Some(NFT_CT_STATUS) => Loaded::Status,
                        _ => Loaded::Other,
                    };
                    mask = None;
                }
                "bitwise" => match (
                    word(data, NFTA_BITWISE_MASK)?,
                    word(data, NFTA_BITWISE_XOR)?,
                ) {
                    (Some(bits), Some(0)) => mask = Some(bits),
                    _ => loaded = Loaded::Other,
                },
                "cmp" => {
                    let is_equal = data.number(NFTA_CMP_OP)? == Some(NFT_CMP_EQ);
                    let value = word(data, NFTA_CMP_DATA)?;
                    let condition = value.map(|value| compared(loaded, mask, is_equal, value));
                    draft.demand(condition.unwrap_or(Condition::Other));
                }
                "lookup" => {
                    let is_inverted = data.number(NFTA_LOOKUP_FLAGS)?.unwrap_or(0) != 0;
                    if loaded == Loaded::State && mask.is_none() && !is_inverted {
                        draft.set = data.text(NFTA_LOOKUP_SET).map(str::to_owned);
                        draft.is_map = data.get(NFTA_LOOKUP_DREG).is_some();
                    } else {
                        draft.demand(Condition::Other);
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

    /// Replaces the set by its elements.
    fn look_up(self, elements: &Elements, rules: &mut Vec<Rule>) {
        if self.is_map {
            rules.extend(elements.iter().map(|(state, verdict)| {
                let mut conditions = self.rule.conditions.clone();
                conditions.push(Condition::State(*state));
                let verdict = verdict.clone();
                Rule {
                    conditions,
                    verdict,
                }
            }));
        } else {
            let states = elements.iter().fold(0, |all, (state, _)| all | state);
            let mut rule = self.rule;
            rule.conditions.push(Condition::State(states));
            rules.push(rule);
        }
    }
}

/// The condition that a comparison makes of a register.
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

/// A value of four bytes in the order of the machine; `None` if it has another length.
fn word(data: Attributes<'_>, kind: u16) -> Result<Option<u32>, Malformed> {
    let data = data.nested(kind)?;
    let bytes = data.and_then(|data| data.value(NFTA_DATA_VALUE));
    Ok(bytes.and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?))))
}

/// The verdict in a value; `None` if the value is not a verdict.
fn verdict(value: Attributes<'_>) -> Result<Option<Verdict>, Malformed> {
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

/// The elements of a set of states.
fn elements(
    socket: &mut Socket,
    family: TableFamily,
    table: &str,
    set: &str,
) -> io::Result<Elements> {
    let of_set = |w: &mut Writer| {
        w.text(NFTA_SET_ELEM_LIST_TABLE, table);
        w.text(NFTA_SET_ELEM_LIST_SET, set);
    };
    list(
        socket,
        NFT_MSG_GETSETELEM,
        family,
        of_set,
        |elements: &mut Vec<_>, message| {
            for element in message.list(NFTA_SET_ELEM_LIST_ELEMENTS)? {
                let element = element.attributes()?;
                let Some(key) = word(element, NFTA_SET_ELEM_KEY)? else {
                    continue;
                };
                let data = element.nested(NFTA_SET_ELEM_DATA)?;
                let verdict = data.map(verdict).transpose()?.flatten();
                elements.push((key, verdict.unwrap_or(Verdict::Continue)));
            }
            Ok(())
        },
    )
}

/// Lists objects of one family. What was deleted since its name was read has no objects.
fn list<T: Default>(
    socket: &mut Socket,
    kind: u8,
    family: TableFamily,
    content: impl Fn(&mut Writer),
    take: impl FnMut(&mut T, Attributes<'_>) -> Result<(), Malformed>,
) -> io::Result<T> {
    match nftables::list(socket, kind, family.header(), content, take) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        listed => listed,
    }
}
