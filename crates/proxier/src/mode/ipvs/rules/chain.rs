//! Chains: lists of rules, at a hook or as jump targets.

use std::fmt;

use super::Rule;

/// A chain of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chain {
    /// The name.
    pub name: &'static str,
    /// The hook; `None` for a jump target.
    pub hook: Option<Hook>,
    /// The rules. Packets without a verdict are accepted.
    pub rules: Vec<Rule>,
}

/// The hook of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hook {
    /// The type of the chain.
    pub kind: ChainKind,
    /// The hook point.
    pub point: HookPoint,
    /// The priority at the hook point; lower ones run first.
    pub priority: i32,
}

/// The type of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainKind {
    /// Decide on each packet.
    Filter,
    /// Translate addresses, seeing the first packet of each connection.
    Nat,
}

/// A hook point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HookPoint {
    /// Incoming packets, before routing.
    Prerouting,
    /// Packets for the node itself.
    Input,
    /// Packets that the node sends.
    Output,
    /// Outgoing packets, after routing.
    Postrouting,
}

impl ChainKind {
    /// The name in nft and in the kernel.
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

/// The first line of a chain in nft's syntax.
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

/// The chain in nft's syntax.
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
