//! The fate of a connection's first packet in iptables rules: interprets their text without the
//! code under test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxier::desired::{Config, FrontendKey};
use proxier::mode::iptables::{Rules, Table};

use crate::oracle::{Client, Outcome};

#[derive(Debug, Clone)]
struct Packet<'a> {
    source: IpAddr,
    key: FrontendKey,
    to: IpAddr,
    to_node: bool,
    mark: u32,
    translated: Option<&'a str>,
}

/// The chains of each table, and the rules of built-in chains that jump to them.
pub(crate) struct Tables<'a> {
    chains: BTreeMap<(Table, &'a str), Vec<&'a str>>,
}

/// How a packet leaves a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Return,
    Refused,
    Dropped,
    Accepted,
}

impl<'a> Tables<'a> {
    pub(crate) fn new(rules: &'a Rules) -> Self {
        let mut chains = BTreeMap::<_, Vec<_>>::new();
        for (table, name) in rules.chains() {
            let of_chain = rules.chain(table, name).iter();
            let of_chain = of_chain.map(|rule| rule.as_str()).collect();
            chains.insert((table, name.as_str()), of_chain);
        }
        for jump in rules.jumps() {
            let key = (jump.table, hook(&jump.hook.to_string()));
            chains.entry(key).or_default().push(jump.rule.as_str());
        }
        Self { chains }
    }

    /// The result for a client at a frontend.
    pub(crate) fn met(&self, key: FrontendKey, client: Client, config: &Config) -> Outcome {
        let family = key.family();
        let node = config.node_ip(family).unwrap();
        let to = if key.is_node_port() {
            node
        } else {
            key.address
        };
        let packet = Packet {
            source: client.address(family),
            key,
            to,
            to_node: config.node_ips.contains(&to),
            mark: 0,
            translated: None,
        };
        let mut served = BTreeSet::new();
        let mut undelivered = None;
        for (_, packet) in self.through(Table::Nat, "PREROUTING", packet) {
            match packet.translated {
                Some(to) => {
                    let to: SocketAddr = to.parse().unwrap();
                    served.insert(((to.ip(), to.port()), packet.mark));
                }
                None => undelivered = Some(packet),
            }
        }
        let Some(packet) = undelivered else {
            let masqueraded = served
                .iter()
                .all(|(_, mark)| *mark == config.marks.masquerade());
            let never = served.iter().all(|(_, mark)| *mark == 0);
            assert!(masqueraded || never, "some are masqueraded, and some not");
            let by = served.into_iter().map(|(backend, _)| backend).collect();
            let masqueraded = client.is_outside() && masqueraded;
            return Outcome::Served { by, masqueraded };
        };
        assert!(
            served.is_empty(),
            "{key}: chance decides whether it is served"
        );
        let hook = if packet.to_node { "INPUT" } else { "FORWARD" };
        let ends: Vec<_> = self.through(Table::Filter, hook, packet);
        match ends.as_slice() {
            [(End::Refused, _)] => Outcome::Refused,
            [(End::Dropped, _)] => Outcome::Dropped,
            other => panic!("{key} from {client:?}: {other:?}"),
        }
    }

    /// All possible random results for a packet.
    fn through(&self, table: Table, chain: &str, packet: Packet<'a>) -> Vec<(End, Packet<'a>)> {
        let Some(rules) = self.chains.get(&(table, chain)) else {
            panic!("no chain {chain} in {table}");
        };
        let (mut inside, mut ended) = (vec![packet], Vec::new());
        for rule in rules {
            let words: Vec<&'a str> = rule.split(' ').collect();
            let mut rest = Vec::new();
            for packet in inside {
                let chance = rule.contains("--mode random");
                let (matching, target) = split(&words);
                if !packet.matches(matching) {
                    rest.push(packet);
                    continue;
                }
                if chance {
                    rest.push(packet.clone());
                }
                match *target {
                    ["-j", "RETURN"] => ended.push((End::Return, packet)),
                    ["-j", "DROP"] => ended.push((End::Dropped, packet)),
                    ["-j", "REJECT", ..] => ended.push((End::Refused, packet)),
                    ["-j", "ACCEPT"] => ended.push((End::Accepted, packet)),
                    ["-j", "MARK", "--set-xmark", value] => {
                        let (value, mask) = value.split_once('/').unwrap();
                        let (value, mask) = (number(value), number(mask));
                        let mark = packet.mark & !mask ^ value;
                        rest.push(Packet { mark, ..packet });
                    }
                    ["-j", "DNAT", "--to-destination", to] => {
                        let translated = Some(to);
                        ended.push((
                            End::Accepted,
                            Packet {
                                translated,
                                ..packet
                            },
                        ));
                    }
                    ["-g", chain] => ended.extend(self.through(table, chain, packet)),
                    ["-j", chain] => {
                        for (end, packet) in self.through(table, chain, packet) {
                            match end {
                                End::Return => rest.push(packet),
                                end => ended.push((end, packet)),
                            }
                        }
                    }
                    ref other => panic!("{other:?}"),
                }
            }
            inside = rest;
        }
        ended.extend(inside.into_iter().map(|packet| (End::Return, packet)));
        ended
    }
}

impl Packet<'_> {
    fn matches(&self, words: &[&str]) -> bool {
        let contains = |network: &str, address| network.parse::<IpNet>().unwrap().contains(address);
        let mut words = words;
        loop {
            let (is_so, more) = match words {
                [] => return true,
                ["-s", network, more @ ..] => (contains(network, &self.source), more),
                ["-d", network, more @ ..] => (contains(network, &self.to), more),
                ["-p", protocol, more @ ..] => (*protocol == self.key.protocol.to_string(), more),
                ["-m", "tcp" | "udp" | "sctp", "--dport", ports, more @ ..] => {
                    let (first, last) = ports.split_once(':').unwrap_or((ports, ports));
                    let range = first.parse().unwrap()..=last.parse().unwrap();
                    (range.contains(&self.key.port.get()), more)
                }
                ["-m", "addrtype", "--src-type", "LOCAL", more @ ..] => (false, more),
                ["-m", "addrtype", "--dst-type", "LOCAL", more @ ..] => (self.to_node, more),
                ["-m", "conntrack", "--ctstate", state, more @ ..] => {
                    let is_so = match *state {
                        "NEW" => true,
                        "DNAT" => self.translated.is_some(),
                        "RELATED,ESTABLISHED" | "INVALID" => false,
                        other => panic!("{other}"),
                    };
                    (is_so, more)
                }
                ["-m", "mark", "--mark", bits, more @ ..] => {
                    let bits = number(bits.split('/').next().unwrap());
                    (self.mark & bits == bits, more)
                }
                ["-m", "comment", "--comment", _, more @ ..] => (true, more),
                [
                    "-m",
                    "statistic",
                    "--mode",
                    "random",
                    "--probability",
                    chance,
                    more @ ..,
                ] => {
                    let chance: f64 = chance.parse().unwrap();
                    assert!(chance > 0.0 && chance < 1.0);
                    (true, more)
                }
                // No client is in a list.
                ["-m", "recent", "--update", ..] => return false,
                [
                    "-m",
                    "recent",
                    "--set",
                    "--name",
                    _,
                    "--mask",
                    _,
                    "--rsource",
                    more @ ..,
                ] => (true, more),
                other => panic!("{other:?}"),
            };
            if !is_so {
                return false;
            }
            words = more;
        }
    }
}

fn split<'b, 'a>(words: &'b [&'a str]) -> (&'b [&'a str], &'b [&'a str]) {
    let target = words.iter().position(|word| ["-j", "-g"].contains(word));
    words.split_at(target.unwrap())
}

fn number(text: &str) -> u32 {
    let digits = text.strip_prefix("0x").unwrap();
    u32::from_str_radix(digits, 16).unwrap()
}

fn hook(name: &str) -> &'static str {
    let all = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    all.into_iter().find(|hook| *hook == name).unwrap()
}
