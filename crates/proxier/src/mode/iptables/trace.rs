//! The way of a connection's first packet in iptables mode: evaluates svcproxy's [`Rules`], chain by
//! chain.
//!
//! A rule is a value in the syntax of iptables-save(8), and is evaluated as such. The evaluation
//! knows svcproxy's chains and what leads to them. What other programs do to the packet is not part
//! of it.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::{Hook, Rule, Rules, Table};
use crate::mode::trace::{Answer, Origin, Outcome, Packet, Step, Surroundings, Trace};

/// Chains jump to others at most so often: the trees have six levels.
const DEPTH: usize = 24;

/// Follows the first packet of a connection through the rules of its family.
///
/// Chance decides between the endpoints of a Service: the result has all of them.
pub fn trace(rules: &Rules, packet: &Packet, around: Surroundings<'_>) -> Trace {
    let is_local = around.owns(packet.destination);
    let is_own = packet.origin == Origin::Node;
    let walk = Walk { rules, around };
    let first = match is_own {
        true => Hook::Output,
        false => Hook::Prerouting,
    };
    let packet = Passing::new(packet.clone());
    let mut steps = Vec::new();
    let mut owner = None;
    let ways = walk.hook(Table::Nat, first, packet);
    let (sent, others): (Vec<_>, Vec<_>) = ways.into_iter().partition(|way| way.to.is_some());
    if let Some(way) = sent.first() {
        // The ways to all endpoints differ in the last rule only.
        steps.extend(way.steps.iter().cloned());
        owner.clone_from(&way.owner);
    }
    let mut answers = Vec::new();
    for way in &sent {
        let Some(to) = way.to else { continue };
        let behind = walk.hook(Table::Nat, Hook::Postrouting, way.clone());
        let behind = behind.into_iter().next();
        let is_masqueraded = behind.as_ref().is_some_and(|way| way.is_masqueraded);
        if answers.is_empty() {
            let from = way.steps.len();
            steps.extend(behind.into_iter().flat_map(|way| way.steps).skip(from));
        }
        answers.push(Answer::new(to, 1, is_masqueraded));
    }
    if !answers.is_empty() {
        answers.sort_unstable();
        answers.dedup();
        let outcome = Outcome::Served(answers);
        return Trace {
            steps,
            outcome,
            owner,
        };
    }
    let Some(mut way) = others.into_iter().next() else {
        let outcome = Outcome::Dropped;
        return Trace {
            steps,
            outcome,
            owner,
        };
    };
    // The node's own packets pass OUTPUT, and come back by INPUT if the node has the address.
    let hooks = match (is_own, is_local) {
        (true, true) => &[Hook::Output, Hook::Input][..],
        (true, false) => &[Hook::Output],
        (false, true) => &[Hook::Input],
        (false, false) => &[Hook::Forward],
    };
    let mut outcome = match is_local {
        true => Outcome::Delivered,
        false => Outcome::Leaves,
    };
    for hook in hooks {
        let Some(now) = walk
            .hook(Table::Filter, *hook, way.clone())
            .into_iter()
            .next()
        else {
            break;
        };
        way = now;
        match way.end {
            End::Refused => outcome = Outcome::Refused,
            End::Dropped => outcome = Outcome::Dropped,
            End::Continues | End::Accepted => continue,
        }
        break;
    }
    Trace {
        steps: way.steps,
        outcome,
        owner: way.owner,
    }
}

struct Walk<'a> {
    rules: &'a Rules,
    around: Surroundings<'a>,
}

/// A packet, and what happened to it.
#[derive(Debug, Clone)]
struct Passing {
    packet: Packet,
    mark: u32,
    /// The endpoint that it was translated to.
    to: Option<SocketAddr>,
    is_masqueraded: bool,
    end: End,
    steps: Vec<Step>,
    owner: Option<String>,
}

/// How a packet leaves a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By the last rule, or by RETURN.
    Continues,
    Accepted,
    Refused,
    Dropped,
}

impl Passing {
    fn new(packet: Packet) -> Self {
        Self {
            packet,
            mark: 0,
            to: None,
            is_masqueraded: false,
            end: End::Continues,
            steps: Vec::new(),
            owner: None,
        }
    }

    /// Records what a rule does.
    fn step(&mut self, place: &str, hook: Hook, rule: &Rule, effect: impl Into<String>) {
        self.owner = self
            .owner
            .take()
            .or_else(|| Some(rule.owner()?.to_string()));
        self.steps.push(Step {
            hook: lower(hook),
            place: place.to_owned(),
            rule: rule.to_string(),
            effect: effect.into(),
        });
    }
}

impl Walk<'_> {
    /// All ways through svcproxy's rules of a built-in chain.
    fn hook(&self, table: Table, hook: Hook, mut packet: Passing) -> Vec<Passing> {
        packet.end = End::Continues;
        let jumps = self.rules.jumps().iter();
        let jumps = jumps.filter(|jump| jump.table == table && jump.hook == hook);
        let (mut inside, mut ended) = (vec![packet], Vec::new());
        for jump in jumps {
            let mut rest = Vec::new();
            for packet in inside {
                self.rule(
                    &jump.rule,
                    (table, hook, hook.name()),
                    packet,
                    DEPTH,
                    &mut rest,
                    &mut ended,
                );
            }
            inside = rest;
        }
        ended.extend(inside);
        ended
    }

    /// All ways through a chain.
    fn chain(&self, at: (Table, Hook, &str), packet: Passing, depth: usize) -> Vec<Passing> {
        let (table, _, name) = at;
        let (mut inside, mut ended) = (vec![packet], Vec::new());
        let name = name.parse().ok();
        let rules = name.map(|name| self.rules.chain(table, &name));
        for rule in rules.unwrap_or_default() {
            let mut rest = Vec::new();
            for packet in inside {
                self.rule(rule, at, packet, depth, &mut rest, &mut ended);
            }
            inside = rest;
        }
        ended.extend(inside);
        ended
    }

    /// Evaluates a rule: packets that go on to the next one are `rest`.
    fn rule(
        &self,
        rule: &Rule,
        (table, hook, place): (Table, Hook, &str),
        mut packet: Passing,
        depth: usize,
        rest: &mut Vec<Passing>,
        ended: &mut Vec<Passing>,
    ) {
        let Some(deeper) = depth.checked_sub(1) else {
            rest.push(packet);
            return;
        };
        if !self.matches(rule, &packet) {
            rest.push(packet);
            return;
        }
        if rule.value("--probability").is_some() {
            rest.push(packet.clone());
        }
        let place_of = format!("{table} {place}");
        let mut end = |mut packet: Passing, how, effect: &str| {
            packet.end = how;
            if !effect.is_empty() {
                packet.step(&place_of, hook, rule, effect);
            }
            ended.push(packet);
        };
        if let Some(to) = rule.value("-g") {
            packet.owner = packet.owner.or_else(|| Some(rule.owner()?.to_string()));
            ended.extend(self.chain((table, hook, to), packet, deeper));
            return;
        }
        match rule.value("-j") {
            Some("RETURN") => end(packet, End::Continues, ""),
            Some("ACCEPT") => end(packet, End::Accepted, "accepts"),
            Some("DROP") => end(packet, End::Dropped, "drops"),
            Some("REJECT") => {
                let with = rule.value("--reject-with").unwrap_or_default();
                end(packet, End::Refused, &format!("refuses: {with}"));
            }
            Some("MARK") => {
                if let Some((value, mask)) = rule.value("--set-xmark").and_then(pair) {
                    packet.mark = packet.mark & !mask ^ value;
                    packet.step(
                        &place_of,
                        hook,
                        rule,
                        format!("sets the mark {:#x}", packet.mark),
                    );
                }
                rest.push(packet);
            }
            Some("DNAT") => {
                packet.to = rule.backend();
                if let Some(to) = packet.to {
                    packet.packet.destination = to.ip();
                    end(
                        packet,
                        End::Accepted,
                        "sends to an endpoint, chosen at random",
                    );
                }
            }
            Some("MASQUERADE") => {
                packet.is_masqueraded = true;
                let effect = "masquerades: the endpoint sees the node's address";
                end(packet, End::Accepted, effect);
            }
            Some(chain) => {
                for packet in self.chain((table, hook, chain), packet, deeper) {
                    match packet.end {
                        End::Continues => rest.push(packet),
                        _ => ended.push(packet),
                    }
                }
            }
            None => rest.push(packet),
        }
    }

    /// Whether a packet meets all conditions of a rule. Unknown ones are not met: svcproxy's rules
    /// have none.
    fn matches(&self, rule: &Rule, packet: &Passing) -> bool {
        let Passing {
            packet, mark, to, ..
        } = packet;
        let words: Vec<_> = rule.as_str().split(' ').collect();
        let mut words = words.as_slice();
        loop {
            let in_network = |text: &str, address| {
                text.parse::<IpNet>()
                    .is_ok_and(|network| network.contains(&address))
            };
            let (is_met, more) = match words {
                [] | ["-j" | "-g", ..] => return true,
                ["-s", network, more @ ..] => (in_network(network, packet.source), more),
                ["-d", network, more @ ..] => (in_network(network, packet.destination), more),
                ["-i", name, more @ ..] => (is_interface(name, &packet.origin), more),
                ["-p", protocol, more @ ..] => (packet.protocol.to_string() == *protocol, more),
                ["-m", "tcp" | "udp" | "sctp", "--dport", ports, more @ ..] => {
                    let (first, last) = ports.split_once(':').unwrap_or((ports, ports));
                    let port = packet.port.get();
                    let from = first.parse().is_ok_and(|first: u16| first <= port);
                    (
                        from && last.parse().is_ok_and(|last: u16| port <= last),
                        more,
                    )
                }
                ["-m", "addrtype", "--src-type", "LOCAL", more @ ..] => {
                    let is_own = packet.origin == Origin::Node;
                    (is_own || self.around.owns(packet.source), more)
                }
                ["-m", "addrtype", "--dst-type", "LOCAL", more @ ..] => {
                    (self.around.owns(packet.destination), more)
                }
                ["-m", "conntrack", "--ctstate", state, more @ ..] => {
                    let is_met = match *state {
                        "NEW" => true,
                        "DNAT" => to.is_some(),
                        _ => false,
                    };
                    (is_met, more)
                }
                ["-m", "mark", "--mark", bits, more @ ..] => (has(bits, *mark), more),
                ["-m", "mark", "!", "--mark", bits, more @ ..] => (!has(bits, *mark), more),
                ["-m", "comment", "--comment", _, more @ ..] => (true, more),
                [
                    "-m",
                    "statistic",
                    "--mode",
                    "random",
                    "--probability",
                    _,
                    more @ ..,
                ] => (true, more),
                // A new client is in no list.
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
                _ => return false,
            };
            if !is_met {
                return false;
            }
            words = more;
        }
    }
}

fn is_interface(name: &str, origin: &Origin) -> bool {
    match (origin, name.strip_suffix('+')) {
        (Origin::Interface(own), Some(prefix)) => own.starts_with(prefix),
        (Origin::Interface(own), None) => own == name,
        (Origin::Node, _) => false,
    }
}

/// `0x4000/0x4000`.
fn pair(text: &str) -> Option<(u32, u32)> {
    let (value, mask) = text.split_once('/')?;
    Some((number(value)?, number(mask)?))
}

fn number(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn has(bits: &str, mark: u32) -> bool {
    pair(bits).is_some_and(|(value, mask)| mark & mask == value)
}

const fn lower(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    }
}
