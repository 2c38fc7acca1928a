//! The status of iptables mode, parsed from its rules.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use ipvs::Family;

use super::name::Class;
use super::{Name, Rule, Rules, Table};
use crate::desired::{FrontendKey, ServicePortName};

/// What the rules do with new connections to an address and port.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// The address and port.
    pub key: FrontendKey,
    /// The Service port of the rules; `None` if they have no comment.
    pub owner: Option<ServicePortName>,
    /// The clients that this applies to.
    pub clients: Clients,
    /// What happens to their connections.
    pub outcome: Verdict,
    /// Timeout of session affinity, if any.
    pub affinity: Option<NonZeroU32>,
}

/// A group of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Clients {
    /// All clients.
    All,
    /// Pods and the node.
    Inside,
    /// All others.
    Outside,
}

/// What happens to connections.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// They are sent to one of these backends.
    Sent(Vec<Sent>),
    /// They are rejected: the client gets an error.
    Refused,
    /// They are dropped.
    Dropped,
}

/// A backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Sent {
    /// The address and port.
    pub to: SocketAddr,
    /// The number of connections since its rule was written, if counters were read.
    pub connections: Option<u64>,
}

/// Packet counters of rules in table nat, which sees the first packet of each connection.
#[derive(Debug, Clone, Default)]
pub struct Counters(HashMap<(Name, Rule), u64>);

impl Counters {
    /// Reads the output of `iptables-save -c`.
    #[must_use]
    pub fn parse(saved: &str) -> Self {
        let nat = saved.lines().skip_while(|line| *line != "*nat");
        let nat = nat.take_while(|line| *line != "COMMIT");
        Self(nat.filter_map(counted).collect())
    }

    fn of(&self, chain: &Name, rule: &Rule) -> Option<u64> {
        self.0.get(&(chain.clone(), rule.clone())).copied()
    }
}

/// `[PACKETS:BYTES] -A CHAIN RULE`.
fn counted(line: &str) -> Option<((Name, Rule), u64)> {
    let (counters, rest) = line.strip_prefix('[')?.split_once("] -A ")?;
    let (packets, _) = counters.split_once(':')?;
    let (chain, rule) = rest.split_once(' ')?;
    let key = (chain.parse().ok()?, Rule::observed(rule));
    Some((key, packets.parse().ok()?))
}

impl Rules {
    /// What the rules do with connections to Services, in no particular order.
    pub fn served(&self, family: Family, counters: &Counters) -> Vec<Served> {
        let mut served = Vec::new();
        for ((table, chain), rules) in &self.chains {
            if !chain.is_a(Class::Branch) {
                continue;
            }
            for rule in rules.iter() {
                let Some(key) = rule.frontend(family) else {
                    continue;
                };
                let mut push = |clients, outcome, affinity| {
                    let owner = rule.owner();
                    served.push(Served {
                        key,
                        owner,
                        clients,
                        outcome,
                        affinity,
                    });
                };
                match table {
                    Table::Filter => {
                        if let Some((clients, outcome)) = self.verdict(key, rule) {
                            push(clients, outcome, None);
                        }
                    }
                    Table::Nat => self.sent(rule, counters, &mut push),
                    Table::Mangle => {}
                }
            }
        }
        served
    }

    /// What happens to packets without a backend. If some clients have backends, the rule is for
    /// the others.
    fn verdict(&self, key: FrontendKey, leaf: &Rule) -> Option<(Clients, Verdict)> {
        let chain = leaf.leads_to();
        let rules = chain.map(|chain| self.chain(Table::Filter, &chain));
        let mut targets = rules.unwrap_or_default().iter().chain([leaf]);
        let outcome = match targets.find_map(|rule| rule.value("-j")) {
            Some("REJECT") => Verdict::Refused,
            _ => Verdict::Dropped,
        };
        let has = |class| !self.chain(Table::Nat, &Name::hashed(class, key)).is_empty();
        let external = Name::hashed(Class::External, key);
        let sends_outside = self.chain(Table::Nat, &external);
        let sends_outside = sends_outside.iter().any(|rule| rule.backend().is_some());
        let clients = match (has(Class::Backends), has(Class::External), sends_outside) {
            (false, false, _) => Clients::All,
            (true, true, false) => Clients::Outside,
            (false, true, true) => Clients::Inside,
            // The rule is for clients outside of the source ranges.
            _ => return None,
        };
        Some((clients, outcome))
    }

    /// The backends behind a rule of the tree.
    fn sent(
        &self,
        leaf: &Rule,
        counters: &Counters,
        push: &mut impl FnMut(Clients, Verdict, Option<NonZeroU32>),
    ) {
        let mut chain = leaf.leads_to();
        if let Some(restricted) = chain.take_if(|chain| chain.is_a(Class::Restricted)) {
            let mut rules = self.chain(Table::Nat, &restricted).iter();
            chain = rules.find_map(Rule::leads_to);
        }
        let mut clients = Clients::All;
        if let Some(external) = chain.take_if(|chain| chain.is_a(Class::External)) {
            clients = Clients::Inside;
            let rules = self.chain(Table::Nat, &external);
            chain = rules.iter().find_map(Rule::leads_to);
            let (backends, affinity) = self.backends_of(&external, counters);
            if !backends.is_empty() {
                push(Clients::Outside, Verdict::Sent(backends), affinity);
            }
        }
        if let Some(chain) = chain {
            let (backends, affinity) = self.backends_of(&chain, counters);
            push(clients, Verdict::Sent(backends), affinity);
        }
    }

    fn backends_of(&self, chain: &Name, counters: &Counters) -> (Vec<Sent>, Option<NonZeroU32>) {
        let mut backends = HashMap::<SocketAddr, Option<u64>>::new();
        let mut affinity = None;
        for rule in self.chain(Table::Nat, chain) {
            let Some(to) = rule.backend() else { continue };
            let counted = counters.of(chain, rule);
            // With session affinity, a backend has one rule for known clients and one for new ones.
            let sum = backends.entry(to).or_default();
            *sum = counted.map_or(*sum, |more| Some(sum.unwrap_or(0) + more));
            affinity = affinity.or_else(|| rule.value("--seconds")?.parse().ok());
        }
        let backends = backends.into_iter();
        let mut backends: Vec<_> = backends
            .map(|(to, connections)| Sent { to, connections })
            .collect();
        backends.sort_unstable();
        (backends, affinity)
    }
}
