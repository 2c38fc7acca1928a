//! Chains: lists of rules, at a hook or to be jumped to.

use std::fmt;

use super::Rule;

/// A chain of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chain {
    /// Its name in the table.
    pub name: &'static str,
    /// Where packets enter it; `None` if rules of other chains send them there.
    pub hook: Option<Hook>,
    /// Its rules. What they leave undecided is accepted.
    pub rules: Vec<Rule>,
}

/// Where and when a chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hook {
    /// What its rules can do.
    pub kind: ChainKind,
    /// Where on a packet's way.
    pub point: HookPoint,
    /// When among all that is there; the least comes first.
    pub priority: i32,
}

/// What a chain's rules can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainKind {
    /// Decide on each packet.
    Filter,
    /// Translate addresses, seeing the first packet of each connection.
    Nat,
}

/// A point on a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HookPoint {
    /// Come in, not routed yet.
    Prerouting,
    /// On its way to the node itself.
    Input,
    /// Sent by the node.
    Output,
    /// About to leave.
    Postrouting,
}

impl ChainKind {
    /// Its name, in nft's language and in the kernel's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

impl HookPoint {
    const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// The first line of its block in nft's language.
impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, point) = (self.kind.name(), self.point.name());
        let priority = self.priority;
        write!(
            f,
            "type {kind} hook {point} priority {priority}; policy accept;"
        )
    }
}

/// A block of a table in nft's language.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(hook) = self.hook {
            writeln!(f, "\t\t{hook}")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}
