//! svcproxy's rules on a node, with their tables and built-in chains.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use ipvs::{Family, Protocol};

use super::name::Class;
use super::{Name, Rule};
use crate::desired::{FrontendKey, ServicePortName};

/// svcproxy's chains in one family's tables, and the rules in built-in chains that jump to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The rules of each chain.
    pub(super) chains: HashMap<(Table, Name), Arc<[Rule]>>,
    /// Sorted; may contain duplicates.
    pub(super) jumps: Vec<Jump>,
}

impl Rules {
    /// Finds svcproxy's rules in the output of iptables-save(8).
    ///
    /// ```
    /// use proxier::mode::iptables::{Rules, Table};
    ///
    /// let rules = Rules::parse(
    ///     "*nat\n:PREROUTING ACCEPT [0:0]\n:SVCPROXY-VIPS - [0:0]\n:KUBE-SERVICES - [0:0]\n\
    ///      -A PREROUTING -j KUBE-SERVICES\nCOMMIT\n",
    /// );
    /// let chains: Vec<_> = rules.chains().map(|(table, name)| (table, name.as_str())).collect();
    /// assert_eq!(chains, [(Table::Nat, "SVCPROXY-VIPS")]);
    /// ```
    #[must_use]
    pub fn parse(saved: &str) -> Self {
        Self::parse_named(saved, |_, name| name.parse().ok(), |_, _| {})
    }

    /// Finds the chains that `named` recognises by table and name, and the rules in built-in chains
    /// that jump to them. Calls `foreign` for each rule of another chain that jumps to one of them.
    pub(crate) fn parse_named(
        saved: &str,
        named: impl Fn(Table, &str) -> Option<Name>,
        mut foreign: impl FnMut(Table, Name),
    ) -> Self {
        let mut chains = HashMap::<(Table, Name), Vec<Rule>>::new();
        let mut jumps = Vec::new();
        let mut table = None;
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|table| table.name() == name);
            }
            let Some(table) = table else { continue };
            if let Some(declared) = line.strip_prefix(':') {
                let name = declared.split(' ').next().unwrap_or_default();
                if let Some(name) = named(table, name) {
                    chains.entry((table, name)).or_default();
                }
            }
            // The counters precede the rule in the output of `iptables-save -c`.
            let rule = match line
                .strip_prefix('[')
                .and_then(|line| line.split_once("] "))
            {
                Some((_, rule)) => rule,
                None => line,
            };
            let Some((chain, rule)) = rule.strip_prefix("-A ").and_then(|l| l.split_once(' '))
            else {
                continue;
            };
            let rule = Rule::observed(rule);
            if let Some(name) = named(table, chain) {
                chains.entry((table, name)).or_default().push(rule);
                continue;
            }
            let Some(to) = rule.target().and_then(|to| named(table, to)) else {
                continue;
            };
            match Hook::from_name(chain) {
                Some(hook) => jumps.push(Jump { table, hook, rule }),
                None => foreign(table, to),
            }
        }
        let chains = chains.into_iter().map(|(key, rules)| (key, rules.into()));
        let chains = chains.collect();
        jumps.sort_unstable();
        Self { chains, jumps }
    }

    /// The chains, in no particular order.
    pub fn chains(&self) -> impl Iterator<Item = (Table, &Name)> {
        self.chains.keys().map(|(table, name)| (*table, name))
    }

    /// The rules of a chain; empty if it does not exist.
    pub fn chain(&self, table: Table, name: &Name) -> &[Rule] {
        // A tuple key cannot be borrowed in parts.
        let rules = self.chains.get(&(table, name.clone()));
        rules.map(AsRef::as_ref).unwrap_or_default()
    }

    /// The rules in built-in chains that jump to svcproxy's chains.
    pub fn jumps(&self) -> &[Jump] {
        &self.jumps
    }

    /// Removes a chain from this record, with the chains that it jumps to, so that they are left
    /// alone.
    #[cfg(all(feature = "ipvs", feature = "iptables"))]
    pub(crate) fn take_out(&mut self, table: Table, name: Name) {
        let mut next = vec![name];
        while let Some(name) = next.pop() {
            // A tuple key cannot be borrowed in parts.
            let rules = self.chains.remove(&(table, name));
            let rules = rules.unwrap_or_default();
            next.extend(rules.iter().filter_map(|r| Name::of_other(r.target()?)));
        }
    }

    /// Whether there are no rules of svcproxy.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }

    /// The backends that a frontend's packets go to.
    pub(super) fn backends(&self, key: FrontendKey) -> BTreeSet<SocketAddr> {
        let chains = [Class::Backends, Class::External].map(|class| Name::hashed(class, key));
        let rules = chains.iter().flat_map(|name| self.chain(Table::Nat, name));
        rules.filter_map(Rule::backend).collect()
    }

    /// The frontends with rules, as far as they can be parsed.
    pub(super) fn frontends(&self, family: Family) -> impl Iterator<Item = FrontendKey> {
        let chains = self.chains.iter();
        let leaves =
            chains.filter(|((table, name), _)| *table == Table::Nat && name.is_a(Class::Branch));
        let rules = leaves.flat_map(|(_, rules)| rules.iter());
        rules.filter_map(move |rule| rule.frontend(family))
    }
}

impl Rule {
    /// The Service port in its comment.
    pub(super) fn owner(&self) -> Option<ServicePortName> {
        self.value("--comment")?.trim_matches('"').parse().ok()
    }

    /// The chain of svcproxy that it jumps to.
    pub(crate) fn leads_to(&self) -> Option<Name> {
        self.target()?.parse().ok()
    }

    /// The chain that it jumps to, or its target.
    fn target(&self) -> Option<&str> {
        self.value("-j").or_else(|| self.value("-g"))
    }

    pub(super) fn backend(&self) -> Option<SocketAddr> {
        self.value("--to-destination")?.parse().ok()
    }

    /// The frontend that it matches.
    pub(super) fn frontend(&self, family: Family) -> Option<FrontendKey> {
        let protocol = match self.value("-p")? {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return None,
        };
        let port: NonZeroU16 = self.value("--dport")?.parse().ok()?;
        let Some(host) = self.value("-d") else {
            return Some(FrontendKey::node_port(protocol, family, port));
        };
        let address = host.split('/').next()?.parse().ok()?;
        Some(FrontendKey {
            protocol,
            address,
            port,
        })
    }
}

/// A table of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Table {
    /// Accepts or rejects packets.
    Filter,
    /// Translates addresses.
    Nat,
    /// Changes packets. svcproxy has no rules there.
    Mangle,
}

impl Table {
    /// All tables that are searched.
    pub const ALL: [Self; 3] = [Self::Filter, Self::Nat, Self::Mangle];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Mangle => "mangle",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A built-in chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Hook {
    /// `PREROUTING`.
    Prerouting,
    /// `INPUT`.
    Input,
    /// `FORWARD`.
    Forward,
    /// `OUTPUT`.
    Output,
    /// `POSTROUTING`.
    Postrouting,
}

impl Hook {
    const ALL: [Self; 5] = [
        Self::Prerouting,
        Self::Input,
        Self::Forward,
        Self::Output,
        Self::Postrouting,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rule in a built-in chain that jumps to a chain of svcproxy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Jump {
    /// The table.
    pub table: Table,
    /// The built-in chain.
    pub hook: Hook,
    /// The rule.
    pub rule: Rule,
}
