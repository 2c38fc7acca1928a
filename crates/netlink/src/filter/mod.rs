//! What nftables' chains decide about packets.
//!
//! The rules of other programs are read only to find out whether they drop packets that svcproxy
//! needs. So a [`Rule`] keeps the conditions that can be judged from outside (the state of the
//! connection, the mark, addresses, protocol, ports, interfaces), and reduces all others to
//! [`Condition::Other`]. iptables-nft's rules are nftables rules, too.

mod field;
mod parse;
mod read;
mod show;

use crate::uapi::*;

pub use field::{Field, Interface, Side, Within, number};
pub use read::{Detail, base_chains, rules};

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
    /// All packets that arrive.
    Prerouting,
    /// Packets for the node itself.
    Input,
    /// Packets that the node routes.
    Forward,
    /// Packets of the node itself.
    Output,
    /// All packets that leave.
    Postrouting,
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
    /// nft's handle of the rule; `None` for a rule of iptables-save.
    pub handle: Option<u64>,
    /// The rule as the program that listed it writes it; `None` if it came over netlink.
    pub text: Option<String>,
}

/// A condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// A field of the packet has one of these values, or none of them.
    Field(Within),
    /// The packet comes or leaves by an interface, or not.
    Interface(Interface),
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

impl Rule {
    /// A rule without handle or text.
    pub const fn new(conditions: Vec<Condition>, verdict: Verdict) -> Self {
        Self {
            conditions,
            verdict,
            handle: None,
            text: None,
        }
    }

    /// Whether its conditions concern connections only, not packets that differ by address, port or
    /// interface.
    pub fn concerns_all_packets(&self) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.all(|of| {
            matches!(
                of,
                Condition::State(_) | Condition::Status(_) | Condition::Mark { .. }
            )
        })
    }
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
