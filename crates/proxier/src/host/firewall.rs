//! Whether a filter of another program drops Service traffic.

use std::collections::BTreeMap;
use std::fmt;

use netlink::filter::{BaseChain, Condition, Hook, Rule, TableFamily, Verdict};
use netlink::uapi::{IPS_DST_NAT, NF_CT_STATE_ESTABLISHED, NF_CT_STATE_NEW};

use super::{Concern, ConcernKind, Role, path};
use crate::mode::iptables::is_passage;
use crate::mode::ipvs::rules::{ADMIT, INPUT};
use crate::mode::probe::Mode;

/// Chains jump to others at most so often; the kernel allows 16.
pub(super) const DEPTH: usize = 16;

/// A chain of another program at a hook, with the rules that every packet reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// The chain.
    pub chain: BaseChain,
    /// The rules of it and of chains that it jumps to, by the name of the chain.
    pub rules: BTreeMap<String, Vec<Rule>>,
    /// Whether it is a chain of iptables-legacy, not of nftables.
    pub is_legacy: bool,
}

/// A packet that a Service needs.
#[derive(Debug, Clone, Copy)]
struct Packet {
    state: u32,
    status: u32,
    /// The bit of the mark that is set.
    mark: Option<u32>,
}

/// Where a packet is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Loss {
    Policy,
    Rule { chain: String, rejects: bool },
}

enum Outcome {
    Passes,
    Lost(Loss),
    Undecided,
}

impl Filter {
    /// A chain with these rules.
    pub const fn new(chain: BaseChain, rules: BTreeMap<String, Vec<Rule>>) -> Self {
        Self {
            chain,
            rules,
            is_legacy: false,
        }
    }

    /// Whether it is a built-in chain of iptables, in which svcproxy itself lets pass what Services
    /// need.
    fn is_iptables(&self) -> bool {
        let BaseChain {
            family,
            table,
            name,
            ..
        } = &self.chain;
        *family != TableFamily::Inet
            && table == "filter"
            && ["INPUT", "FORWARD"].contains(&name.as_str())
    }

    /// Whether the chain jumps to svcproxy's rules.
    fn has_passage(&self) -> bool {
        let rules = self.rules.get(&self.chain.name).into_iter().flatten();
        let mut verdicts = rules.map(|rule| &rule.verdict);
        verdicts.any(|verdict| matches!(verdict, Verdict::Jump(to) if is_passage(to)))
    }

    /// How it loses a packet. Rules with conditions that this packet may not meet count as if they
    /// were not there.
    fn loses(&self, packet: Packet) -> Option<Loss> {
        match self.walk(&self.chain.name, packet, DEPTH) {
            Outcome::Passes => None,
            Outcome::Lost(loss) => Some(loss),
            Outcome::Undecided => self.chain.drops.then_some(Loss::Policy),
        }
    }

    fn walk(&self, chain: &str, packet: Packet, depth: usize) -> Outcome {
        if is_passage(chain) {
            return Outcome::Passes;
        }
        let Some(deeper) = depth.checked_sub(1) else {
            return Outcome::Undecided;
        };
        let rules = self.rules.get(chain).into_iter().flatten();
        for rule in rules.filter(|rule| packet.meets(rule)) {
            let lost = |rejects| {
                let chain = chain.to_owned();
                Outcome::Lost(Loss::Rule { chain, rejects })
            };
            match &rule.verdict {
                Verdict::Continue => {}
                Verdict::Accept => return Outcome::Passes,
                Verdict::Drop => return lost(false),
                Verdict::Reject => return lost(true),
                Verdict::Return => return Outcome::Undecided,
                Verdict::Goto(to) => return self.walk(to, packet, deeper),
                Verdict::Jump(to) => match self.walk(to, packet, deeper) {
                    Outcome::Undecided => {}
                    decided => return decided,
                },
            }
        }
        Outcome::Undecided
    }

    /// The program that made it, if its names show that.
    fn software(&self) -> Option<&'static str> {
        let rules = self.rules.values().flatten();
        let targets = rules.filter_map(|rule| match &rule.verdict {
            Verdict::Jump(to) | Verdict::Goto(to) => Some(to.as_str()),
            _ => None,
        });
        let known = [("ufw", "ufw"), ("DOCKER", "Docker"), ("cali-", "Calico")];
        let mut known = known.into_iter();
        match &*self.chain.table {
            "firewalld" => Some("firewalld"),
            _ => known.find_map(|(prefix, name)| {
                let mut targets = targets.clone();
                targets.any(|to| to.starts_with(prefix)).then_some(name)
            }),
        }
    }
}

impl Packet {
    fn meets(self, rule: &Rule) -> bool {
        rule.conditions.iter().all(|condition| match condition {
            Condition::State(states) => states & self.state != 0,
            Condition::Status(bits) => bits & self.status != 0,
            Condition::Mark { mask, value } => self.mark == Some(*mask) && value == mask,
            Condition::Field(_) | Condition::Interface(_) | Condition::Other => false,
        })
    }
}

/// What the packets of a hook are, for people.
const fn what(hook: Hook, mode: Mode) -> &'static str {
    match (hook, mode) {
        (Hook::Input, _) => "packets to virtual IPs, node ports and health checks",
        (Hook::Forward, Mode::Ipvs) => "the answers of endpoints",
        (Hook::Forward, _) => "packets between clients and endpoints",
        (Hook::Prerouting | Hook::Output | Hook::Postrouting, _) => "packets to Services",
    }
}

/// The packets that must pass a chain. In the modes that translate the destination, packets to
/// Services do not take the hook input.
fn packets(chain: &BaseChain, role: &Role<'_>) -> Vec<Packet> {
    let packet = |state, status| Packet {
        state,
        status,
        mark: None,
    };
    match (chain.hook, role.mode) {
        // Hardly any host drops all packets there.
        (Hook::Prerouting | Hook::Output | Hook::Postrouting, _) => Vec::new(),
        (Hook::Input, Mode::Ipvs) => {
            let is_marked = is_marked(chain);
            let mark = is_marked.then(|| role.config.marks.own());
            vec![Packet {
                mark,
                ..packet(NF_CT_STATE_NEW, 0)
            }]
        }
        // The proxy is a program of the node like any other: its packets have no mark.
        (Hook::Input, Mode::Userspace) => vec![packet(NF_CT_STATE_NEW, 0)],
        (Hook::Input, _) | (Hook::Forward, Mode::Userspace) => Vec::new(),
        (Hook::Forward, Mode::Ipvs) => vec![packet(NF_CT_STATE_ESTABLISHED, 0)],
        (Hook::Forward, _) => vec![
            packet(NF_CT_STATE_NEW, IPS_DST_NAT),
            packet(NF_CT_STATE_ESTABLISHED, IPS_DST_NAT),
        ],
    }
}

/// Whether packets to Services have svcproxy's mark in this chain.
fn is_marked(chain: &BaseChain) -> bool {
    chain.priority > ADMIT && chain.priority < INPUT
}

/// The filters that drop what Services need.
pub(super) fn concerns<'a>(
    filters: &'a [Filter],
    role: &'a Role<'_>,
) -> impl Iterator<Item = Concern> + 'a {
    filters.iter().filter_map(move |filter| {
        let chain = &filter.chain;
        let mut packets = packets(chain, role).into_iter();
        let loss = packets.find_map(|packet| filter.loses(packet))?;
        let found = describe(filter);
        let what = what(chain.hook, role.mode);
        // svcproxy puts its rules before all others.
        let has_rules = role.mode != Mode::Userspace;
        let is_note = has_rules && filter.is_iptables() && !filter.has_passage();
        Some(Concern {
            kind: ConcernKind::Firewall,
            is_note,
            message: match is_note {
                true => format!("{found} drops by itself ({loss}); svcproxy lets pass {what}"),
                false => format!("{found} may drop {what}: {loss}"),
            },
            remedy: (!is_note).then(|| remedy(filter, role)),
        })
    })
}

/// The chain of a filter, for people.
pub(super) fn describe(filter: &Filter) -> String {
    let BaseChain { hook, priority, .. } = filter.chain;
    let legacy = filter.is_legacy.then_some("iptables-legacy");
    let origin = [filter.software(), legacy].into_iter().flatten();
    let origin: String = origin.map(|name| format!(", of {name}")).collect();
    let path = path(&filter.chain);
    format!("chain {path} (hook {hook}, priority {priority}{origin})")
}

/// How to let the packets of Services pass a filter in the hooks input and forward.
pub(super) fn remedy(filter: &Filter, role: &Role<'_>) -> String {
    let chain = &filter.chain;
    if role.mode == Mode::Userspace {
        return "Let it accept connections and datagrams to virtual IPs and node ports, as to any \
                program of this node"
            .to_owned();
    }
    if filter.is_iptables() {
        let rule = &chain.name;
        return format!(
            "Delete the rule, or move it behind the jump to svcproxy's chain in {rule}"
        );
    }
    let own = role.config.marks.own();
    let accept = match (chain.hook, role.mode) {
        (Hook::Input, _) if !is_marked(chain) => {
            return format!(
                "Let it accept these packets, or give it a priority between {ADMIT} and \
                 {INPUT} and accept those with the mark {own:#x}"
            );
        }
        (Hook::Input, _) => format!("meta mark and {own:#x} == {own:#x} accept"),
        (Hook::Forward, Mode::Ipvs) => "ct state established,related accept".to_owned(),
        _ => "ct status dnat accept".to_owned(),
    };
    let lasting = match filter.software() {
        Some("firewalld") => {
            "firewalld forgets the rule at a reload: make the zones accept this traffic, or disable \
             firewalld"
        }
        _ => "and add the rule to what creates the chain",
    };
    format!("Run: nft insert rule {} {accept} ({lasting})", path(chain))
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy => f.write_str("its policy is to drop"),
            Self::Rule { chain, rejects } => {
                let does = if *rejects { "rejects" } else { "drops" };
                write!(
                    f,
                    "a rule of chain {chain} {does} what no rule before it accepts"
                )
            }
        }
    }
}
