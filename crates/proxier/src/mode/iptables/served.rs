//! What rules do, read back from them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use ipvs::Family;

use super::name::Class;
use super::{Name, Rule, Rules, Table};
use crate::desired::{FrontendKey, ServicePortName};

/// What becomes of new connections to an address and port, as the rules of a node have it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// The address and port.
    pub key: FrontendKey,
    /// Whom the rules are for; `None` if they do not say.
    pub owner: Option<ServicePortName>,
    /// Whose connections.
    pub clients: Clients,
    /// What becomes of them.
    pub outcome: Outcome,
    /// For how long a client keeps its backend, if it does.
    pub affinity: Option<NonZeroU32>,
}

/// Whose connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Clients {
    /// Everyone's.
    All,
    /// Those of pods and of the node.
    Inside,
    /// Those of all others.
    Outside,
}

/// What becomes of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// One of these answers.
    Sent(Vec<Sent>),
    /// The client is told.
    Refused,
    /// It is not.
    Dropped,
}

/// A backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Sent {
    /// Its address and port.
    pub to: SocketAddr,
    /// The connections that it was sent since its rule was written, where rules were counted.
    pub connections: Option<u64>,
}

/// How many packets rules of table nat have taken, which sees the first one of each connection.
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
    /// What they do with connections to Services, in no particular order.
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

    /// What becomes of packets that nobody was found for. Where there are backends for some
    /// clients, the rule is for the others.
    fn verdict(&self, key: FrontendKey, leaf: &Rule) -> Option<(Clients, Outcome)> {
        let chain = leaf.leads_to();
        let rules = chain.map(|chain| self.chain(Table::Filter, &chain));
        let mut targets = rules.unwrap_or_default().iter().chain([leaf]);
        let outcome = match targets.find_map(|rule| rule.value("-j")) {
            Some("REJECT") => Outcome::Refused,
            _ => Outcome::Dropped,
        };
        let has = |class| !self.chain(Table::Nat, &Name::hashed(class, key)).is_empty();
        let external = Name::hashed(Class::External, key);
        let sends_outside = self.chain(Table::Nat, &external);
        let sends_outside = sends_outside.iter().any(|rule| rule.backend().is_some());
        let clients = match (has(Class::Backends), has(Class::External), sends_outside) {
            (false, false, _) => Clients::All,
            (true, true, false) => Clients::Outside,
            (false, true, true) => Clients::Inside,
            // It is for those whom source ranges keep out.
            _ => return None,
        };
        Some((clients, outcome))
    }

    /// Who answers those that a rule of the tree takes.
    fn sent(
        &self,
        leaf: &Rule,
        counters: &Counters,
        push: &mut impl FnMut(Clients, Outcome, Option<NonZeroU32>),
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
                push(Clients::Outside, Outcome::Sent(backends), affinity);
            }
        }
        if let Some(chain) = chain {
            let (backends, affinity) = self.backends_of(&chain, counters);
            push(clients, Outcome::Sent(backends), affinity);
        }
    }

    fn backends_of(&self, chain: &Name, counters: &Counters) -> (Vec<Sent>, Option<NonZeroU32>) {
        let mut backends = HashMap::<SocketAddr, Option<u64>>::new();
        let mut affinity = None;
        for rule in self.chain(Table::Nat, chain) {
            let Some(to) = rule.backend() else { continue };
            let counted = counters.of(chain, rule);
            // One rule for those who are remembered, another for the others.
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
